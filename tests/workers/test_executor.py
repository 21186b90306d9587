"""The executor: what becomes of a job, by what its handler does."""

from __future__ import annotations

import sys
import threading
import time
from typing import cast

import orjson
import pytest
from psycopg import DataError, OperationalError
from psycopg.errors import FeatureNotSupported
from sqlalchemy import text

from config.ids import uuid7
from config.transport.message import Announcement, Message, decode
from ledger import attempts, workers
from ledger.attempts import End
from pipelines.command import Command, CommandError, Rejected, Retry, Snooze, handles
from tests.workers.commands import After, Do, after, doing, note, raising
from tests.workers.conftest import ByHand
from workers import recovery
from workers.executor import Executor
from workers.running import Running
from workers.slots import Slots


class SoldOut(CommandError):
    """Nothing is left."""

    code = "sold_out"


class Garbage(CommandError):
    """The answer makes no sense."""

    code = "garbage"


class Busy(CommandError):
    """They said when to come back."""

    code = "busy"

    def __init__(self, seconds: float) -> None:
        super().__init__("busy")
        self.retry_after = seconds


def test_effect_completion_and_follow_up_are_one_transaction(shop):
    def handler(command, run):
        note(run)
        run.submit(After(n=command.n))
        return {"n": command.n}

    there = shop(doing(handler), after)

    job = there.run(Do(n=7), priority=5)

    assert (job.state, job.result, job.family) == ("succeeded", {"n": 7}, {"succeeded": 1, "queued": 1})
    assert there.value("select count(*) from effects") == 1
    assert there.value("select priority from haulier.outbox") == 5
    assert there.value("select payload = '{\"n\": 7}' from haulier.jobs where parent_id is not null") is True


def test_a_failure_leaves_neither_effect_nor_follow_up(shop):
    def handler(_command, run):
        note(run)
        run.submit(After())
        raise ValueError("no\0t \ud800 today")

    there = shop(doing(handler), after)

    job = there.run(Do())

    assert (job.state, job.failures, job.attempt) == ("scheduled", 1, 1)
    assert job.error == {"code": "unexpected", "message": "no\\0t \\ud800 today", "attempt": 1}
    assert there.value("select count(*) from effects") == 0
    assert there.value("select count(*) from haulier.jobs") == 1
    [attempt] = there.attempts(job.id)
    assert "ValueError" in attempt.error["traceback"]


def test_whose_lease_was_lost_its_effects_are_rolled_back(shop):
    def handler(_command, run):
        note(run)
        run.submit(After())
        with there.database.plumbing() as tx:
            attempts.settle(tx, [End(run.job_id, run.attempt, there.worker, "queued", "rescued")])
        return "late"

    there = shop(doing(handler), after)

    job = there.run(Do())

    assert (job.state, job.result, job.family) == ("queued", None, {"queued": 1})
    assert there.value("select count(*) from effects") == 0
    assert there.value("select count(*) from haulier.outbox") == 1


@pytest.mark.parametrize(
    ("handler", "state", "reason", "code"),
    [
        (lambda _c, _r: Rejected("declined", code="declined"), "rejected", None, "declined"),
        (raising(SoldOut("none left")), "rejected", None, "sold_out"),
        (raising(Garbage("<html>")), "dead", "permanent", "garbage"),
        (lambda _c, _r: Snooze(60), "scheduled", None, None),
        (lambda _c, run: run.snooze(60), "scheduled", None, None),
        (raising(TimeoutError()), "scheduled", None, None),
        (raising(SystemExit(3)), "scheduled", None, "unexpected"),
        (lambda _c, _r: object(), "scheduled", None, "unexpected"),
    ],
    ids=["rejected", "rejecting error", "burying error", "snooze", "run.snooze", "snoozing error", "exit", "result that is no JSON"],
)
def test_the_policy_of_a_command_decides_by_what_happened(shop, handler, state, reason, code):
    there = shop(doing(handler, rejects=(SoldOut,), buries=(Garbage,), snoozes={TimeoutError: 60.0}))

    job = there.run(Do())

    assert (job.state, job.reason, (job.error or {}).get("code")) == (state, reason, code)
    counts_as_failure = code == "unexpected" or reason == "permanent"
    assert job.failures == int(counts_as_failure)


@pytest.mark.parametrize("state", ["53100", "53200", "53300", "58030", "40P01", "57P01"])
def test_a_statement_that_failed_because_the_server_has_no_room_or_no_time_is_no_failure_of_the_job(shop, state):
    """A full disk would otherwise have made a dead letter of every job that wrote while it lasted."""

    def handler(_command, run):
        with run.transaction() as db:
            db.execute(text(f"do $$ begin raise exception 'not now' using errcode = '{state}'; end $$"))

    there = shop(doing(handler))

    job = there.run(Do())

    assert (job.state, job.failures, [attempt.outcome for attempt in there.attempts(job.id)]) == ("scheduled", 0, ["interrupted"])


def test_the_last_failure_makes_a_dead_letter_and_its_follow_up(shop):
    there = shop(doing(raising(ValueError("no")), on_dead=After), after)
    job = there.run(Do(n=4))
    for attempt in (2, 3):
        there.due_now()
        there.deliver(job.id, attempt=attempt)

    job = there.job(job.id)

    assert (job.state, job.reason, job.failures, job.attempt) == ("dead", "exhausted", 3, 3)
    assert there.value("select payload->>'n' from haulier.jobs where command = 'test.after'") == "4"


def test_the_other_side_says_when_to_come_back(shop):
    there = shop(doing(raising(Busy(600))))

    there.run(Do())

    assert there.value("select due_at > now() + interval '590 seconds' from haulier.outbox") is True


def test_a_payload_that_its_schema_refuses_ends_dead_as_invalid(shop):
    there = shop(doing(lambda _c, _r: None))
    [job_id] = there.submit(Do())
    with there.database.plumbing() as tx:
        tx.execute("""update haulier.jobs set payload = '{"n": "many"}'""")

    there.deliver(job_id)

    job = there.job(job_id)
    assert (job.state, job.reason) == ("dead", "invalid")
    assert "/payload/n" in job.error["message"]


def test_a_set_is_run_in_order_and_settled_together(shop):
    seen: list[int] = []
    there = shop(doing(lambda command, _run: seen.append(command.n)))
    ids = there.submit(*(Do(n=n) for n in range(20)))

    delivery = there.deliver(*ids)

    assert seen == list(range(20))
    assert delivery.acknowledged == 1
    assert there.value("select count(*) from haulier.jobs where state = 'succeeded'") == 20
    assert there.value("select count(*) from haulier.leases") == 0


def test_one_that_fails_in_a_set_harms_no_neighbour(shop):
    def handler(command, run):
        note(run)
        if command.n == 5:
            raise ValueError

    there = shop(doing(handler))

    there.deliver(*there.submit(*(Do(n=n) for n in range(10))))

    assert there.value("select count(*) from haulier.jobs where state = 'succeeded'") == 9
    assert there.value("select count(*) from effects") == 9


class Mute(Exception):
    def __str__(self):
        raise RuntimeError("it does not even say what it is")


class Later(Exception):
    retry_after = "tomorrow"


@pytest.mark.parametrize(
    ("end", "state", "says"),
    [
        (lambda _c, _r: Rejected(cast("str", ValueError("sold out"))), "rejected", "sold out"),
        (lambda _c, _r: Snooze(cast("float", "a while")), "scheduled", "could not convert string to float: 'a while'"),
        (lambda _c, _r: Snooze(float("nan")), "scheduled", "nan is no number of seconds"),
        (lambda _c, _r: Snooze(float("inf")), "scheduled", None),
        (raising(Later("busy")), "scheduled", "busy"),
        (raising(Mute()), "scheduled", "Mute"),
        (lambda _c, _r: orjson.Fragment(rb'"\ud800"'), "scheduled", "invalid input syntax for type json"),
    ],
    ids=[
        "an exception as the reason",
        "no number",
        "not a number",
        "for ever",
        "an odd retry_after",
        "no text",
        "a result that jsonb refuses",
    ],
)
def test_an_end_that_cannot_be_read_is_a_failure_and_harms_no_neighbour(shop, end, state, says):
    there = shop(doing(lambda command, run: end(command, run) if command.n == 1 else None))
    ids = there.submit(*(Do(n=n) for n in range(3)))

    there.deliver(*ids)

    assert [there.job(id_).state for id_ in ids] == ["succeeded", state, "succeeded"]
    assert says is None or says in there.job(ids[1]).error["message"]
    assert there.value("select count(*) from haulier.leases") == 0


@pytest.mark.parametrize(
    "backoff",
    [lambda failures: 1 // (failures - 1), lambda _f: "soon", lambda _f: float("nan")],
    ids=["raises", "no number", "not a number"],
)
def test_a_backoff_that_fails_is_not_the_end_of_its_job(shop, backoff):
    @handles(Do, queue="test", retry=Retry(max_failures=3, backoff=backoff))
    def failing(_command, _run):
        raise ValueError("no")

    there = shop(failing)
    job = there.run(Do())

    assert (job.state, job.failures, job.error["message"]) == ("scheduled", 1, "no")


def test_an_end_that_the_ledger_refuses_is_left_to_upkeep_and_harms_no_neighbour(shop, monkeypatch):
    def refuse(_tx, _ends):
        raise DataError("nobody foresaw this")

    monkeypatch.setattr(attempts, "settle", refuse)
    there = shop(doing(lambda command, _run: Rejected("no") if command.n == 1 else None))
    ids = there.submit(*(Do(n=n) for n in range(3)))

    there.deliver(*ids)

    assert [there.job(id_).state for id_ in ids] == ["succeeded", "running", "succeeded"]


def test_a_doubled_delivery_does_nothing(shop):
    there = shop(doing(lambda _c, run: note(run)))
    [job_id] = there.submit(Do())

    first, again = there.deliver(job_id), there.deliver(job_id)

    assert (first.acknowledged, again.acknowledged) == (1, 1)
    assert there.value("select count(*) from effects") == 1


def test_a_delivery_is_acknowledged_when_its_jobs_are_begun_and_not_before(shop):
    class Looking(ByHand):
        def acknowledge(self) -> None:
            super().acknowledge()
            states.extend(there.job(job_id).state for job_id in ids)

    there, states = shop(doing(lambda _c, run: note(run))), []
    ids = there.submit(Do(n=1), Do(n=2))

    there.executor.execute(Looking(Message("test", tuple(Announcement(id_, 1, None) for id_ in ids))))

    assert states == ["running", "running"]


def test_a_message_that_names_jobs_nobody_knows_is_kept_as_an_orphan(shop):
    there = shop(doing(lambda _c, run: note(run)))
    [job_id] = there.submit(Do())
    forged = uuid7()

    delivery = there.deliver(forged, job_id)

    assert delivery.acknowledged == 1
    assert there.job(job_id).state == "succeeded"
    kept = there.orphans()
    assert len(kept) == 1
    _, queue, body, _, reason, *_ = kept[0]
    assert (queue, decode(body, "test").jobs[0].job_id, str(forged) in reason) == ("test", forged, True)


def test_a_begin_that_was_committed_though_its_answer_was_lost_runs_once(shop, monkeypatch):
    there = shop(doing(lambda _c, run: note(run)))
    ids = there.submit(Do(n=1), Do(n=2))
    begin, lost = attempts.begin, []

    def lose_the_answer(*arguments):
        begun = begin(*arguments)
        if not lost:
            lost.append(begun)
            raise OperationalError("the connection was lost after the commit")
        return begun

    monkeypatch.setattr(attempts, "begin", lose_the_answer)

    there.deliver(*ids)

    assert [there.job(id_).state for id_ in ids] == ["succeeded", "succeeded"]
    assert [there.job(id_).attempt for id_ in ids] == [1, 1]
    assert there.value("select count(*) from effects") == 2


def test_what_is_not_started_when_the_process_stops_is_handed_back_unblamed(shop):
    def handler(_command, _run):
        there.stopping.append(True)

    there = shop(doing(handler))
    ids = there.submit(Do(n=1), Do(n=2), Do(n=3))

    there.deliver(*ids)

    assert [there.job(id_).state for id_ in ids] == ["succeeded", "queued", "queued"]
    assert [there.job(id_).failures for id_ in ids] == [0, 0, 0]
    assert there.value("select count(*) from haulier.outbox where attempt = 2") == 2


def test_a_job_past_its_limit_is_ended_and_its_thread_writes_nothing(shop):
    started, ended = threading.Event(), threading.Event()

    def handler(_command, run):
        note(run)
        started.set()
        assert ended.wait(30)

    there = shop(doing(handler, timeout=0.05))
    [job_id] = there.submit(Do())

    def work():
        there.deliver(job_id)
        there.executor.close()

    thread = threading.Thread(target=work)
    thread.start()
    assert started.wait(30)

    def time_out(lease):
        with there.database.plumbing() as tx:
            [held] = workers.held_by(tx, there.worker)
            late = workers.Lapsed(held.job_id, held.attempt, held.worker_id, False, 0, 3, held.command, True, held.root_id, held.tenant_id)
            recovery.take_back(tx, [late], there.handlers)

    gave_up: list[bool] = []
    deadline = threading.Event()
    while there.job(job_id).state == "running":
        there.running.watch(time_out, lambda: gave_up.append(True))
        deadline.wait(0.02)
    ended.set()
    thread.join(30)

    job = there.job(job_id)
    assert (job.state, job.failures, job.error["code"]) == ("scheduled", 1, "timeout")
    assert there.value("select count(*) from effects") == 0
    assert gave_up == []


def test_a_cancellation_that_comes_late_does_not_meet_the_next_job(shop, monkeypatch):
    past, cancelling, second = threading.Event(), threading.Event(), threading.Event()

    def handler(command, run):
        note(run)
        if command.n == 0:
            past.set()
            assert cancelling.wait(30)
            return
        second.set()
        with run.transaction() as db:
            db.execute(text("select pg_sleep(0.3)"))

    def cancel_late(run):
        driver = run.driver
        cancelling.set()
        second.wait(0.5)
        time.sleep(0.05)
        driver.cancel_safe()

    monkeypatch.setattr("workers.running._cancel", cancel_late)
    there = shop(doing(handler, timeout=0.05))
    ids = there.submit(Do(n=0), Do(n=1))

    def work():
        there.deliver(*ids)
        there.executor.close()

    thread = threading.Thread(target=work)
    thread.start()
    assert past.wait(30)
    time.sleep(0.1)
    there.running.watch(lambda _lease: None, lambda: None)
    thread.join(30)

    assert [there.job(id_).state for id_ in ids] == ["succeeded", "succeeded"]


def test_a_suspect_runs_alone_and_only_its_own_crash_counts(shop):
    there = shop(doing(lambda _c, _r: None))
    ids = there.submit(Do(n=1), Do(n=2))
    with there.database.plumbing() as tx:
        begun, _ = attempts.begin(tx, there.worker, [(id_, 1) for id_ in ids], {"test.do": 30.0})
        recovery.recover(tx, there.worker, {ids[0]}, there.handlers)

    assert len(begun) == 2
    assert there.value("select solo from haulier.outbox where job_id = %s", ids[0]) is True
    assert there.value("select solo from haulier.outbox where job_id = %s", ids[1]) is False
    assert [there.job(id_).failures for id_ in ids] == [0, 0]

    with there.database.plumbing() as tx:
        for attempt in (2, 3, 4):
            tx.execute("update haulier.jobs set state = 'queued' where id = %s and state = 'scheduled'", (ids[0],))
            attempts.begin(tx, there.worker, [(ids[0], attempt)], {"test.do": 30.0})
            recovery.recover(tx, there.worker, {ids[0]}, there.handlers)

    job = there.job(ids[0])
    assert (job.state, job.reason, job.failures) == ("dead", "crashed", 3)


def test_a_slow_member_hands_back_the_ones_behind_it(shop, monkeypatch):
    monkeypatch.setattr("workers.executor.LONG", 0.0)
    there = shop(doing(lambda _c, _run: None))
    ids = there.submit(Do(n=0), Do(n=1), Do(n=2))

    there.deliver(*ids)

    assert [there.job(id_).state for id_ in ids] == ["succeeded", "queued", "queued"]
    assert {there.job(id_).failures for id_ in ids} == {0}


def test_a_worker_goes_on_after_a_migration_has_changed_what_its_statements_return(shop):
    there = shop(doing(lambda _c, run: note(run)))
    there.run(Do())
    [job_id] = there.submit(Do())
    with there.database.plumbing() as tx:
        tx.execute("drop view haulier.every_job")
        tx.execute("alter table haulier.jobs alter column priority type integer")

    with pytest.raises(FeatureNotSupported):
        there.deliver(job_id)  # it goes back, and comes again
    there.deliver(job_id)

    assert there.value("select count(*) from effects") == 2


class DoAgain(Command):
    command_name = "test.do@2"
    example = {}

    n: int


def test_a_worker_leaves_a_version_that_it_does_not_know_to_one_that_does(shop):
    both = shop(doing(lambda _command, _run: None), handles(DoAgain, queue="test")(lambda command, _run: {"n": command.n}))
    [job_id] = both.submit(DoAgain(n=2))
    old = Executor(uuid7(), both.database, {"test.do": both.handlers["test.do"]}, Running(), Slots.create(1), lambda: False)

    delivery = ByHand(Message("test", (Announcement(job_id, 1, None),)))
    old.execute(delivery)  # pyright: ignore[reportArgumentType]
    old.close()
    left = both.job(job_id)
    both.deliver(job_id)

    assert (left.state, left.attempt, delivery.acknowledged) == ("queued", 0, 1)
    assert both.job(job_id).result == {"n": 2}


def test_a_result_over_its_limit_is_a_dead_letter_at_once_and_its_effects_are_undone(shop):
    def handler(command, run):
        note(run)
        run.submit(After(n=1))
        return "é" * command.n

    busy = shop(doing(handler, result_limit=100), after)

    fits, too_large = busy.run(Do(n=49)), busy.run(Do(n=50))

    assert fits.state == "succeeded"
    assert (too_large.state, too_large.reason, too_large.attempt) == ("dead", "permanent", 1)
    assert too_large.error["code"] == "result_too_large"
    assert "has 102 bytes as JSON and may have 100" in too_large.error["message"]
    assert busy.value("select count(*) from effects") == 1
    assert busy.value("select count(*) from haulier.jobs where command = 'test.after'") == 1


def test_the_process_of_a_suspect_counts_at_a_place_of_its_own(shop, monkeypatch, tmp_path):
    """At its parent's, the two would spoil each other's files."""
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\nenv > {tmp_path}/environment\nexit 3\n")
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    monkeypatch.setattr("config.metrics._place", "7")
    there = shop(doing(lambda _command, _run: None))
    [job_id] = there.submit(Do())
    with there.database.plumbing() as tx:
        tx.execute("update haulier.jobs set solo = true where id = %s", (job_id,))

    there.deliver(job_id)

    assert "HAULIER_METRICS_PLACE=7.0" in (tmp_path / "environment").read_text().splitlines()
    assert "its process exited with 3" in there.job(job_id).error["message"]
