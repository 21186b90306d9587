"""A relay that sleeps is told of a lone new job by name, and announces it before it has claimed it: once, by one of them, whatever else it is told."""

from __future__ import annotations

import time
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from config.ids import uuid7
from config.transport.message import Announcement
from ledger import jobs, notices, workers
from ledger.notices import NewJob
from producers.relay.relay import CALM
from tests.relay.conftest import Wire, running, wait_for, wish

TRACEPARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


@contextmanager
def asleep(database, wire, relays=1):
    """Relays that only a notification wakes; yields a connection."""
    with ExitStack() as stack:
        for _ in range(relays):
            stack.enter_context(running(database, wire, poll=30))
        tx = stack.enter_context(database.plumbing(60))
        wait_for(lambda: tx.execute("select count(*) from haulier.workers where asleep").fetchone() == (relays,))
        yield tx


def submit(tx, **facts):
    job = wish(**facts)
    jobs.submit(tx, [job], wake=True)
    return job


def notify(tx, job: NewJob | str):
    text = notices.write(job) if isinstance(job, NewJob) else job
    tx.execute("select pg_notify('haulier_relay', id || ' ' || %s) from haulier.workers where asleep", (text,))


def new(command="test.do", queue="test"):
    return NewJob(uuid7(), queue, command, None)


def marked(tx):
    return tx.execute("select job_id, announcements from haulier.outbox where announced_at is not null order by 1").fetchall()


def test_what_is_written_can_be_read():
    relay, job = uuid7(), NewJob(uuid7(), "test", "test.do", TRACEPARENT)

    assert notices.read(f"{relay} {notices.write(job)}") == (relay, job)
    plain = new()
    assert notices.read(f"{relay} {notices.write(plain)}") == (relay, plain)
    assert notices.read(f"{relay} ") == (relay, None)


@pytest.mark.parametrize("payload", ["", " ", "x", "x y", "{id} x", "{id} x test test.do ", "{id} {id} test test.do", "{id} {id} a b c d"])
def test_what_cannot_be_read_wakes_all_and_names_nothing(payload):
    assert notices.read(payload.format(id=uuid7())) == (None, None)


def test_a_notice_is_enough_to_announce_a_job(database):
    wire, job = Wire(), new()
    with asleep(database, wire) as tx:
        notify(tx, job)  # of a job that nobody could claim
        wait_for(lambda: wire.names() == [job.job_id])


def test_a_lone_new_job_is_announced_once_and_marked(database):
    wire = Wire()
    with asleep(database, wire) as tx:
        job = submit(tx, traceparent=TRACEPARENT)
        wait_for(lambda: marked(tx) == [(job.id, 1)])

    [message] = wire.sent
    assert (message.queue, message.jobs) == ("test", (Announcement(job.id, 1, TRACEPARENT),))


def test_of_many_relays_one_announces_it(database):
    wire = Wire()
    with asleep(database, wire, relays=3) as tx:
        ids = []
        for _ in range(12):
            ids.append(submit(tx).id)
            wait_for(lambda: len(marked(tx)) == len(ids))

    assert sorted(wire.names()) == sorted(ids)


def test_if_it_is_not_confirmed_it_is_announced_again(database):
    wire = Wire()
    wire.refuse = "nacked"
    with running(database, wire), database.plumbing(60) as tx:
        wait_for(lambda: tx.execute("select bool_or(asleep) from haulier.workers").fetchone() == (True,))
        job = submit(tx)
        wait_for(lambda: tx.execute("select announcements from haulier.outbox").fetchone()[0] >= 2)
        wire.refuse = ""
        wait_for(lambda: marked(tx) != [] and wire.names() == [job.id])


def test_what_is_known_to_be_refused_before_it_is_claimed_is_announced_by_its_claim(database):
    """Four in flight, and then a claim of another queue, which waits until the first of them has come back."""
    wire = Wire()
    wire.refuse = "nacked"
    with database.plumbing() as tx:
        tx.execute("insert into haulier.commands (name, queue, max_failures, fields) values ('another.do', 'another', 3, '{}')")
        workers.register(tx, uuid7(), "worker", "1", ["another"], ["another.do"])
    with running(database, wire, poll=1), database.plumbing(60) as tx:
        wait_for(lambda: tx.execute("select bool_or(asleep) from haulier.workers").fetchone() == (True,))
        ids = [submit(tx).id for _ in range(4)]
        other = replace(wish(), command="another.do", queue="another")
        jobs.submit(tx, [other], wake=True)
        wait_for(lambda: len(marked(tx)) > 0)
        wire.refuse = ""
        wait_for(lambda: {*wire.names()} == {*ids, other.id}, seconds=8)


def test_jobs_that_come_one_by_one_are_not_claimed_each_time(database, monkeypatch):
    monkeypatch.setattr("producers.relay.relay.WINDOW_SECONDS", 30)
    wire, ids = Wire(), []
    with asleep(database, wire) as tx:
        for _ in range(12):
            ids.append(submit(tx).id)
            wait_for(lambda: wire.names() == ids)
            time.sleep(2 * CALM)
        assert marked(tx) == []


def test_jobs_that_come_as_a_stream_are_claimed(database, monkeypatch):
    monkeypatch.setattr("producers.relay.relay.CALM", 30)
    monkeypatch.setattr("producers.relay.relay.WINDOW_SECONDS", 30)
    wire = Wire()
    with asleep(database, wire) as tx:
        ids = [submit(tx).id for _ in range(6)]
        wait_for(lambda: len(marked(tx)) >= 5)
        wait_for(lambda: sorted(wire.names()) == ids)


def test_a_new_job_does_not_overtake_those_that_wait_for_room(database):
    wire = Wire()
    with database.plumbing() as tx:
        workers.measure(tx, {"test.do": 10_000})
    with asleep(database, wire) as tx:
        waiting = [wish() for _ in range(20)]
        jobs.submit(tx, waiting, wake=True)
        wait_for(lambda: len(wire.names()) == 16)  # a full window
        last = submit(tx)
        notify(tx, NewJob(last.id, "test", "test.do", None))
        tx.execute("delete from haulier.outbox where announced_at is not null")  # they are begun
        wait_for(lambda: len(wire.names()) == 21)

    assert wire.names() == [*(job.id for job in waiting), last.id]


def test_a_notice_that_is_late_announces_nothing_twice(database):
    wire = Wire()
    with asleep(database, wire) as tx:
        first = submit(tx)
        wait_for(lambda: len(marked(tx)) == 1)
        notify(tx, NewJob(first.id, "test", "test.do", None))
        second = submit(tx)
        wait_for(lambda: len(marked(tx)) == 2)

    assert wire.names() == [first.id, second.id]


@pytest.mark.parametrize(
    "told", ["nonsense", new(queue="nowhere"), new(command="test.unknown")], ids=["nonsense", "no such queue", "unknown"]
)
def test_a_notice_that_makes_no_sense_does_no_harm(database, told):
    wire = Wire()
    with asleep(database, wire) as tx:
        notify(tx, told)
        job = submit(tx)
        wait_for(lambda: marked(tx) == [(job.id, 1)])

    assert wire.names() == [job.id]


@pytest.mark.parametrize("facts", [{"delay": 3600.0}, {"run_at": datetime(2100, 1, 1, tzinfo=UTC)}], ids=["delay", "time"])
def test_what_is_not_due_is_not_announced(database, facts):
    wire = Wire()
    with asleep(database, wire) as tx:
        submit(tx, **facts)
        due = submit(tx)
        wait_for(lambda: marked(tx) == [(due.id, 1)])

    assert wire.names() == [due.id]
