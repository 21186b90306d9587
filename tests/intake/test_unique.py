"""`unique`: of the jobs that share a key, one holds it."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import UUID

import psycopg
import pytest

import producers
from config.ids import uuid7
from ledger import unique
from ledger.connection import Database
from ledger.jobs import Submission, Unique
from producers.intake.views import JobView
from tests.intake.commands import HANDLERS, Note
from tests.intake.conftest import NOTE, PAY, Api, Worker, archive_all, count, eventually


def body(on_conflict: str = "return", hold: object = "active", key: str = "cart-17", **fields: Any) -> dict[str, Any]:
    return {**NOTE, "unique": {"key": key, "while": hold, "on_conflict": on_conflict}, **fields}


def state(api: Api, job_id: str) -> tuple[str, str | None]:
    job = api.get(f"/v1/jobs/{job_id}").json()
    return job["state"], job["reason"]


def test_a_held_key_answers_with_its_holder_as_it_stands(api: Api, worker: Worker, database: Database):
    first = api.submit({**NOTE, "unique": {"key": "cart-17"}})
    worker.begin(first.json()["id"])

    second = api.submit(body(priority=3))

    assert (first.status_code, "haulier-unique" in first.headers) == (202, False)
    assert (second.status_code, second.headers["haulier-unique"]) == (202, "held")
    assert second.headers["location"] == first.headers["location"]
    assert JobView.model_validate(second.json()).state == "running"
    assert second.json()["priority"] == 0
    assert count(database, api) == 1


def test_a_rejected_one_names_the_holder_and_burns_no_key(api: Api, worker: Worker, database: Database):
    holder = api.submit(body()).json()["id"]

    refused = api.submit(body("reject"), key="k")
    worker.complete(worker.begin(holder), "null")
    accepted = api.submit(body("reject"), key="k")

    assert (refused.status_code, refused.json()["type"], refused.json()["job_id"]) == (409, "/problems/unique-held", holder)
    assert (accepted.status_code, accepted.json()["id"] != holder) == (202, True)
    assert count(database, api, "idempotency_keys") == 1


def test_the_key_is_the_tenant_s_and_the_command_s(api: Api):
    jobs = {
        api.submit(body("reject")).json()["id"],
        api.submit(body("reject"), role="foreign").json()["id"],
        api.submit({**PAY, "unique": {"key": "cart-17", "on_conflict": "reject"}}).json()["id"],
        api.submit(body("reject", key="cart-18")).json()["id"],
    }

    assert len(jobs) == 4


def test_one_that_waits_is_replaced_and_cancelled(api: Api, database: Database):
    queued = api.submit(body()).json()["id"]
    scheduled = api.submit(body("replace", delay=60)).json()["id"]

    last = api.submit(body("replace"))

    assert (last.status_code, last.json()["state"]) == (202, "queued")
    assert state(api, queued) == state(api, scheduled) == ("cancelled", "replaced")
    assert count(database, api, "outbox") == 1
    told = api.get(f"/v1/jobs/{scheduled}/timeline").json()["items"][-1]
    assert (told["kind"], told["data"], told["who"][:4]) == ("cancelled", {"replaced_by": last.json()["id"]}, "key:")


def test_one_that_runs_is_not_touched_and_one_waits_behind_it(api: Api, worker: Worker):
    runs = api.submit(body()).json()["id"]
    lease = worker.begin(runs)

    waits = api.submit(body("replace")).json()["id"]
    latest = api.submit(body("replace")).json()["id"]
    worker.complete(lease, "null")

    assert state(api, runs) == ("succeeded", None)
    assert state(api, waits) == ("cancelled", "replaced")
    assert state(api, latest) == ("queued", None)
    assert api.submit(body()).json()["id"] == latest


def test_for_ever_outlives_the_job_and_its_place(api: Api, worker: Worker, database: Database):
    holder = api.submit(body(hold="forever")).json()["id"]
    worker.complete(worker.begin(holder), '{"length": 5}')
    archive_all(database)

    again = api.submit(body())
    refused = api.submit(body("reject"))

    assert (again.json()["id"], again.json()["state"], again.headers["haulier-unique"]) == (holder, "succeeded", "held")
    assert refused.status_code == 409


def test_what_was_archived_holds_nothing_and_leaves_no_key(api: Api, worker: Worker, database: Database):
    holder = api.submit(body()).json()["id"]
    worker.complete(worker.begin(holder), "null")
    archive_all(database)

    assert count(database, api, "unique_keys") == 0
    assert api.submit(body("reject")).status_code == 202


def test_seconds_hold_whatever_the_job_does_and_then_no_more(api: Api, worker: Worker, database: Database):
    holder = api.submit(body(hold=3600)).json()["id"]
    worker.complete(worker.begin(holder), "null")
    held = api.submit(body("reject"))
    with database.plumbing() as tx:
        tx.execute("update haulier.unique_keys set held_until = now() - interval '1 second' where job_id = %s", (holder,))

    free = api.submit(body("reject", hold=0.001))
    eventually(lambda: _forget(database, api) == 0)

    assert (held.status_code, free.status_code) == (409, 202)


def _forget(database: Database, api: Api) -> int:
    with database.plumbing() as tx:
        unique.forget(tx)
    return count(database, api, "unique_keys")


def test_the_same_idempotency_key_is_the_same_job_whoever_holds_the_unique_one(api: Api, worker: Worker):
    first = api.submit(body("reject"), key="a").json()["id"]
    itself = api.submit(body("reject"), key="a")
    met = api.submit(body(), key="b")
    worker.complete(worker.begin(first), "null")
    other = api.submit(body()).json()["id"]

    again = api.submit(body(), key="b")

    assert (itself.status_code, itself.json()["id"], itself.headers["idempotency-replayed"]) == (202, first, "true")
    assert met.json()["id"] == first
    assert other != first
    assert (again.json()["id"], again.headers["idempotency-replayed"], "haulier-unique" in again.headers) == (first, "true", False)
    assert api.submit(body(priority=1), key="b").json()["type"] == "/problems/key-reused"


@pytest.mark.parametrize("on_conflict", ["return", "reject", "replace"])
def test_a_hundred_threads_with_one_unique_key_leave_one_job(api: Api, database: Database, on_conflict: str):
    with ThreadPoolExecutor(100) as hands:
        answers = list(hands.map(lambda n: api.submit(body(on_conflict, priority=n % 50), f"k{n}"), range(100)))

    expected = {"return": {202}, "reject": {202, 409}, "replace": {202}}
    assert {answer.status_code for answer in answers} == expected[on_conflict]
    assert count(database, api, "outbox") == 1
    assert count(database, api) == (100 if on_conflict == "replace" else 1)
    if on_conflict == "return":
        assert len({answer.json()["id"] for answer in answers}) == 1
        assert sum("haulier-unique" not in answer.headers for answer in answers) == 1


def test_a_holder_that_commits_while_the_key_is_waited_for_is_seen(api: Api, database: Database):
    with database.plumbing() as tx:
        [[tenant]] = tx.execute("select id from haulier.tenants where slug = %s", (api.slug,)).fetchall()
    mine, theirs = (Submission(uuid7(), tenant, "tests.note", "notes", b"{}", 3, unique=Unique("k")) for _ in range(2))
    with psycopg.connect(database.url) as one, psycopg.connect(database.url) as two, ThreadPoolExecutor(1) as hands:
        unique.submit(one, [mine])
        waiting = hands.submit(unique.submit, two, [theirs])
        with database.plumbing() as tx:
            blocked = "select true from pg_stat_activity where wait_event_type = 'Lock' and pid = %s"
            eventually(lambda: tx.execute(blocked, (two.info.backend_pid,)).fetchone())
        one.commit()
        outcome = waiting.result(10)
        two.commit()

    assert outcome.new == {}
    assert outcome.held[theirs.id].holder == mine.id


def test_a_commit_of_unknown_outcome_is_not_repeated_over_the_one_that_took_its_place(api: Api, database: Database):
    with database.plumbing() as tx:
        [[tenant]] = tx.execute("select id from haulier.tenants where slug = %s", (api.slug,)).fetchall()
        mine, theirs = (
            Submission(uuid7(), tenant, "tests.note", "notes", b"{}", 3, unique=Unique("k", on_conflict="replace")) for _ in range(2)
        )
        for wish in (mine, theirs, mine):
            with tx.transaction():
                outcome = unique.submit(tx, [wish])

    assert (outcome.new, outcome.held) == ({}, {})
    assert (state(api, str(mine.id)), state(api, str(theirs.id))) == (("cancelled", "replaced"), ("queued", None))


def test_those_of_one_set_are_decided_each_against_the_one_before(api: Api, database: Database):
    with database.plumbing() as tx:
        [[tenant]] = tx.execute("select id from haulier.tenants where slug = %s", (api.slug,)).fetchall()
        ways: list[Any] = ["return", "return", "replace", "reject", "replace", "return"]
        wishes = [Submission(uuid7(), tenant, "tests.note", "notes", b"{}", 3, unique=Unique("k", on_conflict=way)) for way in ways]
        plain = Submission(uuid7(), tenant, "tests.note", "notes", b"{}", 3)
        with tx.transaction():
            outcome = unique.submit(tx, [*wishes, plain])
        holder = tx.execute("select job_id from haulier.unique_keys where tenant_id = %s", (tenant,)).fetchall()

    first, second, third, fourth, fifth, sixth = (wish.id for wish in wishes)
    assert set(outcome.new) == {first, third, fifth, plain.id}
    assert {job: (held.holder, held.refused) for job, held in outcome.held.items()} == {
        second: (first, False),
        fourth: (third, True),
        sixth: (fifth, False),
    }
    assert [state(api, str(job))[0] for job in (first, third, fifth)] == ["cancelled", "cancelled", "queued"]
    assert holder == [(fifth,)]


@pytest.mark.parametrize("displaced", ["dead", "running"])
def test_a_dead_one_whose_key_another_has_taken_is_replayed_only_when_it_is_free(api: Api, worker: Worker, displaced: str):
    dead = api.submit(body()).json()["id"]
    lease = worker.begin(dead)
    if displaced == "dead":
        worker.bury(lease)
    other = api.submit(body("replace")).json()["id"]
    if displaced == "running":
        worker.bury(lease)

    refused = api.post(f"/v1/dead-letters/{dead}/replay", {"reason": "again"}, "operator")
    worker.complete(worker.begin(other), "null")
    replayed = api.post(f"/v1/dead-letters/{dead}/replay", {"reason": "again"}, "operator")

    assert (refused.status_code, refused.json()["type"], refused.json()["job_id"]) == (409, "/problems/unique-held", other)
    assert replayed.status_code == 202
    assert api.submit(body()).json()["id"] == dead


def test_a_dead_one_that_nobody_displaced_is_replayed_and_holds_again(api: Api, worker: Worker):
    dead = api.submit(body()).json()["id"]
    worker.kill(dead)

    replayed = api.post(f"/v1/dead-letters/{dead}/replay", {"reason": "again"}, "operator")

    assert replayed.status_code == 202
    assert api.submit(body()).json()["id"] == dead


def test_a_replay_and_a_submission_that_meet_leave_one_holder(api: Api, worker: Worker):
    for _ in range(10):
        dead = api.submit(body()).json()["id"]
        lease = worker.kill(dead)
        with ThreadPoolExecutor(2) as hands:
            replay = hands.submit(api.post, f"/v1/dead-letters/{dead}/replay", {"reason": "again"}, "operator")
            submitted = hands.submit(api.submit, body())
            replayed, answer = replay.result(), submitted.result()

        assert (replayed.status_code, answer.json()["id"] == dead) in {(202, True), (409, False)}
        ours = answer.json()["id"]
        worker.complete(worker.begin(ours, 1 if ours != dead else lease.attempt + 1), "null")


def test_a_key_held_in_another_transaction_holds_nobody_else_up(api: Api, database: Database):
    with psycopg.connect(database.url) as caller, ThreadPoolExecutor(4) as hands:
        held = producers.submit(caller, Note(text="a"), tenant=api.slug, unique=Unique("cart-17"), handlers=HANDLERS)
        waiting = [hands.submit(api.submit, body()) for _ in range(4)]
        others = [api.submit() for _ in range(5)]
        done = any(each.done() for each in waiting)
        caller.commit()
        answers = [each.result(10) for each in waiting]

    assert {answer.status_code for answer in others} == {202}
    assert not done
    assert {answer.json()["id"] for answer in answers} == {str(held)}


def test_in_a_caller_s_transaction_it_is_the_same(api: Api, database: Database):
    with psycopg.connect(database.url, autocommit=True) as connection:

        def submit(way: Any, key: str | None = None, hold: float | None = None) -> UUID:
            wish = Unique("k", hold, way)
            return producers.submit(connection, Note(text="hello"), tenant=api.slug, unique=wish, key=key, handlers=HANDLERS)

        first = submit("return", "i", 60.0)
        assert submit("return") == first
        assert submit("return", "i", 60.0) == first
        with pytest.raises(producers.HeldError, match=f"held by job {first}"):
            submit("reject")
        second = submit("replace")
        with pytest.raises(producers.KeyReusedError):
            submit("replace", "i")

    with psycopg.connect(database.url) as connection:
        connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        with pytest.raises(ValueError, match="at READ COMMITTED, this one is at REPEATABLE READ; nothing was submitted"):
            producers.submit(connection, Note(text="hello"), tenant=api.slug, unique=Unique("k"), handlers=HANDLERS)

    over_http = api.submit({**NOTE, "unique": {"key": "k", "while": 60.0}}, key="i")
    assert over_http.json()["id"] == str(first)
    assert state(api, str(first)) == ("cancelled", "replaced")
    assert state(api, str(second)) == ("queued", None)


@pytest.mark.parametrize(
    ("fields", "pointer"),
    [
        ({}, "/unique/key"),
        ({"key": ""}, "/unique/key"),
        ({"key": "k" * 256}, "/unique/key"),
        ({"key": 1}, "/unique/key"),
        ({"key": "k", "while": "queued"}, "/unique/while"),
        ({"key": "k", "while": 0}, "/unique/while"),
        ({"key": "k", "while": -1}, "/unique/while"),
        ({"key": "k", "while": True}, "/unique/while"),
        ({"key": "k", "while": 1e12}, "/unique/while"),
        ({"key": "k", "while": None}, "/unique/while"),
        ({"key": "k", "while": []}, "/unique/while"),
        ({"key": "k", "on_conflict": "ignore"}, "/unique/on_conflict"),
        ({"key": "k", "hold": "active"}, "/unique/hold"),
    ],
)
def test_what_is_out_of_bounds_is_a_422_that_says_where(api: Api, fields: dict[str, object], pointer: str):
    answer = api.submit({**NOTE, "unique": fields})

    assert (answer.status_code, answer.json()["type"]) == (422, "/problems/invalid")
    assert [error["pointer"] for error in answer.json()["errors"]] == [pointer]


@pytest.mark.parametrize("hold", [1, 0.5, 366 * 86400, "active", "forever"])
@pytest.mark.parametrize("key", ["k" * 255, "\U0001f69a" * 255, "it's"])
def test_what_is_within_bounds_is_accepted(api: Api, hold: object, key: str):
    assert api.submit(body(hold=hold, key=key)).status_code == 202
