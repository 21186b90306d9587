"""`unique` in SQL's haulier.submit: decided as over HTTP, in the caller's own transaction."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from typing import Any
from uuid import UUID

import psycopg
import pytest

from ledger import archive, attempts, dead_letters, unique
from ledger.attempts import End, Lease
from ledger.jobs import Unique
from tests.intake.conftest import eventually
from tests.ledger.conftest import Books

pytestmark = pytest.mark.every_postgres

Tx = psycopg.Connection[Any]
SUBMIT = "select haulier.submit('test.run', '{\"n\": 1}', %s)"


def submit(tx: Tx, on_conflict: str = "return", hold: object = "active", key: str = "cart-17", **options: Any) -> UUID:
    asked = {"tenant": "acme", "unique": {"key": key, "while": hold, "on_conflict": on_conflict}, **options}
    row = tx.execute(SUBMIT, (json.dumps(asked),)).fetchone()
    assert row is not None
    return row[0]


def succeed(books: Books, job: UUID) -> None:
    books.begin(job)
    attempts.complete(books.tx, Lease(job, 1, books.worker), None)


@pytest.fixture
def other(books: Books) -> Iterator[Tx]:
    """Another caller's connection, in a transaction of its own."""
    with psycopg.connect(books.database.url) as tx:
        yield tx


def test_a_held_key_is_answered_refused_or_taken(books: Books):
    first = submit(books.tx)

    same = submit(books.tx)
    with pytest.raises(psycopg.errors.UniqueViolation, match=f"the unique key 'cart-17' is held by job {first}; nothing was") as refused:
        submit(books.tx, "reject")
    third = submit(books.tx, "replace", delay=60)

    assert same == first != third
    assert (refused.value.diag.constraint_name, refused.value.diag.message_detail) == ("a_unique_key_has_one_holder", str(first))
    assert (books.state(first), books.state(third)) == ("cancelled", "scheduled")
    assert books.kinds(first) == ["accepted", "cancelled"]
    assert books.value("select data->>'replaced_by' from haulier.events where kind = 'cancelled'") == str(third)
    assert books.value("select reason from haulier.jobs where id = %s", first) == "replaced"
    assert (books.count("outbox"), books.count("jobs"), books.count("unique_keys")) == (1, 2, 1)


def test_other_keys_and_none_are_none_of_its_business(books: Books):
    jobs = {submit(books.tx), submit(books.tx, key="cart-18"), books.value(SUBMIT, '{"tenant": "acme", "unique": null}')}

    assert len(jobs) == 3
    assert books.count("unique_keys") == 2


def test_one_that_runs_is_not_touched_and_may_come_back_only_if_the_key_is_free(books: Books):
    runs = submit(books.tx)
    books.begin(runs)

    waits = submit(books.tx, "replace")
    latest = submit(books.tx, "replace")
    attempts.settle(books.tx, [End(runs, 1, books.worker, "dead", "buried", "permanent", blame=True)])

    assert [books.state(job) for job in (runs, waits, latest)] == ["dead", "cancelled", "queued"]
    with pytest.raises(unique.HeldError, match=str(latest)), books.tx.transaction():
        unique.reclaim(books.tx, runs, [books.tenant])


def test_what_is_over_holds_no_more_and_what_holds_longer_does(books: Books):
    short, long, always = (submit(books.tx, hold=hold, key=str(hold)) for hold in ("active", 3600, "forever"))
    for job in (short, long, always):
        succeed(books, job)
    archive.open_partitions(books.tx, books.value("select current_date"))
    archive.archive(books.tx, timedelta(0), None, limit=100)
    assert books.count("jobs") == 0

    assert submit(books.tx, "reject", key="active") != short
    assert submit(books.tx, key="3600") == long
    assert submit(books.tx, key="forever") == always
    books.tx.execute("update haulier.unique_keys set held_until = now() where key = '3600'")
    assert submit(books.tx, "reject", key="3600") != long


def test_it_is_the_same_key_as_in_python(books: Books):
    first = submit(books.tx)
    wish = books.wish()

    with books.tx.transaction():
        outcome = unique.submit(books.tx, [replace(wish, unique=Unique("cart-17"))])
    with books.tx.transaction():
        unique.submit(books.tx, [replace(wish, unique=Unique("cart-17", on_conflict="replace"))])

    assert outcome.held[wish.id].holder == first
    assert books.state(first) == "cancelled"
    assert submit(books.tx) == wish.id


def test_a_holder_that_commits_while_the_key_is_waited_for_is_seen(books: Books, other: Tx):
    """Trap: a snapshot from before the lock would know the key's row (it was locked) and not the job that holds it."""
    books.tx.execute("begin")
    first = submit(books.tx)
    with ThreadPoolExecutor(1) as pool:
        waits = pool.submit(submit, other, "reject")
        eventually(lambda: blocked(books.database.url, other.info.backend_pid))
        books.tx.execute("commit")
        with pytest.raises(psycopg.errors.UniqueViolation, match=str(first)):
            waits.result(10)


def test_a_holder_that_ended_while_the_key_was_waited_for_is_over(books: Books, other: Tx):
    first = submit(books.tx)
    other.execute("select count(*) from haulier.jobs")  # its transaction has begun, and seen the job wait
    books.tx.execute("begin")
    assert submit(books.tx) == first  # which locks the key
    with ThreadPoolExecutor(1) as pool:
        waits = pool.submit(submit, other, "reject")
        eventually(lambda: blocked(books.database.url, other.info.backend_pid))
        succeed(books, first)
        books.tx.execute("commit")
        second = waits.result(10)
    other.commit()

    assert (books.state(first), books.state(second)) == ("succeeded", "queued")


def test_a_dead_holder_that_is_replayed_meanwhile_keeps_its_key(books: Books, other: Tx):
    dead = submit(books.tx)
    books.begin(dead)
    attempts.settle(books.tx, [End(dead, 1, books.worker, "dead", "buried", "permanent", blame=True)])
    books.tx.execute("begin")
    unique.reclaim(books.tx, dead, [books.tenant])
    dead_letters.replay(books.tx, dead, [books.tenant], "ann", None)
    with ThreadPoolExecutor(1) as pool:
        waits = pool.submit(submit, other)
        eventually(lambda: blocked(books.database.url, other.info.backend_pid))
        books.tx.execute("commit")
        with pytest.raises(psycopg.errors.SerializationFailure, match="was replayed just now; nothing was submitted"):
            waits.result(10)
    other.rollback()

    assert submit(other) == dead


@pytest.mark.parametrize("on_conflict", ["return", "replace"])
def test_many_at_once_leave_one_that_waits(books: Books, on_conflict: str):
    start = threading.Barrier(8)

    def one(_: int) -> UUID:
        with psycopg.connect(books.database.url, autocommit=True) as tx:
            start.wait(10)
            return [submit(tx, on_conflict) for _ in range(10)][-1]

    with ThreadPoolExecutor(8) as pool:
        answers = set(pool.map(one, range(8)))

    waiting = {row[0] for row in books.tx.execute("select id from haulier.jobs where state = 'queued'")}
    assert len(waiting) == 1
    assert waiting == {row[0] for row in books.tx.execute("select job_id from haulier.outbox")}
    assert waiting <= answers
    assert on_conflict == "replace" or answers == waiting


@pytest.mark.parametrize("level", ["repeatable read", "serializable"])
def test_a_snapshot_that_may_be_too_old_is_refused(books: Books, other: Tx, level: str):
    other.execute(f"set transaction isolation level {level}")  # pyright: ignore[reportArgumentType, reportCallIssue]

    with pytest.raises(psycopg.errors.FeatureNotSupported, match=f"at READ COMMITTED, this one is at {level.upper()}; nothing was"):
        submit(other)
    other.rollback()

    assert books.count("jobs") == books.count("unique_keys") == 0


def blocked(url: str, pid: int) -> bool:
    with psycopg.connect(url, autocommit=True) as tx:
        row = tx.execute("select cardinality(pg_blocking_pids(%s)) > 0", (pid,)).fetchone()
    return row is not None and row[0]
