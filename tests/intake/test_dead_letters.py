"""Dead letters: listed, shown, replayed, resolved."""

from __future__ import annotations

from uuid import UUID

import pytest

from ledger import calls
from ledger.connection import Database
from producers.intake.views import DeadLetterView, Jobs, ReplayedView
from tests.intake.conftest import NOTE, PAY, Api, Worker, count


def test_dead_letters_are_listed_by_command_code_message_and_time(api: Api, worker: Worker):
    note, pay = api.accepted(), api.accepted(PAY)
    worker.kill(note)
    between = api.get(f"/v1/jobs/{note}").json()["finished_at"]
    worker.bury(worker.begin(pay), error='{"code": "declined", "type": "CardDeclined", "message": "No 100% cover", "traceback": ""}')
    api.accepted()

    def listed(query: str) -> list[str]:
        answer = api.get(f"/v1/dead-letters?{query}")
        assert answer.status_code == 200, answer.text
        return [str(job.id) for job in Jobs.model_validate(answer.json()).items]

    assert listed("") == [pay, note]
    assert listed("command=tests.note") == [note]
    assert listed("code=declined") == [pay]
    assert listed("message~=100%25") == [pay]
    assert listed("message~=BROKE") == [note]
    assert listed(f"died_after={between}") == [pay]
    assert api.get("/v1/dead-letters?limit=1").json()["next_cursor"] is not None


def test_a_dead_letter_shows_its_attempts_and_what_is_unknown(api: Api, worker: Worker):
    job_id, alive = api.accepted(), api.accepted()
    worker.kill(job_id, "exhausted")

    shown = api.get(f"/v1/dead-letters/{job_id}")

    letter = DeadLetterView.model_validate(shown.json())
    assert (letter.state, letter.reason, len(letter.attempts), letter.unknown_steps) == ("dead", "exhausted", 1, [])
    assert letter.links["replay"] == f"/v1/dead-letters/{job_id}/replay"
    assert api.get(f"/v1/dead-letters/{alive}").status_code == 404


def test_a_replay_queues_the_same_job_again_and_says_who_and_why(api: Api, worker: Worker, database: Database):
    job_id = api.accepted()
    worker.kill(job_id)

    replayed = api.post(f"/v1/dead-letters/{job_id}/replay", {"reason": "the shop is back"}, "operator")
    again = api.post(f"/v1/dead-letters/{job_id}/replay", {"reason": "once more"}, "operator")

    assert (replayed.status_code, replayed.json()["state"], replayed.json()["failures"]) == (202, "queued", 0)
    assert replayed.headers["location"] == f"/v1/jobs/{job_id}"
    assert ReplayedView.model_validate(replayed.json()).expiry_dropped is False
    assert (again.status_code, again.json()["type"]) == (409, "/problems/wrong-state")
    event = api.get(f"/v1/jobs/{job_id}/timeline").json()["items"][-1]
    assert (event["kind"], event["data"]) == ("replayed", {"reason": "the shop is back"})
    assert event["who"] == f"key:{api.keys['operator'].split('_')[1]}"
    assert count(database, api, "outbox") == 1


def test_a_replay_may_edit_the_payload_which_is_checked_and_the_original_kept(api: Api, worker: Worker):
    job_id = api.accepted(PAY)
    worker.kill(job_id)
    shown = api.get(f"/v1/jobs/{job_id}", "seeing").json()["payload"]

    wrong = api.post(f"/v1/dead-letters/{job_id}/replay", {"payload": {"lines": 1}, "reason": "r"}, "operator")
    edited = {**shown, "lines": [{"sku": "CUP", "quantity": 2}]}
    right = api.post(f"/v1/dead-letters/{job_id}/replay", {"payload": edited, "reason": "r"}, "seeing")

    assert wrong.status_code == 422
    assert [error["pointer"] for error in wrong.json()["errors"]] == ["/payload/lines", "/payload/token"]
    assert right.json()["payload"] == edited
    assert right.json()["original_payload"] == shown


def test_a_secret_sent_back_masked_stays_as_it_was(api: Api, worker: Worker, database: Database):
    job_id = api.accepted(PAY)
    worker.kill(job_id)

    edited = {"lines": [], "token": "********"}
    answer = api.post(f"/v1/dead-letters/{job_id}/replay", {"payload": edited, "reason": "r"}, "operator")

    assert answer.status_code == 202
    with database.plumbing() as tx:
        row = tx.execute("select payload from haulier.jobs where id = %s", (job_id,)).fetchone()
    assert row == ({"lines": [], "token": "tok_secret"},)


def test_a_replay_past_its_expiry_drops_it_and_says_so(api: Api, worker: Worker):
    job_id = api.accepted({**NOTE, "expires_at": "2099-01-01T00:00:00Z"})
    worker.kill(job_id)

    answer = api.post(f"/v1/dead-letters/{job_id}/replay", {"reason": "r"}, "operator")

    assert answer.json()["expiry_dropped"] is True


@pytest.mark.parametrize("outcome", ["happened", "did_not_happen"])
def test_a_call_of_unknown_outcome_is_resolved_before_the_job_goes_on(api: Api, worker: Worker, database: Database, outcome: str):
    job_id = api.accepted()
    call(database, worker, job_id, "charge")

    refused = api.post(f"/v1/dead-letters/{job_id}/replay", {"reason": "r"}, "operator")
    unknown_step = resolve(api, job_id, step="ship", outcome=outcome)
    resolved = resolve(api, job_id, outcome=outcome, result={"id": 7} if outcome == "happened" else None)
    again = resolve(api, job_id, outcome=outcome)

    assert (refused.status_code, refused.json()["type"], refused.json()["steps"]) == (409, "/problems/unresolved-call", ["charge"])
    assert unknown_step.status_code == 404
    assert (resolved.status_code, resolved.json()["state"]) == (202, "queued")
    assert again.status_code == 409
    kinds = [event["kind"] for event in api.get(f"/v1/jobs/{job_id}/timeline").json()["items"]]
    assert kinds == ["accepted", "started", "buried", "resolved", "replayed"]
    with database.plumbing() as tx:
        found = calls.find(tx, UUID(job_id), "charge", 0)
    assert found
    assert (found.state, found.result) == (("done", {"id": 7}) if outcome == "happened" else ("refused", None))


def test_a_job_with_two_unknown_calls_waits_for_both(api: Api, worker: Worker, database: Database):
    job_id = api.accepted()
    call(database, worker, job_id, "charge", "ship")

    first = resolve(api, job_id, outcome="happened")
    second = resolve(api, job_id, step="ship", outcome="happened")

    assert (first.status_code, first.json()["state"], first.json()["unknown_steps"]) == (200, "dead", ["ship"])
    assert (second.status_code, second.json()["state"]) == (202, "queued")


def call(database: Database, worker: Worker, job_id: str, *steps: str) -> None:
    """Calls whose outcome nobody knows, and the job dead of it."""
    lease = worker.begin(job_id)
    with database.plumbing() as tx:
        for step in steps:
            calls.intend(tx, lease, step, 0, honours_key=False)
    worker.bury(lease, "needs_review")


def resolve(api: Api, job_id: str, step: str = "charge", **fields: object):
    return api.post(f"/v1/dead-letters/{job_id}/resolve", {"step": step, "reason": "asked the bank", **fields}, "operator")


@pytest.mark.parametrize(
    "body", [{}, {"reason": ""}, {"reason": 1}, {"reason": "r", "payload": []}, {"reason": "r", "more": 1}, [], "x"], ids=str
)
def test_a_replay_with_a_wrong_body_is_a_422(api: Api, worker: Worker, body: object):
    job_id = api.accepted()
    worker.kill(job_id)

    assert api.post(f"/v1/dead-letters/{job_id}/replay", body, "operator").status_code == 422


def test_what_did_not_happen_has_no_result(api: Api):
    assert resolve(api, api.accepted(), outcome="did_not_happen", result=1).status_code == 422
    assert resolve(api, api.accepted(), outcome="perhaps").status_code == 422
