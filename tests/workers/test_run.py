"""The run that a handler is given: its transaction, its calls to the outside, and what is kept of what it tells."""

from __future__ import annotations

import contextlib
import time

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from ledger import attempts
from ledger.connection import driver_of
from pipelines.command import handles
from pipelines.run import Refused
from tests.workers.commands import After, Do, after, doing, note
from workers import metrics, recovery

IDLING = "select count(*) from pg_stat_activity where datname = current_database() and state = 'idle in transaction'"


def test_what_a_handler_reads_holds_no_transaction_open(shop):
    def handler(_command, run):
        with run.read() as db:
            assert db.execute(text("select 1")).scalar() == 1
        run.once("call", lambda key: key)
        with run.transaction(), pytest.raises(RuntimeError, match="open transaction"), run.read():
            pass

    assert shop(doing(handler)).run(Do()).state == "succeeded"


def test_a_call_is_made_once_and_its_result_is_kept_for_the_next_attempt(shop):
    calls: list[str] = []

    def handler(_command, run):
        result = run.once("charge", lambda key: calls.append(key) or {"id": 9})
        if run.attempt == 1:
            raise ValueError("after the call")
        return result

    there = shop(doing(handler))
    job = there.run(Do())
    there.due_now()
    there.deliver(job.id, attempt=2)

    assert calls == [f"{job.id}:charge:0"]
    assert there.job(job.id).result == {"id": 9}


def test_an_unknown_outcome_is_asked_again_with_the_same_key_or_reviewed(shop):
    calls: list[str] = []

    def honoured(_command, run):
        return run.once("charge", lambda key: calls.append(key) or (1 / 0 if len(calls) == 1 else "paid"))

    there = shop(doing(honoured))
    job = there.run(Do())
    there.due_now()
    there.deliver(job.id, attempt=2)

    assert calls == [f"{job.id}:charge:0"] * 2
    assert there.job(job.id).result == "paid"


def test_a_service_that_takes_no_key_is_never_called_blindly_again(shop):
    calls: list[str] = []

    def naive(_command, run):
        return run.once("fax", lambda key: calls.append(key) or 1 / 0, honours_key=False)

    there = shop(doing(naive))
    job = there.run(Do())
    there.due_now()
    there.deliver(job.id, attempt=2)

    job = there.job(job.id)
    assert (job.state, job.reason, len(calls)) == ("dead", "needs_review", 1)


def test_a_refusal_is_recorded_as_one(shop):
    def handler(_command, run):
        def refuse(_key):
            raise Refused("card unknown")

        run.once("charge", refuse)

    there = shop(doing(handler))

    there.run(Do())

    assert there.value("select state from haulier.external_calls") == "refused"


def test_a_transaction_begins_with_its_first_statement(shop):
    begun: list[list[int]] = []

    def handler(_command, run):
        begun.append([])
        with run.transaction():
            begun[-1].append(there.value(IDLING))
            if len(begun) == 1:
                raise ValueError("before any statement")
            if len(begun) == 2:
                note(run)
                begun[-1].append(there.value(IDLING))

    there = shop(doing(handler))

    assert [there.run(Do()).state for _ in range(3)] == ["scheduled", "succeeded", "succeeded"]
    assert begun == [[0], [0, 1], [0]]
    assert there.value("select count(*) from effects") == 1


def by_transaction(driver, _run, note):
    with driver.transaction():
        driver.execute(*note)


def by_pipeline(driver, _run, note):
    with driver.pipeline():
        driver.execute(*note)


def by_copy(driver, _run, note):
    with driver.cursor().copy("copy effects from stdin") as copy:
        copy.write_row(note[1])


def by_server_cursor(driver, _run, note):
    with driver.cursor("rows") as rows:
        rows.execute("select 1")
        assert rows.fetchall() == [(1,)]
    driver.execute(*note)


def by_session(_driver, run, _note):
    with run.session() as session:
        session.execute(text("insert into effects values (:job, 'done')"), {"job": run.job_id})


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("first", [by_transaction, by_pipeline, by_copy, by_server_cursor, by_session])
def test_whatever_comes_first_is_within_the_transaction(shop, first, fails):
    def handler(_command, run):
        with run.transaction() as db:
            first(driver_of(db), run, ("insert into effects values (%s, %s)", (run.job_id, "done")))
        if fails:
            raise ValueError("after it")

    there = shop(doing(handler))

    job = there.run(Do())

    assert (job.state, there.value("select count(*) from effects")) == (("scheduled", 0) if fails else ("succeeded", 1)), job.error


def test_no_call_to_the_outside_while_a_transaction_is_open(shop):
    def handler(_command, run):
        note(run)
        run.once("charge", lambda _key: pytest.fail("called"))

    there = shop(doing(handler))

    job = there.run(Do())

    assert "inside an open transaction" in job.error["message"]


def test_a_long_job_goes_on_from_its_checkpoint_and_shows_its_progress(shop):
    def handler(_command, run):
        if run.attempt == 1:
            run.checkpoint({"page": 3})
            run.progress(3, 10, "page 3")
            run.log("half-way", page=3)
            raise ValueError
        return run.restored

    there = shop(doing(handler))
    job = there.run(Do())
    assert job.progress == {"done": 3, "total": 10, "message": "page 3"}
    assert there.attempts(job.id)[0].log[0]["message"] == "half-way"
    there.due_now()
    there.deliver(job.id, attempt=2)

    job = there.job(job.id)
    assert job.result == {"page": 3}
    assert job.progress is None  # that was the attempt before


def test_a_handler_that_ends_its_transaction_by_itself_is_told_so(shop):
    def handler(_command, run):
        note(run)
        with run.transaction() as db:
            db.rollback()

    job = shop(doing(handler)).run(Do())

    assert (job.state, job.error["code"]) == ("scheduled", "unexpected")
    assert "has ended run.transaction() by itself" in job.error["message"]


def test_after_a_set_no_transaction_stays_open(shop):
    there = shop(doing(lambda command, run: note(run) if command.n % 2 else None))

    for count in (1, 3, 2):
        there.deliver(*there.submit(*(Do(n=n + 1) for n in range(count))))

    assert there.value("select count(*) from effects") == 4
    assert there.value("select count(*) from haulier.jobs where state = 'succeeded'") == 6
    idle = "select count(*) from pg_stat_activity where datname = current_database() and state = 'idle in transaction'"
    assert there.value(idle) == 0


def test_what_a_handler_commits_by_itself_is_noticed_whatever_it_does_then(shop):
    def handler(_command, run):
        with run.transaction() as db, contextlib.suppress(RuntimeError):
            db.commit()
        run.submit(After())

    there = shop(doing(handler), after)
    job = there.run(Do())

    assert "has ended run.transaction() by itself" in job.error["message"]
    assert there.value("select count(*) from haulier.jobs where command = 'test.after'") == 0


def test_plain_statements_are_in_the_same_transaction(shop):
    def handler(command, run):
        assert run.execute("insert into effects values ($1, 'at once')", run.job_id).rowcount == 1
        run.defer("insert into effects values ($1, 'deferred')", run.job_id)
        note(run)
        run.defer("insert into effects values ($1, 'with the end')", run.job_id)
        if command.n:
            raise ValueError("no")

    there = shop(doing(handler))
    there.run(Do())
    there.run(Do(n=1))

    assert there.value("select array_agg(what order by what) from effects") == ["at once", "deferred", "done", "with the end"]
    assert there.value("select count(distinct xmin::text) from effects") == 1


@pytest.mark.parametrize("by", ["SQLAlchemy", "driver"])
def test_a_commit_of_its_own_is_refused_a_handler_before_it_happens(shop, by):
    def handler(_command, run):
        note(run)
        with run.transaction() as db:
            (db if by == "SQLAlchemy" else driver_of(db)).commit()

    there = shop(doing(handler))
    job = there.run(Do())

    assert (job.state, job.failures) == ("scheduled", 1)
    assert "not the handler's to make" in job.error["message"]
    assert there.value("select count(*) from effects") == 0


@pytest.mark.parametrize("end", ["SQLAlchemy's commit", "SQLAlchemy's rollback", "driver's commit", "driver's rollback"])
def test_what_a_handler_does_behind_the_end_of_its_transaction_is_no_effect(shop, end):
    """Not even in the transaction of the job that follows on the same connection."""
    of, _, ending = end.partition("'s ")

    def handler(command, run):
        with run.transaction() as db:
            if command.n == 1:
                with contextlib.suppress(RuntimeError):
                    getattr(db if of == "SQLAlchemy" else driver_of(db), ending)()
                run.execute("insert into effects values ($1, 'behind the end')", run.job_id)
            run.execute("insert into effects values ($1, 'done')", run.job_id)

    there = shop(doing(handler))
    ids = there.submit(*(Do(n=n) for n in range(4)))

    there.deliver(*ids)

    assert [there.job(id_).state for id_ in ids] == ["succeeded", "scheduled", "succeeded", "succeeded"]
    assert "has ended run.transaction() by itself" in there.job(ids[1]).error["message"]
    assert there.value("select count(*) from effects where job_id = %s", ids[1]) == 0
    assert there.value("select count(*) from effects") == 3


def test_an_error_of_a_statement_that_its_handler_hides_is_named(shop):
    def handler(_command, run):
        note(run)
        with contextlib.suppress(DBAPIError):
            run.transaction().__enter__().execute(text("select 1/0"))

    there = shop(doing(handler))
    job = there.run(Do())

    assert "a statement failed and its error was hidden" in job.error["message"]
    assert there.value("select count(*) from effects") == 0


@pytest.mark.parametrize("end", ["commit", "rollback"])
def test_what_a_handler_ends_through_the_driver_is_noticed_as_well(shop, end):
    def handler(_command, run):
        with run.transaction() as db:
            driver_of(db).execute(end)

    job = shop(doing(handler)).run(Do())

    assert "has ended run.transaction() by itself" in job.error["message"]


def test_lines_are_shown_while_it_runs_and_kept_when_its_process_dies(shop, monkeypatch):
    monkeypatch.setattr("workers.run.LINES_EVERY", 0.0)
    seen = []

    def handler(_command, run):
        run.log("half-way")
        seen.append(there.attempts(run.job_id)[-1])
        with there.database.plumbing() as tx:
            recovery.recover(tx, there.worker, {run.job_id}, there.handlers)

    there = shop(doing(handler))
    job = there.run(Do())

    assert [(attempt.outcome, attempt.log[0]["message"]) for attempt in seen] == [("running", "half-way")]
    assert [(attempt.outcome, attempt.log[0]["message"]) for attempt in there.attempts(job.id)] == [("rescued", "half-way")]


def test_a_short_attempt_writes_its_lines_once(shop):
    def handler(_command, run):
        run.log("at once")
        assert there.value("select log from haulier.leases") is None

    there = shop(doing(handler))
    job = there.run(Do())

    assert (job.state, there.attempts(job.id)[0].log[0]["message"]) == ("succeeded", "at once")


def test_a_nul_in_a_result_fails_its_job_and_one_in_a_log_line_harms_nobody(shop):
    def handler(command, run):
        run.log("a \0 and a \udcff in it", fact="\0", other="\udcff")
        return {"text": "\0" if command.n == 1 else r"\u0000 is only spelled out"}

    there = shop(doing(handler))
    ids = there.submit(Do(n=0), Do(n=1), Do(n=2))

    there.deliver(*ids)

    assert [there.job(id_).state for id_ in ids] == ["succeeded", "scheduled", "succeeded"]
    assert there.job(ids[2]).result == {"text": r"\u0000 is only spelled out"}
    assert "NUL character" in there.job(ids[1]).error["message"]
    assert all("in it" in str(there.attempts(id_)[0].log) for id_ in ids)


def test_one_jobs_isolation_level_is_not_the_nexts(shop):
    def handler(_command, run):
        with run.transaction() as db:
            level = db.execute(text("show transaction_isolation")).scalar()
            note(run, level)
            db.execute(text("set constraints all immediate"))
        return level

    def serializable(_command, run):
        with run.transaction() as db:
            db.execute(text("set transaction isolation level serializable"))
            note(run)

    there = shop(doing(serializable), handles(After, queue="test")(handler))

    there.deliver(*there.submit(Do(), After()))

    assert there.value("select what from effects where what <> 'done'") == "read committed"


def test_a_transaction_that_idled_behind_a_slow_start_is_not_used(shop, monkeypatch):
    """The server ends a connection that is idle in its transaction; the job before this one opened it."""
    monkeypatch.setattr("workers.connections.STALE", 0.0)

    def handler(command, run):
        if command.n:
            end_idle_transactions(there)
        note(run)

    there = shop(doing(handler))
    ids = there.submit(Do(n=0), Do(n=1))

    there.deliver(*ids)

    assert [there.job(id_).state for id_ in ids] == ["succeeded", "succeeded"]
    assert there.value("select count(*) from effects") == 2


def end_idle_transactions(there):
    there.value("select count(pg_terminate_backend(pid)) from pg_stat_activity where state = 'idle in transaction'")


def test_a_transaction_that_idled_while_others_were_settled_is_not_used(shop, monkeypatch):
    monkeypatch.setattr("workers.connections.STALE", 0.02)
    monkeypatch.setattr("workers.executor.GATHER", 0.0)
    complete_many = attempts.complete_many

    def slowly(*arguments):
        time.sleep(0.03)
        end_idle_transactions(there)
        return complete_many(*arguments)

    monkeypatch.setattr(attempts, "complete_many", slowly)
    there = shop(doing(lambda command, run: note(run) if command.n != 1 else None))
    ids = there.submit(Do(n=0), Do(n=1), Do(n=2))

    there.deliver(*ids)

    assert [there.job(id_).failures for id_ in ids] == [0, 0, 0]
    assert there.value("select count(*) from effects") == 2


def write(session, run, what):
    session.execute(text("insert into effects values (:job, :what)"), {"job": run.job_id, "what": what})


def in_a_savepoint(run):
    with run.transaction() as db, db.begin_nested(), run.session() as session:
        write(session, run, "done")


def in_a_savepoint_left_open(run):
    with run.session() as session:
        session.begin_nested()
        write(session, run, "done")


def after_a_savepoint_left_open(run):
    with run.transaction() as db:
        db.begin_nested()
    with run.session() as session:
        write(session, run, "done")


@pytest.mark.parametrize("way", [in_a_savepoint, in_a_savepoint_left_open, after_a_savepoint_left_open])
@pytest.mark.parametrize("shares", [False, True], ids=["each", "sharing"])
def test_a_session_and_a_savepoint_end_with_their_own_job(shop, way, shares):
    def handler(command, run):
        way(run)
        run.submit(After())
        if command.n == 2:
            raise ValueError("no")

    there = shop(doing(handler, shares_transaction=shares), after)
    ids = there.submit(*(Do(n=n) for n in range(5)))
    lost, said = metrics.LEASES_LOST._value.get(), metrics.ENDED.labels("succeeded")._value.get()

    there.deliver(*ids)

    assert [there.job(id_).state for id_ in ids] == ["succeeded", "succeeded", "scheduled", "succeeded", "succeeded"]
    assert there.value("select array_agg(job_id order by job_id) from effects") == sorted(set(ids) - {ids[2]})
    assert (metrics.LEASES_LOST._value.get(), metrics.ENDED.labels("succeeded")._value.get()) == (lost, said + 4)


def test_a_record_of_log_lines_is_bounded_in_bytes_and_says_what_is_missing(shop):
    def handler(command, run):
        for number in range(command.n):
            run.log("line", number=number, blob="x" * 20_000)

    busy = shop(doing(handler))
    [few] = busy.attempts(busy.run(Do(n=3)).id)
    [many] = busy.attempts(busy.run(Do(n=10)).id)

    assert [line["number"] for line in few.log] == [0, 1, 2]
    assert [line.get("number") for line in many.log] == [0, 1, 2, None]
    assert many.log[-1]["message"] == "7 further lines were not kept; an attempt keeps 100 lines and 65536 bytes"
