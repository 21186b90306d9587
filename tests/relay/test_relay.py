"""The relay on a real ledger, its transport in the test's hands."""

from __future__ import annotations

import time

import psycopg
import pytest

from config.ids import uuid7
from ledger import outbox, workers
from ledger.outbox import Claimed
from producers.relay.relay import SHORT, bundle, forget_announcements, share
from tests.relay.conftest import Wire, running, submit, wait_for


def test_what_is_due_is_announced_once(database):
    wire, ids = Wire(), submit(database, 30)
    submit(database, 1, delay=3600)

    with running(database, wire):
        wait_for(lambda: len(wire.names()) >= 30)

    assert sorted(wire.names()) == sorted(ids)


def test_five_relays_announce_each_job_once(database):
    wires, ids = [Wire() for _ in range(5)], submit(database, 200)

    with (
        running(database, wires[0]),
        running(database, wires[1]),
        running(database, wires[2]),
        running(database, wires[3]),
        running(database, wires[4]),
    ):
        wait_for(lambda: sum(len(wire.names()) for wire in wires) >= 200)

    assert sorted(name for wire in wires for name in wire.names()) == sorted(ids)


def test_little_is_announced_of_what_takes_long(database):
    wire = Wire()
    submit(database, 60)
    with database.plumbing() as tx:
        tx.execute("update haulier.commands set mean_ms = 1000")

    with running(database, wire), database.plumbing() as tx:
        wait_for(lambda: tx.execute("select bool_or(asleep) from haulier.workers").fetchone()[0])

    assert len(wire.names()) == 16


def test_what_is_not_confirmed_is_announced_again(database):
    wire, ids = Wire(), submit(database, 3)
    wire.refuse = "nacked"

    with running(database, wire):
        with database.plumbing() as tx:
            wait_for(lambda: tx.execute("select max(announcements) from haulier.outbox").fetchone()[0] >= 2, seconds=8)
        wire.refuse = ""
        wait_for(lambda: len(wire.names()) >= 3)

    assert sorted(wire.names()) == sorted(ids)


def test_what_was_claimed_though_the_answer_was_lost_is_announced_all_the_same(database, monkeypatch):
    """And soon: not when ten minutes have passed without a sign of it."""
    claim, lost = outbox.claim, []

    def lose_the_answer(*arguments, **facts):
        claimed = claim(*arguments, **facts)
        if claimed.rows and not lost:
            lost.append(claimed)
            raise psycopg.OperationalError("the connection was lost after the commit")
        return claimed

    monkeypatch.setattr(outbox, "claim", lose_the_answer)
    wire, ids = Wire(), submit(database, 3)

    with running(database, wire):
        wait_for(lambda: len(wire.names()) >= 3)

    assert len(lost) == 1
    assert sorted(wire.names()) == sorted(ids)


def test_nothing_is_claimed_while_the_broker_is_away(database):
    wire = Wire()
    wire.ready = False
    submit(database, 3)

    with running(database, wire), database.plumbing() as tx:
        wait_for(lambda: tx.execute("select bool_or(asleep) from haulier.workers").fetchone()[0])
        marked = tx.execute("select count(announced_at) from haulier.outbox").fetchone()
        assert marked == (0,)
        wire.ready = True
        wait_for(lambda: len(wire.names()) == 3)


def test_with_the_broker_away_a_full_window_is_not_looked_at_all_the_time(database, monkeypatch):
    wire, looks = Wire(), []
    stage = outbox.stage
    monkeypatch.setattr(outbox, "stage", lambda *facts: looks.append(1) or stage(*facts))
    with database.plumbing() as tx:
        workers.measure(tx, {"test.do": 10_000})
    submit(database, 20)

    def is_calm():
        before = len(looks)
        time.sleep(10 * SHORT)
        return len(looks) == before

    with running(database, wire, poll=30):
        wait_for(lambda: len(wire.names()) == 16)
        assert not is_calm()
        wire.ready = False
        wait_for(is_calm)


def test_a_sleeping_relay_is_woken_by_a_submission(database):
    wire = Wire()

    with running(database, wire, poll=30), database.plumbing() as tx:
        wait_for(lambda: tx.execute("select bool_or(asleep) from haulier.workers").fetchone()[0])
        ids = submit(database, 1)
        assert workers.wake(tx) is True
        wait_for(lambda: wire.names() == ids, seconds=10)


def test_a_reset_broker_is_told_everything_again(database):
    wire, ids = Wire(), submit(database, 3)

    with running(database, wire):
        wait_for(lambda: len(wire.names()) == 3)
        forget_announcements(database)()
        wait_for(lambda: len(wire.names()) == 6)

    assert sorted(set(wire.names())) == sorted(ids)


def row(command: str = "short", *, solo: bool = False) -> Claimed:
    return Claimed(uuid7(), 1, None, solo, command)


@pytest.mark.parametrize(
    ("rows", "messages"),
    [
        ([row() for _ in range(3)], 3),  # few: one message each, so that idle workers share them
        ([row() for _ in range(400)], 4),
        ([row("long") for _ in range(40)], 40),
        ([row("middling") for _ in range(400)], 40),
        ([row() for _ in range(400)] + [row(solo=True)], 5),
    ],
    ids=["few", "many short", "many long", "many middling", "a suspect"],
)
def test_many_short_jobs_share_messages_and_no_other(rows, messages):
    bundled = bundle("test", rows, {"short": share(0.1), "middling": share(10), "long": share(80)})

    assert len(bundled) == messages
    assert sorted(job.job_id for message in bundled for job in message.jobs) == sorted(each.job_id for each in rows)
