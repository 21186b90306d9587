"""Jobs that are carried out together: one transaction for their effects and their ends, or each by itself as if there were no others."""

from __future__ import annotations

import contextlib
import threading
import time
from dataclasses import replace

import psycopg
import pytest
from psycopg.errors import UniqueViolation
from pydantic import BaseModel, model_serializer
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from ledger import attempts, keys, workers
from ledger.attempts import End
from pipelines.command import CommandError, Rejected, Retry, Snooze
from pipelines.many import handles_many
from tests.workers.commands import After, Do, after, doing, note, raising
from workers import metrics, recovery
from workers.shares import Shares, group
from workers.slots import ANY

TRANSACTIONS = "select count(distinct xmin::text) from effects"
EFFECTS = "select count(*) from effects"


class Broken(CommandError):
    """It does not work."""

    code = "broken"


def sharing(function, **policy):
    return doing(function, shares_transaction=True, **policy)


def doing_many(function, **policy):
    return handles_many(Do, queue="test", retry=Retry(max_failures=3, backoff=lambda _failures: 60.0), **policy)(function)


def note_all(together):
    for run in together.runs:
        with together.transaction() as db:
            db.execute(text("insert into effects values (:job, 'done')"), {"job": run.job_id})


def ends(there, ids):
    return [there.job(job_id).state for job_id in ids]


def test_neighbours_commit_together_with_their_results_and_follow_ups(shop):
    def handler(command, run):
        note(run)
        run.log("noted")
        run.submit(After(n=command.n))
        return {"n": command.n}

    there = shop(sharing(handler), after)
    ids = there.submit(*(Do(n=n) for n in range(5)))

    there.deliver(*ids)

    assert ends(there, ids) == ["succeeded"] * 5
    assert [there.job(job_id).result for job_id in ids] == [{"n": n} for n in range(5)]
    assert [there.job(job_id).family for job_id in ids] == [{"succeeded": 1, "queued": 1}] * 5
    assert [[line["message"] for line in attempt.log] for job_id in ids for attempt in there.attempts(job_id)] == [["noted"]] * 5
    assert (there.value(EFFECTS), there.value(TRANSACTIONS)) == (5, 1)


def test_without_being_asked_they_do_not(shop):
    there = shop(doing(lambda _command, run: note(run)))

    there.deliver(*there.submit(*(Do(n=n) for n in range(5))))

    assert there.value(TRANSACTIONS) == 5


def test_sixteen_share_at_most_and_only_while_they_are_quick(shop):
    there = shop(sharing(lambda command, run: (note(run), time.sleep(0.06 if command.n >= 100 else 0))[0]))
    quick, slow = there.submit(*(Do(n=n) for n in range(40))), there.submit(*(Do(n=100 + n) for n in range(5)))

    there.deliver(*quick)
    assert there.value(TRANSACTIONS) == 3  # 16, 16, 8
    there.deliver(*slow)

    assert ends(there, quick + slow) == ["succeeded"] * 45
    assert there.value(TRANSACTIONS) == 6  # 2, 2, 1


def test_who_shares_waits_for_a_row_only_briefly(shop):
    there = shop(sharing(lambda _command, run: run.execute("show lock_timeout").rows[0][0]))
    ids = there.submit(*(Do(n=n) for n in range(19)))

    there.deliver(*ids[:18])  # 16, which share, and 2
    there.deliver(ids[18])

    patience = [there.job(job_id).result for job_id in ids]
    assert (patience[:18], patience[18]) == (["100ms"] * 18, "3s")


def test_jobs_of_two_tenants_never_share(shop):
    def handler(_command, run):
        note(run, run.tenant)
        with run.transaction() as db:
            assert db.execute(text("select current_setting('haulier.tenant')")).scalar() == str(numbers[run.tenant])

    there = shop(sharing(handler))
    numbers = {"acme": there.tenant}
    ids = there.submit(Do(), Do())
    with there.database.plumbing() as tx:
        other = keys.add_tenant(tx, "other", "Other")
    assert other is not None
    there.tenant = numbers["other"] = other.id
    ids += there.submit(Do(), Do())

    there.deliver(*ids[::2], *ids[1::2])

    assert ends(there, ids) == ["succeeded"] * 4
    assert there.value("select array_agg(n order by n) from (select count(*) as n from effects group by xmin::text, what) x") == [2, 2]


@pytest.mark.parametrize(
    ("end", "state", "failures"),
    [
        (raising(ValueError("no")), "scheduled", 1),
        (raising(Broken()), "dead", 1),
        (lambda _c, _r: Rejected("declined"), "rejected", 0),
        (lambda _c, _r: Snooze(60), "scheduled", 0),
        (lambda _c, _r: object(), "scheduled", 1),
        (lambda _c, run: run.transaction().__enter__().execute(text("select 1/0")), "scheduled", 1),
    ],
    ids=["raises", "buried", "rejected", "snoozed", "no JSON", "SQL fails"],
)
def test_one_that_does_not_succeed_is_judged_alone_and_the_others_succeed(shop, end, state, failures):
    def handler(command, run):
        note(run)
        return end(command, run) if command.n == 2 else None

    there = shop(sharing(handler, buries=(Broken,)))
    ids = there.submit(*(Do(n=n) for n in range(5)))
    apart = metrics.RUN_APART.labels("test.do")._value.get()

    there.deliver(*ids)

    assert ends(there, ids) == ["succeeded", "succeeded", state, "succeeded", "succeeded"]
    assert [there.job(job_id).failures for job_id in ids] == [0, 0, failures, 0, 0]
    assert {row for job_id in ids for row in [there.job(job_id).attempt]} == {1}
    assert there.value("select count(*) from effects where job_id = %s", ids[2]) == 0
    assert (there.value(EFFECTS), there.value(TRANSACTIONS)) == (4, 4)
    assert metrics.RUN_APART.labels("test.do")._value.get() == apart + 5


def test_one_whose_lease_was_lost_takes_nobody_with_it(shop):
    def handler(command, run):
        note(run)
        if command.n == 1 and there.value("select state from haulier.jobs where id = %s", run.job_id) == "running":
            with there.database.plumbing() as tx:
                attempts.settle(tx, [End(run.job_id, run.attempt, there.worker, "queued", "rescued")])

    there = shop(sharing(handler))
    ids = there.submit(*(Do(n=n) for n in range(4)))

    there.deliver(*ids)

    assert ends(there, ids) == ["succeeded", "queued", "succeeded", "succeeded"]
    assert there.value("select count(*) from effects where job_id = %s", ids[1]) == 0


def test_what_may_not_be_done_in_a_transaction_is_done_alone(shop):
    def handler(command, run):
        if command.n == 0:
            run.once("call", lambda key: {"key": key})
        note(run)

    there = shop(sharing(handler))
    ids = there.submit(*(Do(n=n) for n in range(3)))

    there.deliver(*ids)

    assert ends(there, ids) == ["succeeded"] * 3
    assert (there.value(EFFECTS), there.value(TRANSACTIONS)) == (3, 3)


@pytest.mark.parametrize("end", ["commit", "rollback"])
def test_an_end_by_the_handler_itself_harms_no_neighbour(shop, end):
    def handler(command, run):
        note(run)
        with run.transaction() as db:
            if command.n == 1:
                getattr(db, end)()

    there = shop(sharing(handler))
    ids = there.submit(*(Do(n=n) for n in range(3)))

    there.deliver(*ids)

    assert [there.job(job_id).failures for job_id in ids] == [0, 1, 0]
    assert there.value("select array_agg(job_id order by job_id) from effects") == sorted([ids[0], ids[2]])


def test_a_transaction_that_one_has_broken_is_not_given_to_the_next(shop):
    seen = []

    def handler(command, run):
        seen.append(command.n)
        note(run)
        if command.n == 1:
            with contextlib.suppress(DBAPIError):
                run.transaction().__enter__().execute(text("select 1/0"))

    there = shop(sharing(handler))
    ids = there.submit(*(Do(n=n) for n in range(4)))

    there.deliver(*ids)

    assert [there.job(job_id).failures for job_id in ids] == [0, 1, 0, 0]
    assert "a statement failed and its error was hidden" in there.job(ids[1]).error["message"]
    assert seen == [0, 1, 0, 1, 2, 3]
    assert there.value(EFFECTS) == 3


def test_of_many_each_is_answered_for(shop):
    calls = []

    def handler(commands, together):
        calls.append([command.n for command in commands])
        with together.transaction() as db:
            for run, command in zip(together.runs, commands, strict=True):
                if command.n < 2:
                    db.execute(text("insert into effects values (:job, 'done')"), {"job": run.job_id})
        together.runs[0].submit(After())
        return [{"n": 0}, None, Rejected("no"), ValueError("not this time"), Snooze(60)]

    there = shop(doing_many(handler), after)
    ids = there.submit(*(Do(n=n) for n in range(5)))

    there.deliver(*ids)

    assert calls == [[0, 1, 2, 3, 4]]
    assert ends(there, ids) == ["succeeded", "succeeded", "rejected", "scheduled", "scheduled"]
    assert [there.job(job_id).failures for job_id in ids] == [0, 0, 0, 1, 0]
    assert there.job(ids[0]).result == {"n": 0}
    assert there.job(ids[0]).family == {"succeeded": 1, "queued": 1}
    assert there.value(TRANSACTIONS) == 1


def test_of_many_none_of_which_succeeds_nothing_is_written(shop):
    def handler(commands, together):
        note_all(together)
        return [Rejected("no") for _ in commands]

    there = shop(doing_many(handler))
    ids = there.submit(*(Do(n=n) for n in range(3)))

    there.deliver(*ids)

    assert ends(there, ids) == ["rejected"] * 3
    assert there.value(EFFECTS) == 0


def test_many_are_at_most_as_many_as_the_command_takes_and_one_is_one(shop):
    calls = []

    def handler(commands, together):
        calls.append(len(commands))
        note_all(together)

    there = shop(doing_many(handler, most=3))

    there.deliver(*there.submit(*(Do(n=n) for n in range(7))))
    [last] = there.submit(Do(n=9))
    with there.database.plumbing() as tx:
        tx.execute("update haulier.jobs set solo = true where id = %s", (last,))
    there.executor.run_here(begin_one(there, last))

    assert calls == [3, 3, 1, 1]
    assert there.value(EFFECTS) == 8


def begin_one(there, job_id):
    with there.database.plumbing() as tx:
        [job], _ = attempts.begin(tx, there.worker, [(job_id, 1)], {"test.do": 30.0})
    return job


@pytest.mark.parametrize("wrong", ["raises", "too few answers"])
def test_when_many_cannot_be_done_each_is_done_alone(shop, wrong):
    def handler(commands, together):
        note_all(together)
        if any(command.n == 2 for command in commands):
            if wrong == "raises":
                raise ValueError("one of you is bad")
            return []
        return [command.n for command in commands]

    there = shop(doing_many(handler))
    ids = there.submit(*(Do(n=n) for n in range(4)))

    there.deliver(*ids)

    assert ends(there, ids) == ["succeeded", "succeeded", "scheduled", "succeeded"]
    assert [there.job(job_id).result for job_id in ids] == [0, 1, None, 3]
    assert there.value(EFFECTS) == 3


@pytest.mark.parametrize("kind", ["sharing", "many"])
def test_a_statement_past_its_limit_is_cancelled_and_only_the_one_that_did_it_is_blamed(shop, kind):
    def one(command, run):
        note(run)
        if command.n == 1:
            with run.transaction() as db:
                db.execute(text("select pg_sleep(30)"))

    def many(commands, together):
        for command, run in zip(commands, together.runs, strict=True):
            one(command, run)

    there = shop(sharing(one, timeout=0.3) if kind == "sharing" else doing_many(many, timeout=0.3))
    ids = there.submit(*(Do(n=n) for n in range(3)))

    def time_out(lease):
        with there.database.plumbing() as tx:
            late = [replace(held, late=True) for held in workers.held_by(tx, there.worker) if held.job_id == lease.job_id]
            recovery.take_back(tx, late, there.handlers)

    def work():
        there.deliver(*ids)
        there.executor.close()

    thread = threading.Thread(target=work)
    thread.start()
    while thread.is_alive():
        there.running.watch(time_out, lambda: None)
        thread.join(0.02)

    assert ends(there, ids) == ["succeeded", "scheduled", "succeeded"]
    assert [there.job(job_id).failures for job_id in ids] == [0, 1, 0]
    assert there.job(ids[1]).error["code"] == "timeout"
    assert there.value(EFFECTS) == 2


def test_a_process_that_dies_with_many_makes_suspects_of_all(shop):
    seen = []

    def handler(commands, together):
        seen.append(there.slots.read()[1])
        note_all(together)

    there = shop(doing_many(handler))
    there.deliver(*there.submit(Do(n=1), Do(n=2)))
    ids = there.submit(Do(n=3), Do(n=4))
    with there.database.plumbing() as tx:
        attempts.begin(tx, there.worker, [(id_, 1) for id_ in ids], {"test.do": 30.0})
        recovery.recover(tx, there.worker, seen[0], there.handlers)

    assert seen == [{ANY}]
    assert there.slots.read()[1] == set()
    assert there.value("select bool_and(solo) from haulier.outbox where job_id = any(%s)", ids) is True


def test_one_that_runs_alone_is_blamed_for_nothing_that_many_did(shop):
    there = shop(doing_many(lambda _commands, together: note_all(together)))
    ids = there.submit(Do(n=1), Do(n=2))
    with there.database.plumbing() as tx:
        tx.execute("update haulier.jobs set solo = true where id = %s", (ids[0],))
        attempts.begin(tx, there.worker, [(id_, 1) for id_ in ids], {"test.do": 30.0})
        recovery.recover(tx, there.worker, {ANY}, there.handlers)

    assert ends(there, ids) == ["queued", "queued"]
    assert [there.job(job_id).failures for job_id in ids] == [0, 0]


@pytest.mark.parametrize("kind", ["sharing", "many"])
def test_who_dies_while_its_result_is_made_is_the_suspect(shop, kind):
    suspects = []

    class Answer(BaseModel):
        @model_serializer
        def show(self) -> dict[str, int]:
            suspects.append(there.slots.read()[1])
            return {}

    there = shop(
        sharing(lambda _command, _run: Answer())
        if kind == "sharing"
        else doing_many(lambda commands, _together: [Answer() for _ in commands])
    )
    ids = there.submit(Do(n=0), Do(n=1))

    there.deliver(*ids)

    assert ends(there, ids) == ["succeeded", "succeeded"]
    assert suspects == ([{id_} for id_ in ids] if kind == "sharing" else [{ANY}, {ANY}])


def test_a_suspect_shares_with_nobody(shop):
    there = shop(sharing(lambda _command, _run: None))
    there.submit(*(Do(n=n) for n in range(5)))
    with there.database.plumbing() as tx:
        ids = [row[0] for row in tx.execute("select id from haulier.jobs")]
        begun, _ = attempts.begin(tx, there.worker, [(id_, 1) for id_ in ids], {"test.do": 30.0})
    jobs = [job._replace(solo=number in {0, 2}) for number, job in enumerate(begun)]

    assert group(jobs, there.handlers, Shares()) == [[jobs[0]], [jobs[1], jobs[3], jobs[4]], [jobs[2]]]


def test_any_of_many_sees_that_somebody_wants_it_cancelled(shop):
    seen = []

    def handler(_commands, together):
        there.running.cancel([together.runs[2].job_id])
        seen.extend(run.cancelled for run in together.runs)

    there = shop(doing_many(handler))

    there.deliver(*there.submit(*(Do(n=n) for n in range(3))))

    assert [run for run in seen if run] == [True]


def test_a_set_that_waits_for_a_row_gives_up_soon_and_its_jobs_wait_by_themselves(shop):
    """Two sets that wait for each other would wait until Postgres looks for a deadlock: a second."""
    tries = []

    def handler(_command, run):
        tries.append(run.job_id)
        run.execute("update account set n = n + 1")
        note(run)

    there = shop(sharing(handler))
    with there.database.plumbing() as tx:
        tx.execute("create table account (n integer)")
        tx.execute("grant all on account to public")
        tx.execute("insert into account values (0)")
    ids = there.submit(Do(n=0), Do(n=1))

    with psycopg.connect(there.database.url) as other:
        other.execute("update account set n = n + 1")
        release = threading.Timer(0.5, other.commit)
        release.start()
        there.deliver(*ids)
        release.join()

    assert ends(there, ids) == ["succeeded", "succeeded"]
    assert tries == [ids[0], ids[0], ids[1]]  # the first gave up within its set; alone, it waited
    assert there.value("select n from account") == 3


def test_fewer_share_after_a_set_that_was_rolled_back_and_more_again_when_all_goes_well(shop):
    fails = [True]

    def handler(command, run):
        if command.n == 0 and fails:
            raise Broken
        note(run)

    there = shop(sharing(handler))

    there.deliver(*there.submit(*(Do(n=n) for n in range(16))))
    fails.clear()
    with there.database.plumbing() as tx:
        tx.execute("delete from effects")
    there.deliver(*there.submit(*(Do(n=1) for _ in range(16))))
    assert there.value(TRANSACTIONS) == 2  # of eight

    for _ in range(24):
        there.deliver(*there.submit(*(Do(n=1) for _ in range(16))))
    with there.database.plumbing() as tx:
        tx.execute("delete from effects")
    there.deliver(*there.submit(*(Do(n=1) for _ in range(16))))
    assert there.value(TRANSACTIONS) == 1


def test_shares_halve_down_to_two():
    shares, handler = Shares(), sharing(lambda _command, _run: None)
    assert shares.most(handler) == 16

    for jobs in (16, 8, 4, 2):
        shares.rolled_back(handler, jobs)
    assert shares.most(handler) == 2

    for _ in range(3):
        shares.went_well(handler)
    assert shares.most(handler) == 2
    shares.went_well(handler)
    assert shares.most(handler) == 3


@pytest.mark.parametrize("hides", [False, True])
def test_a_deferred_statement_that_fails_is_its_own_jobs_failure(shop, hides):
    """It is sent, and fails, with a statement of the next job, whose handler may even take it for its own."""

    def handler(command, run):
        with contextlib.suppress(UniqueViolation) if hides else contextlib.nullcontext():
            run.execute("insert into effects values ($1, 'at once')", run.job_id)
        if command.n == 1:
            run.defer("insert into taken values (1)")

    there = shop(sharing(handler))
    with there.database.plumbing() as tx:
        tx.execute("create table taken (n integer primary key)")
        tx.execute("grant all on taken to public")
        tx.execute("insert into taken values (1)")
    ids = there.submit(*(Do(n=n) for n in range(4)))

    there.deliver(*ids)

    assert ends(there, ids) == ["succeeded", "scheduled", "succeeded", "succeeded"]
    assert [there.job(job_id).failures for job_id in ids] == [0, 1, 0, 0]
    assert "taken_pkey" in there.job(ids[1]).error["message"]
    assert there.value("select array_agg(job_id order by job_id) from effects") == sorted([ids[0], *ids[2:]])
