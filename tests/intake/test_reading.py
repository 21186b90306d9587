"""What clients see of their jobs, and how they cancel."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import pytest

from config.ids import first_id_at, uuid7
from ledger import jobs
from ledger.attempts import End
from ledger.connection import Database
from ledger.jobs import Submission
from producers.intake.views import Attempts, Events, Jobs, JobView
from tests.intake.conftest import NOTE, PAY, Api, Worker


def test_a_poll_with_the_etag_is_a_304_until_something_changes(api: Api, worker: Worker):
    job_id = api.accepted()
    first = api.get(f"/v1/jobs/{job_id}")
    tag = first.headers["etag"]

    same = api.get(f"/v1/jobs/{job_id}", headers={"if-none-match": f'"other", W/{tag}'})
    lease = worker.begin(job_id)
    changed = api.get(f"/v1/jobs/{job_id}", headers={"if-none-match": tag})
    worker.complete(lease, '{"length": 5}')
    final = api.get(f"/v1/jobs/{job_id}", headers={"if-none-match": changed.headers["etag"]})

    assert not tag.startswith("W/")
    assert (same.status_code, same.content, same.headers["etag"]) == (304, b"", tag)
    assert same.headers["retry-after"] == first.headers["retry-after"] == "1"
    assert (changed.status_code, changed.json()["state"]) == (200, "running")
    assert (final.status_code, final.json()["state"]) == (200, "succeeded")
    assert "retry-after" not in final.headers
    assert final.headers["cache-control"] == "private, no-cache"


def test_a_change_of_the_family_changes_the_etag(api: Api, database: Database, worker: Worker):
    job_id = api.accepted()
    worker.complete(worker.begin(job_id), "null")
    before = api.get(f"/v1/jobs/{job_id}")

    child = add_child(database, job_id)
    after = api.get(f"/v1/jobs/{job_id}", headers={"if-none-match": before.headers["etag"]})
    family = api.get(f"/v1/jobs/{child}/family")

    assert before.json()["family"] == {"state": "succeeded", "counts": {"succeeded": 1}}
    assert after.json()["family"] == {"state": "active", "counts": {"succeeded": 1, "queued": 1}}
    assert [job["id"] for job in api.get(f"/v1/jobs/{job_id}/family").json()["items"]] == [job_id, str(child)]
    assert [(job["id"], job["parent_id"], job["root_id"]) for job in family.json()["items"]] == [(str(child), job_id, job_id)]


def add_child(database: Database, parent: str) -> UUID:
    with database.plumbing() as tx:
        row = tx.execute("select tenant_id from haulier.jobs where id = %s", (parent,)).fetchone()
        assert row
        child = Submission(uuid7(), row[0], "tests.note", "notes", b'{"text": "x"}', 5, parent_id=UUID(parent), root_id=UUID(parent))
        jobs.submit(tx, [child])
    return child.id


def test_results_payloads_and_tracebacks_are_for_keys_with_payloads(api: Api, worker: Worker):
    done, dead = api.accepted(), api.accepted(PAY)
    worker.complete(worker.begin(done), '{"length": 5}')
    worker.kill(dead)

    plain, seeing = api.get(f"/v1/jobs/{done}").json(), api.get(f"/v1/jobs/{done}", "seeing").json()
    [hidden], [shown] = (api.get(f"/v1/jobs/{dead}/attempts", role).json()["items"] for role in ("viewer", "seeing"))

    assert (plain["result"], "payload" in plain) == (None, False)
    assert (seeing["result"], seeing["payload"]) == ({"length": 5}, {"text": "hello"})
    assert hidden["error"] == {"code": "broken", "type": "ValueError", "message": "it Broke", "traceback": None}
    assert shown["error"]["traceback"] == "Trace of ValueError"
    assert Attempts.model_validate(api.get(f"/v1/jobs/{dead}/attempts").json())


def test_a_secret_field_is_masked_for_everybody(api: Api):
    shown = api.get(f"/v1/jobs/{api.accepted(PAY)}", "seeing")

    assert shown.json()["payload"] == {**PAY["payload"], "token": "********"}
    assert "tok_secret" not in shown.text


def test_a_timeline_is_gapless_and_says_who(api: Api, worker: Worker):
    job_id = api.accepted()
    worker.kill(job_id)

    events = api.get(f"/v1/jobs/{job_id}/timeline").json()

    assert Events.model_validate(events)
    assert [(event["seq"], event["kind"], event["state"]) for event in events["items"]] == [
        (1, "accepted", "queued"),
        (2, "started", "running"),
        (3, "buried", "dead"),
    ]
    assert events["items"][0]["who"] == f"key:{api.keys['submitter'].split('_')[1]}"


def test_a_list_filters_by_state_command_label_and_time(api: Api, worker: Worker):
    running = api.accepted({**NOTE, "labels": {"source": "web", "n": "1"}})
    worker.begin(running)
    queued = api.accepted({**NOTE, "labels": {"source": "web"}})
    paid = api.accepted(PAY)
    middle = api.get(f"/v1/jobs/{queued}").json()["submitted_at"]

    def listed(query: str) -> list[str]:
        answer = api.get(f"/v1/jobs?{query}")
        assert answer.status_code == 200, answer.text
        return [job["id"] for job in Jobs.model_validate(answer.json()).model_dump(mode="json")["items"]]

    assert listed("") == [paid, queued, running]
    assert listed("state=running") == [running]
    assert listed("state=running&state=queued") == [paid, queued, running]
    assert listed("state=succeeded") == []
    assert listed("command=tests.pay") == [paid]
    assert listed("label.source=web") == [queued, running]
    assert listed("label.source=web&label.n=1") == [running]
    assert listed(f"submitted_after={middle}") == [paid]
    assert listed(f"submitted_before={middle}") == [running]
    assert listed("submitted_after=2000-01-01T00:00:00Z&submitted_before=2199-12-31T23:59:59Z") == [paid, queued, running]
    assert listed("submitted_after=2199-12-31T23:59:59Z") == listed("submitted_before=2000-01-01T00:00:00Z") == []


def test_a_list_by_time_has_a_follow_up_whose_id_was_made_early_in_a_long_run(api: Api, database: Database):
    """An id is made when a handler asks for its follow-up, which is submitted when that handler has ended."""
    now = datetime.now(UTC)
    early = first_id_at((now - timedelta(hours=2)).timestamp())
    with database.plumbing() as tx:
        [(tenant,)] = tx.execute("select id from haulier.tenants where slug = %s", (api.slug,)).fetchall()
        jobs.submit(tx, [Submission(early, tenant, "tests.note", "notes", b"{}", 5)])

    found = api.get("/v1/jobs", params={"submitted_after": (now - timedelta(minutes=1)).isoformat()}).json()["items"]

    assert [job["id"] for job in found] == [str(early)]


def test_up_to_500_jobs_are_read_at_once_in_the_order_asked_for(api: Api):
    a, b = api.accepted(), api.accepted()
    theirs = api.accepted(role="foreign")

    answer = api.get(f"/v1/jobs?ids={b},{theirs},{uuid4()},{a},{b}")
    too_many = api.get("/v1/jobs?ids=" + ",".join([a] * 501))
    none = api.get("/v1/jobs?ids=x")
    most = api.get("/v1/jobs?ids=" + ",".join(str(uuid4()) for _ in range(499)) + f",{a}")

    assert [job["id"] for job in answer.json()["items"]] == [b, a]
    assert [job["id"] for job in most.json()["items"]] == [a]
    assert (too_many.status_code, none.status_code) == (400, 400)


def test_pages_hold_everything_once_while_more_comes_in(api: Api):
    there = [api.accepted() for _ in range(7)]

    seen: list[str] = []
    cursor = ""
    while cursor is not None:
        page = api.get(f"/v1/jobs?limit=2{f'&cursor={cursor}' if cursor else ''}").json()
        assert len(page["items"]) <= 2
        seen += [job["id"] for job in page["items"]]
        cursor = page["next_cursor"]
        api.accepted()

    assert seen == sorted(there, reverse=True)


@pytest.mark.parametrize("cursor", ["x", "", "AAAA", "A" * 32, "é", "A" * 300])
def test_a_cursor_that_is_none_is_a_400(api: Api, cursor: str):
    assert api.get("/v1/jobs", params={"cursor": cursor}).status_code == 400


def test_a_cursor_of_another_list_is_a_400(api: Api):
    for _ in range(3):
        api.accepted()
    cursor = api.get("/v1/jobs?limit=1").json()["next_cursor"]

    assert api.get(f"/v1/jobs?limit=2&cursor={cursor}").status_code == 200
    assert api.get(f"/v1/jobs?state=queued&cursor={cursor}").status_code == 400


@pytest.mark.parametrize(
    "query", ["limit=0", "limit=501", "limit=x", "state=done", "submitted_after=yesterday", "colour=red", "label=x", "submitted_after=2026-01-01T00:00:00"]
)  # fmt: skip
def test_a_bad_query_parameter_is_a_400(api: Api, query: str):
    answer = api.get(f"/v1/jobs?{query}")

    assert (answer.status_code, answer.json()["type"]) == (400, "/problems/malformed-request")
    assert query.partition("=")[0] in answer.json()["detail"]


def test_what_is_queued_is_cancelled_at_once(api: Api):
    job_id = api.accepted({**NOTE, "delay": 60})

    cancelled = api.post(f"/v1/jobs/{job_id}/cancel")
    again = api.post(f"/v1/jobs/{job_id}/cancel")

    assert (cancelled.status_code, cancelled.json()["state"], cancelled.json()["reason"]) == (200, "cancelled", "requested")
    assert (again.status_code, again.json()["type"]) == (409, "/problems/wrong-state")
    assert JobView.model_validate(cancelled.json())


def test_what_runs_is_asked_to_stop(api: Api, worker: Worker):
    job_id = api.accepted()
    lease = worker.begin(job_id)

    asked, again = (api.post(f"/v1/jobs/{job_id}/cancel", role="operator") for _ in range(2))
    worker.complete(lease, "null")
    late = api.post(f"/v1/jobs/{job_id}/cancel")

    assert [(answer.status_code, answer.json()["state"]) for answer in (asked, again)] == [(202, "running")] * 2
    assert asked.json()["cancel_requested_at"] is not None
    assert late.status_code == 409


def test_a_retry_after_says_when_a_scheduled_job_is_due(api: Api):
    soon, late = (api.submit({**NOTE, "delay": delay}).headers["retry-after"] for delay in (30, 3600))

    assert 25 <= int(soon) <= 30
    assert late == "60"


def test_a_backoff_shows_when_it_ends(api: Api, worker: Worker):
    job_id = api.accepted()
    lease = worker.begin(job_id)
    error = '{"code": "failed", "type": "OSError", "message": "no", "traceback": ""}'
    with worker.database.plumbing() as tx:
        from ledger import attempts

        attempts.settle(tx, [End(lease.job_id, 1, worker.id, "scheduled", "failed", blame=True, wait=40, error=error)])

    job = api.get(f"/v1/jobs/{job_id}").json()

    assert (job["state"], job["attempt"], job["failures"]) == ("scheduled", 1, 1)
    assert job["error"] == {"code": "failed", "message": "no", "attempt": 1}
    assert datetime.fromisoformat(job["due_at"]) - datetime.fromisoformat(job["started_at"]) > timedelta(seconds=39)


@pytest.mark.parametrize("path", ["", "/attempts", "/timeline", "/family"])
@pytest.mark.parametrize("name", ["no-id", "00000000-0000-0000-0000-000000000000"])
def test_what_is_not_there_is_a_404(api: Api, name: str, path: str):
    assert api.get(f"/v1/jobs/{name}{path}").status_code == 404
