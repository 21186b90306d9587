"""Claims that begin at a mark: they cost the same however much is dead before it, and nothing that is before it is lost (decision 0023)."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from uuid import UUID

import psycopg
import pytest

from ledger import jobs, outbox
from ledger.outbox import START, Claim
from producers.relay import marks as marks_module
from producers.relay.marks import Marks, Pace
from tests.relay.conftest import Wire, running, submit, wait_for, wish

AT = datetime(2026, 11, 27, tzinfo=UTC)


@pytest.fixture
def tx(database) -> Iterator[psycopg.Connection]:
    with database.connect() as connection:
        yield connection


def claim(tx, marks: Marks, limit: int = 100, *, look: bool = False) -> list[UUID]:
    start = START if look else marks.start()
    claimed = outbox.claim(tx, "test", ["test.do"], window=10_000, limit=limit, start=start)
    marks.note(start, claimed)
    return [row.job_id for row in claimed.rows]


def due(tx, ago: float, *ids: UUID) -> None:
    tx.execute("update haulier.outbox set due_at = now() - make_interval(secs => %s) where job_id = any(%s)", (ago, list(ids)))


def test_from_the_marks_the_most_urgent_is_claimed_first_too(database, tx):
    marks = Marks()
    submit(database, 3)
    claim(tx, marks, 1, look=True)

    low, high, between = submit(database, 1, priority=-5), submit(database, 1, priority=90), submit(database, 1, priority=1)

    assert claim(tx, marks, 1) == high
    assert claim(tx, marks, 1) == between
    assert len(claim(tx, marks, 2)) == 2
    assert claim(tx, marks) == low


def test_what_comes_late_is_found_by_the_next_look(database, tx):
    marks = Marks()
    submit(database, 1)
    claim(tx, marks, look=True)
    late = submit(database, 1)
    due(tx, 60, *late)

    assert claim(tx, marks) == []
    assert claim(tx, marks, look=True) == late


def test_much_that_comes_late_is_claimed_from_where_the_look_got_to(database, tx):
    marks = Marks()
    submit(database, 1)
    submit(database, 1, priority=-5)
    claim(tx, marks, look=True)
    late = submit(database, 30)
    due(tx, 60, *late)
    later = submit(database, 30, priority=-5)
    due(tx, 60, *later)

    found = claim(tx, marks, 10, look=True)
    while more := claim(tx, marks, 10):
        found += more

    assert sorted(found) == sorted([*late, *later])


def test_a_backlog_is_claimed_from_mark_to_mark(database, tx):
    marks, ids = Marks(), submit(database, 50)
    for number, each in enumerate(ids):
        due(tx, 1000 - number, each)

    found = claim(tx, marks, 10, look=True)
    while more := claim(tx, marks, 10):
        found += more

    assert found == ids


def test_what_is_announced_and_has_not_begun_fills_the_window_from_the_marks_too(database, tx):
    marks = Marks()
    submit(database, 20)
    claim(tx, marks, 4, look=True)
    tx.execute("update haulier.outbox set announced_at = announced_at - interval '6 seconds' where announced_at is not null")
    claim(tx, marks, 4, look=True)

    start = marks.start()

    assert start.stuck == 4
    assert len(outbox.claim(tx, "test", ["test.do"], window=16, limit=100, start=start).rows) == 8


def test_a_claim_from_the_marks_reads_nothing_that_is_dead(database, tx):
    marks = Marks()
    with psycopg.connect(database.url) as lunch:
        lunch.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        lunch.execute("select 1 from haulier.jobs limit 1")
        submit(database, 2000, priority=3)
        claim(tx, marks, 3000, look=True)
        tx.execute("delete from haulier.outbox")
        tx.execute("select pg_sleep(0.6)")
        claim(tx, marks)
        submit(database, 1, priority=3)
        looked, from_the_marks = entries_read(tx, START), entries_read(tx, marks.start())

    assert looked > 2000
    assert from_the_marks < 20


def entries_read(tx, start) -> int:
    """Entries of indexes that a claim reads, dead ones too; it claims nothing."""
    with tx.transaction(force_rollback=True):
        before = tx.execute(READ).fetchone()[0]
        outbox.claim(tx, "test", ["test.do"], window=1000, limit=1, start=start)
        return tx.execute(READ).fetchone()[0] - before


READ = """
select sum(pg_stat_get_xact_tuples_returned(indexrelid)) from pg_index where indrelid = 'haulier.outbox'::regclass
"""


def test_a_look_that_was_dear_is_followed_by_a_rest(monkeypatch):
    clock = [100.0]
    monkeypatch.setattr(marks_module.time, "monotonic", lambda: clock[0])
    pace = Pace()
    with pace.timed():
        clock[0] += 0.0005
    assert pace.is_due()

    with pace.timed():
        clock[0] += 0.101
    clock[0] += 4.9
    assert not pace.is_due()
    clock[0] += 0.2
    assert pace.is_due()

    with pytest.raises(RuntimeError), pace.timed():
        raise RuntimeError
    assert not pace.is_due()
    clock[0] += 10
    assert pace.is_due()


def test_only_some_priorities_have_marks_of_their_own():
    marks = Marks()
    reached = {priority: AT + timedelta(seconds=priority) for priority in range(20)}
    marks.note(START, Claim([], AT, is_all=False, reached=reached, stuck=0, first_announced=None))

    stretches = marks.start().stretches

    assert [high for high, _, since in stretches if since] == list(range(19, 11, -1))
    covered = [priority for high, low, _ in stretches for priority in range(high, low - 1, -1)]
    assert covered == list(range(100, -101, -1))


def test_a_relay_that_may_not_look_at_everything_goes_on_and_finds_what_is_late(database, monkeypatch):
    for name, value in (("CHEAP", 0.0), ("REST", 1e9), ("MOST_REST", 2.0)):
        monkeypatch.setattr(marks_module, name, value)
    wire = Wire()

    with running(database, wire), psycopg.connect(database.url) as slow:
        late = wish()
        jobs.submit(slow, [late])
        for _ in range(10):
            ids = submit(database, 3)
            wait_for(lambda ids=ids: set(ids) <= set(wire.names()))
            slow.execute("select pg_sleep(0.1)")
        slow.commit()
        wait_for(lambda: late.id in wire.names())

    assert len(wire.names()) == 31
