"""`POST /v1/jobs`."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from uuid import UUID

import psycopg
import pytest

from ledger.connection import Database
from producers.intake.views import JobView, ValidView
from tests.intake.commands import HANDLERS
from tests.intake.conftest import NOTE, Api, Worker, count


def test_a_202_is_a_job_and_its_outbox_row_and_its_first_event(api: Api, database: Database):
    answer = api.submit()

    assert answer.status_code == 202
    assert answer.headers["location"] == f"/v1/jobs/{answer.json()['id']}"
    assert answer.headers["retry-after"] == "1"
    assert (count(database, api), count(database, api, "outbox"), count(database, api, "events")) == (1, 1, 1)


def test_what_a_202_promises_is_on_disk(api: Api, database: Database):
    """By Postgres' own account of what it has flushed; somebody else may have written a bit of the log meanwhile."""
    flushed: list[bool] = []

    with database.plumbing() as tx:
        for _ in range(20):
            api.accepted()
            row = tx.execute("select pg_current_wal_flush_lsn() >= pg_current_wal_insert_lsn()").fetchone()
            assert row is not None
            flushed.append(row[0])

    assert sum(flushed) > 15


def test_the_receipt_is_the_job_as_it_is_read_afterwards(api: Api):
    body = {**NOTE, "priority": 7, "delay": 30.5, "max_failures": 2, "labels": {"source": "web"}}

    receipt = api.submit(body).json()

    assert receipt == api.get(f"/v1/jobs/{receipt['id']}").json()
    assert JobView.model_validate(receipt).state == "scheduled"
    assert UUID(receipt["id"]).version == 7
    assert (receipt["priority"], receipt["max_failures"], receipt["labels"]) == (7, 2, {"source": "web"})
    assert datetime.fromisoformat(receipt["due_at"]) - datetime.fromisoformat(receipt["submitted_at"]) == timedelta(seconds=30.5)


def test_the_example_of_every_command_is_accepted_as_it_stands(api: Api):
    commands = api.get("/v1/commands").json()["items"]

    answers = [api.submit({"command": command["name"], "payload": command["example"]}) for command in commands]

    assert {command["name"] for command in commands} == set(HANDLERS)
    assert [answer.status_code for answer in answers] == [202] * len(HANDLERS)


def test_what_is_stored_is_what_was_sent_without_defaults(api: Api, database: Database):
    job_id = api.accepted({"command": "tests.note", "payload": {"text": "Zoë 🚚", "price": 19.99}})

    with database.plumbing() as tx:
        row = tx.execute("select payload from haulier.jobs where id = %s", (job_id,)).fetchone()
    assert row == ({"text": "Zoë 🚚", "price": 19.99},)


def test_a_repeat_is_the_same_job_as_it_stands_now(api: Api, worker: Worker, database: Database):
    first = api.submit(key="cart-17")
    worker.complete(worker.begin(first.json()["id"]), '{"length": 5}')

    repeat = api.submit(key='"cart-17"')

    assert "idempotency-replayed" not in first.headers
    assert repeat.status_code == 202
    assert repeat.headers["idempotency-replayed"] == "true"
    assert repeat.headers["location"] == first.headers["location"]
    assert (repeat.json()["id"], repeat.json()["state"]) == (first.json()["id"], "succeeded")
    assert count(database, api) == 1


def test_the_order_of_members_is_no_other_body(api: Api):
    first = api.post("/v1/jobs", headers={"idempotency-key": "k", "content-type": "application/json"},
                     content='{"command": "tests.note", "payload": {"text": "a", "copies": 2}}')  # fmt: skip

    repeat = api.post("/v1/jobs", headers={"idempotency-key": "k", "content-type": "application/json"},
                      content='{"payload": {"copies":2,"text":"a"}, "command":"tests.note"}')  # fmt: skip

    assert first.json()["id"] == repeat.json()["id"]


def test_the_same_key_with_another_body_is_refused(api: Api, database: Database):
    api.submit(key="k")

    answer = api.submit({**NOTE, "priority": 1}, key="k")

    assert answer.status_code == 422
    assert answer.json()["type"] == "/problems/key-reused"
    assert count(database, api) == 1


def test_a_key_of_one_tenant_means_nothing_to_another(api: Api):
    mine = api.submit(key="k")

    theirs = api.submit(key="k", role="foreign")

    assert mine.json()["id"] != theirs.json()["id"]
    assert "idempotency-replayed" not in theirs.headers


def test_an_error_does_not_burn_the_key(api: Api):
    refused = api.submit({"command": "tests.note", "payload": {}}, key="k")

    accepted = api.submit(key="k")

    assert (refused.status_code, accepted.status_code) == (422, 202)
    assert "idempotency-replayed" not in accepted.headers


def test_a_hundred_threads_with_one_key_make_one_job(api: Api, database: Database):
    with ThreadPoolExecutor(100) as hands:
        answers = list(hands.map(lambda _: api.submit(key="one"), range(100)))

    assert {answer.status_code for answer in answers} == {202}
    assert len({answer.json()["id"] for answer in answers}) == 1
    assert sum("idempotency-replayed" not in answer.headers for answer in answers) == 1
    assert count(database, api) == 1


def test_submissions_that_arrive_together_are_all_answered_each_with_its_own(api: Api, database: Database):
    bodies = [{"command": "tests.note", "payload": {"text": str(n)}, "labels": {"n": str(n)}} for n in range(300)]

    with ThreadPoolExecutor(30) as hands:
        answers = list(hands.map(api.submit, bodies))

    assert [answer.json()["labels"]["n"] for answer in answers] == [str(n) for n in range(300)]
    assert count(database, api) == 300
    assert count(database, api, "outbox") == 300


def test_a_key_held_in_another_transaction_is_a_409_past_the_deadline_and_holds_nobody_else_up(api: Api, database: Database):
    api.submit(key="warm")
    with psycopg.connect(database.url) as other:
        other.execute(
            "insert into haulier.idempotency_keys (tenant_id, key, job_id, fingerprint)"
            " select id, 'held', gen_random_uuid(), '' from haulier.tenants where slug = %s",
            (api.slug,),
        )
        with ThreadPoolExecutor(8) as hands:
            held = [hands.submit(api.submit, NOTE, "held") for _ in range(6)]
            others = [api.submit(NOTE, f"free-{n}") for n in range(5)]
            done_before = any(each.done() for each in held)
            answers = [each.result() for each in held]
        other.rollback()

    assert {answer.status_code for answer in others} == {202}
    assert not done_before
    assert {(answer.status_code, answer.json()["type"]) for answer in answers} == {(409, "/problems/key-in-flight")}
    assert {answer.headers["retry-after"] for answer in answers} == {"1"}
    assert api.submit(NOTE, "held").status_code == 202


def test_a_key_held_for_a_moment_is_waited_for(api: Api, database: Database):
    with psycopg.connect(database.url) as other, ThreadPoolExecutor(1) as hands:
        other.execute(
            "insert into haulier.idempotency_keys (tenant_id, key, job_id, fingerprint)"
            " select id, 'held', gen_random_uuid(), '' from haulier.tenants where slug = %s",
            (api.slug,),
        )
        waiting = hands.submit(api.submit, NOTE, "held")
        with pytest.raises(TimeoutError):
            waiting.result(0.6)
        other.rollback()

        assert waiting.result(5).status_code == 202


@pytest.mark.parametrize(
    "key", ["", '""', "é", "k" * 256, '"unfinished', '"a"b"', "tab\tinside"], ids=["none", "empty", "é", "long", "open", "twice", "tab"]
)
def test_a_malformed_key_is_a_400(api: Api, key: str):
    headers = [(b"authorization", f"Bearer {api.keys['submitter']}".encode()), (b"idempotency-key", key.encode())]

    answer = api.client.post("/v1/jobs", json=NOTE, headers=headers)

    assert (answer.status_code, answer.json()["type"]) == (400, "/problems/malformed-request")


def test_two_keys_on_one_request_are_a_400(api: Api):
    headers = [("authorization", f"Bearer {api.keys['submitter']}"), ("idempotency-key", "a"), ("idempotency-key", "b")]

    answer = api.client.post("/v1/jobs", json=NOTE, headers=headers)

    assert answer.status_code == 400


def test_an_unknown_command_names_the_nearest(api: Api):
    answer = api.submit({"command": "tests.ntoe", "payload": {}})

    assert (answer.status_code, answer.json()["type"]) == (422, "/problems/unknown-command")
    assert answer.json()["nearest"] == "tests.note"
    assert "did you mean 'tests.note'?" in answer.json()["detail"]


def test_what_breaks_the_schema_is_named_by_pointer(api: Api):
    answer = api.submit({"command": "tests.pay", "payload": {"lines": [{"sku": 3, "quantity": "x"}], "token": "tok_", "a/b": 1}})

    assert (answer.status_code, answer.json()["type"]) == (422, "/problems/invalid")
    pointers = [error["pointer"] for error in answer.json()["errors"]]
    assert pointers == ["/payload/lines/0/sku", "/payload/lines/0/quantity", "/payload/a~1b"]


def in_days(days: float) -> str:
    return (datetime.now(UTC) + timedelta(days=days)).isoformat()


@pytest.mark.parametrize(
    ("fields", "pointer"),
    [
        ({"callback": "x"}, "/callback"),
        ({"queue": "x"}, "/queue"),
        ({"priority": 101}, "/priority"),
        ({"priority": True}, "/priority"),
        ({"priority": 1.5}, "/priority"),
        ({"delay": -1}, "/delay"),
        ({"delay": 1e12}, "/delay"),
        ({"delay": "30"}, "/delay"),
        ({"run_at": "tomorrow"}, "/run_at"),
        ({"run_at": "2026-12-01T09:00:00"}, "/run_at"),
        ({"run_at": 1800000000}, "/run_at"),
        ({"run_at": "0001-01-01T00:00:00+14:00"}, "/run_at"),
        ({"run_at": in_days(400)}, ""),
        ({"run_at": in_days(1), "delay": 1}, ""),
        ({"run_at": in_days(2), "expires_at": in_days(1)}, ""),
        ({"expires_at": "9999-12-31T23:59:59-14:00"}, "/expires_at"),
        ({"max_failures": 0}, "/max_failures"),
        ({"max_failures": 6}, "/max_failures"),
        ({"labels": {f"l{n}": "x" for n in range(21)}}, "/labels"),
        ({"labels": {"l": 1}}, "/labels/l"),
        ({"labels": {"l": "x" * 256}}, "/labels/l"),
        ({"payload": []}, "/payload"),
        ({"payload": None}, "/payload"),
        ({"command": 5}, "/command"),
    ],
)
def test_a_field_out_of_its_bounds_is_a_422_that_says_which(api: Api, fields: dict[str, object], pointer: str):
    answer = api.submit({**NOTE, **fields})

    assert (answer.status_code, answer.json()["type"]) == (422, "/problems/invalid")
    assert pointer in [error["pointer"] for error in answer.json()["errors"]]


@pytest.mark.parametrize(
    "fields",
    [
        {"run_at": in_days(365)},
        {"run_at": in_days(-1)},
        {"expires_at": in_days(-1)},
        {"delay": 0},
        {"labels": {}},
        {"priority": 4.0, "max_failures": 2.0},
    ],
)
def test_a_field_within_its_bounds_is_accepted(api: Api, fields: dict[str, object]):
    assert api.submit({**NOTE, **fields}).status_code == 202


def test_validate_only_says_what_would_be_submitted_and_stores_nothing(api: Api, database: Database):
    at = in_days(1)
    full = {**NOTE, "run_at": at, "expires_at": in_days(2), "priority": 3, "max_failures": 2, "labels": {"a": "b"}, "unique": {"key": "k"}}

    plain = api.post("/v1/jobs?validate_only=true", NOTE, headers={"idempotency-key": "k"})
    later = api.post("/v1/jobs?validate_only=true", full)
    after = [count(database, api, table) for table in ("jobs", "idempotency_keys", "unique_keys")]

    assert (plain.status_code, later.status_code) == (200, 200)
    assert ValidView.model_validate(plain.json()).state == "queued"
    shown = ValidView.model_validate(later.json())
    assert (shown.command, shown.queue, shown.state, shown.priority) == ("tests.note", "notes", "scheduled", 3)
    assert (shown.due_at, shown.max_failures, shown.labels) == (datetime.fromisoformat(at), 2, {"a": "b"})
    assert after == [0, 0, 0]
    assert api.submit({**NOTE, "priority": 9}, key="k").status_code == 202
    assert api.post("/v1/jobs?validate_only=false", NOTE).status_code == 202


def test_validate_only_refuses_what_a_submission_would_be_refused_for(api: Api, database: Database):
    wrong = [{"command": "tests.ntoe", "payload": {}}, {"command": "tests.note", "payload": {}}, {**NOTE, "priority": 101}, []]

    for body in wrong:
        tried, real = api.post("/v1/jobs?validate_only=true", body), api.post("/v1/jobs", body)

        assert tried.status_code == 422
        assert tried.json() == real.json()
    assert api.post("/v1/jobs?validate_only=true", NOTE, "viewer").status_code == 403
    assert api.post("/v1/jobs?validate_only=yes", NOTE).status_code == 400
    assert api.post("/v1/jobs?validate_only=true&validate_only=false", NOTE).status_code == 400
    assert count(database, api) == 0
