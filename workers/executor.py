"""Carry out one delivery on one worker thread: begin the set, acknowledge, run each job, settle.

The deliveries are acknowledged once begin has committed: from there the lease carries the jobs, not RabbitMQ.
"""

from __future__ import annotations

import re
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar
from uuid import UUID

import orjson
import psycopg
import structlog
from psycopg import OperationalError
from pydantic import BaseModel, ValidationError
from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from config.changes import NoChanges, Teller
from config.failpoints import reach
from config.outage import ride_out
from config.transport.message import Message, encode
from ledger import attempts, jobs, orphans
from ledger.attempts import Begun, End, Lease, LeaseLostError, Success
from ledger.connection import Database, send
from pipelines.command import Command, Handler, Rejected, Snooze
from pipelines.many import Together
from workers import metrics, outcome
from workers.connections import ThreadConnections
from workers.delivery import Delivery
from workers.outcome import CutShortError, InvalidPayloadError, ResultTooLargeError
from workers.run import AttemptRun
from workers.running import Entry, Running
from workers.shares import Shares
from workers.slots import ANY, Slots

log = structlog.get_logger()
T = TypeVar("T")

#: Seconds for which a finished job's success may wait for its neighbours, to be written with theirs; one that runs is not interrupted.
GATHER = 0.02
#: Seconds after which a member of a set no longer keeps the ones behind it.
LONG = 1.0
#: Answers of a handler of many that are no results.
NO_SUCCESS = (Rejected, Snooze, BaseException)
#: Seconds for which jobs share a transaction before it is committed, and for which one of them waits for a row: two sets that wait for each
#: other would wait for a second (`deadlock_timeout`), and the one that gives up has its jobs run by themselves.
SHARE = 0.1
PATIENCE = b"set local lock_timeout = '100ms'"
#: Seconds that a solo process may take beyond its handler's own limit, to start and to settle.
SOLO_GRACE = 10.0


class ApartError(Exception):
    """Jobs that were carried out together have to run by themselves."""


class Executor:
    """What the threads of one worker process share."""

    def __init__(
        self,
        worker_id: UUID,
        database: Database,
        handlers: Mapping[str, Handler],
        running: Running,
        slots: Slots,
        stopping: Callable[[], bool],
        wake: Callable[[], None] = lambda: None,
        changes: Teller | None = None,
        max_result_bytes: int = 1 << 20,
    ) -> None:
        self.worker_id = worker_id
        self.begun_through: dict[str, float] = {}
        self._database = database
        self._handlers = handlers
        self._timeouts = {name: handler.timeout for name, handler in handlers.items()}
        self._result_limits = {name: handler.result_limit or max_result_bytes for name, handler in handlers.items()}
        self._running = running
        self._slots = slots
        self._stopping = stopping
        self._wake = wake
        self._changes = changes or NoChanges()
        self._tenants: dict[int, str] = {}
        self._free_slots = list(range(slots.threads))
        self._local = threading.local()
        self._in_hand: set[UUID] = set()
        self._shares = Shares()

    def execute(self, delivery: Delivery) -> None:
        """Never raises for what a job does. Waits for a database that is away; raises OperationalError when told to stop meanwhile."""
        message = delivery.message
        reach("worker.before_begin")
        begun, announced_at = self._begin(message)
        reach("worker.after_begin")
        delivery.acknowledge()
        reach("worker.after_acknowledge")
        self._tell(begun)
        if announced_at is not None:
            self.begun_through[message.queue] = max(announced_at, self.begun_through.get(message.queue, 0.0))
        if len(begun) < len(message.jobs):
            self._decline(message, begun)
        ids = [job.job_id for job in begun]
        self._in_hand.update(ids)
        try:
            self._run_all(begun)
        finally:
            self._in_hand.difference_update(ids)

    def close(self) -> None:
        """Close the calling thread's connections."""
        own: ThreadConnections | None = getattr(self._local, "own", None)
        if own is not None:
            own.reset()

    def run_here(self, job: Begun) -> None:
        """Run one job that is already begun, and write its end: what a solo process does."""
        success = self._run_one(job)
        if success is not None:
            self._complete([success], [job])

    def _begin(self, message: Message) -> tuple[list[Begun], float | None]:
        """After a commit of unknown outcome some may be begun already: those that nobody here runs are this delivery's."""
        expected = [(job.job_id, job.attempt) for job in message.jobs]
        unsure: list[bool] = []

        def begin() -> tuple[list[Begun], float | None]:
            held: list[Begun] = self._plainly(lambda tx: attempts.held(tx, self.worker_id, expected)) if unsure else []
            unsure.append(True)
            begun, announced_at = self._plainly(lambda tx: attempts.begin(tx, self.worker_id, expected, self._timeouts))
            return [job for job in held if job.job_id not in self._in_hand] + begun, announced_at

        return ride_out("the database", begin, (OperationalError,), give_up=self._stopping)

    def _decline(self, message: Message, begun: Sequence[Begun]) -> None:
        taken = {job.job_id for job in begun}
        left = [job.job_id for job in message.jobs if job.job_id not in taken]
        unknown = self._riding_out(lambda tx: attempts.decline(tx, left, list(self._handlers)))
        there = self._riding_out(lambda tx: jobs.exists(tx, left))
        metrics.DUPLICATES.inc(len(there) - unknown)
        if len(there) < len(left):
            self._keep_orphan(Message(message.queue, tuple(job for job in message.jobs if job.job_id in set(left) - there)))
        if unknown:
            log.info("commands that this worker does not know; they are announced again", jobs=unknown)

    def _keep_orphan(self, message: Message) -> None:
        """Jobs that were never in this ledger, or in one that was set back to an older backup."""
        reason = f"it names {len(message.jobs)} job(s) that the ledger does not know, first {message.jobs[0].job_id}"
        self._riding_out(lambda tx: orphans.keep(tx, message.queue, encode(message), reason))
        metrics.ORPHANS.labels(message.queue).inc()
        log.warning("orphan message kept", queue=message.queue, reason=reason)

    def _run_all(self, begun: Sequence[Begun]) -> None:
        """Run a set in order. Successes without a transaction of their own are written together."""
        finished: list[Success] = []
        theirs: list[Begun] = []
        first = 0.0
        groups = deque(group(begun, self._handlers, self._shares))
        while groups:
            started = time.monotonic()
            jobs = groups.popleft()
            chain = groups[0][0].tenant_id if groups and not groups[0][0].solo else None
            together = len(jobs) > 1
            if together:
                groups.extendleft(reversed(self._run_together(jobs, chain)))
            else:
                success = self._run_solo(jobs[0]) if jobs[0].solo else self._run_one(jobs[0], chain)
                if success is not None:
                    first = first if finished else time.monotonic()
                    finished.append(success)
                    theirs.append(jobs[0])
            if finished and time.monotonic() - first > GATHER:
                self._complete(finished, theirs)
                finished, theirs = [], []
            # The set was made for short jobs; others may be free for these.
            if groups and (self._stopping() or (time.monotonic() - started > LONG and not together)):
                self._hand_back([job for left in groups for job in left])
                break
        if finished:
            self._complete(finished, theirs)
        self._threads_own().end_transaction()

    def _attempt(self, job: Begun) -> AttemptRun:
        local = self._threads_own()
        lease = Lease(job.job_id, job.attempt, self.worker_id)
        tenant = self._tenant(job.tenant_id)
        plumbing = ride_out("the database", local.plumbing, (OperationalError,))

        def connect(fresh: bool) -> Connection:
            return local.handlers(job.tenant_id, fresh=fresh)

        timeout = self._handlers[job.command].timeout
        return AttemptRun(job, lease, tenant, timeout, plumbing, connect, self._handlers, self._changes)

    def _run_one(self, job: Begun, chain: int | None = None) -> Success | None:
        """One attempt. Returns a success that is still to be written, or None: its end is written. `chain`: the tenant of the job that follows
        at once.
        """
        local = self._threads_own()
        handler = self._handlers[job.command]
        run = self._attempt(job)
        lease = run.lease
        self._slots.enter(local.slot, job.job_id)
        entry = self._running.enter(lease, run, handler.timeout)
        started = time.perf_counter()
        try:
            found = handler.function(_parse(handler, job), run)
            if isinstance(found, Rejected | Snooze):
                end: object = found
            else:
                return self._succeed(run, job, lease, found, chain)
        except LeaseLostError as lost:
            self._roll_back(run)
            metrics.LEASES_LOST.inc()
            log.warning("lease lost; what this attempt wrote is rolled back", job=str(lost))
            return None
        except (OperationalError, DBAPIError) as error:
            end = self._cut_short(error)
        except BaseException as error:  # noqa: BLE001  (whatever a handler raises, sys.exit too, is judged; nothing is swallowed)
            end = error
        finally:
            self._running.leave(entry)
            self._slots.leave(local.slot)
            metrics.observe_run(job.command, time.perf_counter() - started)
        self._roll_back(run)
        self._settle(outcome.judge(handler, job, self.worker_id, end, run.lines), job)
        return None

    def _succeed(self, run: AttemptRun, job: Begun, lease: Lease, found: object, chain: int | None) -> Success | None:
        """Write the follow-ups and the completion in the handler's own transaction; without one, leave it to the set."""
        result = _checked(_json(found), self._result_limits[run.command])
        follow_ups = run.take_submitted()
        if run.open is None and not follow_ups:
            return Success(lease.job_id, lease.attempt, result, run.lines)
        run.transaction()
        run.check_still_open()
        driver = run.driver
        assert driver is not None
        if follow_ups:
            jobs.submit(driver, follow_ups)
        reach("worker.before_complete")
        attempts.complete(driver, lease, result, run.lines, chain=chain)
        self._threads_own().note_opened(chain)
        run.close()
        reach("worker.after_complete")
        self._tell([job])
        if follow_ups:
            self._wake()
        metrics.succeeded()
        return None

    def _run_together(self, begun: Sequence[Begun], chain: int | None) -> list[list[Begun]]:
        """Carry out jobs of one command and tenant in one transaction. Returns what is left, as it is to be run; nothing of that is written."""
        handler = self._handlers[begun[0].command]
        runs = [self._attempt(job) for job in begun]
        entries: list[Entry] = []
        try:
            runs[0].transaction()
            for run in runs[1:]:
                run.join(runs[0])
            call = self._call_many if handler.many else self._call_each
            answers = call(handler, begun, runs, entries)
            left = begun[len(answers) :]
            self._commit_together(begun, runs, answers, begun[0].tenant_id if left else chain)
        except BaseException as error:  # noqa: BLE001  (each is judged for what happens when it runs by itself)
            for run in runs:
                self._roll_back(run)
            apart = [
                job
                for job in begun
                if not any(entry.ended_at and entry.lease.job_id == job.job_id and not entry.members for entry in entries)
            ]
            metrics.RUN_APART.labels(handler.name).inc(len(apart))
            self._shares.rolled_back(handler, len(begun))
            log.info(
                "a shared transaction is rolled back; its jobs run by themselves", command=handler.name, jobs=len(begun), error=repr(error)
            )
            return [[job] for job in apart]
        self._shares.went_well(handler)
        for job, run, found in zip(begun, runs, answers, strict=False):
            if isinstance(found, NO_SUCCESS):
                self._settle(outcome.judge(handler, job, self.worker_id, found, run.lines), job)
        return [list(left)] if left else []

    def _call_each(self, handler: Handler, begun: Sequence[Begun], runs: Sequence[AttemptRun], entries: list[Entry]) -> Sequence[Any]:
        """Results, as JSON text, of the first jobs, of as many as there is time for."""
        local = self._threads_own()
        assert runs[0].driver is not None
        send(runs[0].driver, PATIENCE)
        until = time.monotonic() + SHARE
        answers: list[Any] = []
        for job, run in zip(begun, runs, strict=True):
            self._slots.enter(local.slot, job.job_id)
            entries.append(self._running.enter(run.lease, run, handler.timeout))
            started = time.perf_counter()
            try:
                answers.append(self._answer(handler, handler.function(_parse(handler, job), run)))
            finally:
                self._running.leave(entries[-1])
                self._slots.leave(local.slot)
                metrics.observe_run(job.command, time.perf_counter() - started)
            if entries[-1].ended_at or isinstance(answers[-1], NO_SUCCESS):
                raise ApartError(f"{job.job_id} did not succeed")
            run.check_still_open()
            if time.monotonic() > until:
                break
        return answers

    def _call_many(self, handler: Handler, begun: Sequence[Begun], runs: Sequence[AttemptRun], entries: list[Entry]) -> Sequence[Any]:
        """An answer for each job: a result as JSON text, or what is none."""
        assert handler.many is not None
        local = self._threads_own()
        self._slots.enter(local.slot, ANY)
        entry = self._running.enter(runs[0].lease, runs[0], handler.timeout, {run.job_id: run for run in runs})
        started = time.perf_counter()
        try:
            found = handler.many([_parse(handler, job) for job in begun], Together(runs))
            answers = [None] * len(begun) if found is None else [self._answer(handler, each) for each in found]
        finally:
            self._running.leave(entry)
            self._slots.leave(local.slot)
            metrics.observe_run(handler.name, time.perf_counter() - started, len(begun))
        if entry.ended_at or len(answers) != len(begun):
            raise ApartError(f"{len(begun)} jobs had {len(answers)} answers" if entry.ended_at is None else "timeout")
        return answers

    def _answer(self, handler: Handler, found: object) -> Any:
        """What was returned for a job, if it is no success, or its result as JSON text. Made while the job is named in its slot: it may be large."""
        return found if isinstance(found, NO_SUCCESS) else _checked(_json(found), self._result_limits[handler.name])

    def _commit_together(self, begun: Sequence[Begun], runs: Sequence[AttemptRun], answers: Sequence[Any], chain: int | None) -> None:
        """Write the follow-ups and completions of those that succeeded in the transaction of all."""
        done = [each for each in zip(begun, runs, answers, strict=False) if not isinstance(each[2], NO_SUCCESS)]
        if not done:
            for run in runs:
                self._roll_back(run)
            return
        successes = [Success(job.job_id, job.attempt, result, run.lines) for job, run, result in done]
        follow_ups = [wish for _, run, _ in done for wish in run.take_submitted()]
        runs[0].check_still_open()
        driver = runs[0].driver
        assert driver is not None
        with self._database.watchdog.guard(driver, self._database.deadlines.call):
            if follow_ups:
                jobs.submit(driver, follow_ups)
            reach("worker.before_complete_together")
            attempts.complete_together(driver, self.worker_id, successes, chain=chain)
        self._threads_own().note_opened(chain)
        for run in runs:
            run.close()
        reach("worker.after_complete_together")
        self._tell([job for job, _, _ in done])
        if follow_ups:
            self._wake()
        metrics.succeeded(len(done))

    def _complete(self, finished: Sequence[Success], jobs: Sequence[Begun]) -> None:
        """Write the successes of these jobs."""
        reach("worker.before_complete_many")
        try:
            held = self._riding_out(lambda tx: attempts.complete_many(tx, self.worker_id, finished))
        except psycopg.DataError as error:
            self._complete_singly(finished, jobs, error)
            return
        reach("worker.after_complete_many")
        self._tell(jobs)
        metrics.succeeded(len(held))
        if len(held) < len(finished):
            metrics.LEASES_LOST.inc(len(finished) - len(held))
            lost = [str(success.job_id) for success in finished if success.job_id not in held]
            log.warning("leases lost; these results are dropped", jobs=lost[:10], count=len(lost))

    def _complete_singly(self, finished: Sequence[Success], jobs: Sequence[Begun], error: psycopg.DataError) -> None:
        """One of these results is nothing that the ledger can keep: its job has failed, and the others have not."""
        if len(finished) > 1:
            for success, job in zip(finished, jobs, strict=True):
                self._complete([success], [job])
            return
        [success], [job] = finished, jobs
        self._settle(outcome.judge(self._handlers[job.command], job, self.worker_id, error, success.log), job)

    def _settle(self, end: End, job: Begun) -> None:
        reach("worker.before_settle")
        try:
            written = self._riding_out(lambda tx: attempts.settle(tx, [end]))
        except psycopg.Error:  # the others of its set still have to be seen to
            log.exception("an attempt's end could not be written; upkeep takes its job back", job=str(end.job_id), attempt=end.attempt)
            return
        reach("worker.after_settle")
        self._tell([job])
        if not written:
            metrics.LEASES_LOST.inc()
            log.warning("lease lost; this attempt's end is not written", job=str(end.job_id), attempt=end.attempt)
            return
        metrics.ENDED.labels(end.kind).inc()
        if end.state in {"queued", "rejected", "dead"}:
            self._wake()  # it, or the follow-up of its end, is due now
        log.info("attempt ended", end=end.kind, job=str(end.job_id), attempt=end.attempt, state=written[end.job_id], reason=end.reason)

    def _hand_back(self, left: Sequence[Begun]) -> None:
        """Begun and not started, and this process is stopping: queued again, blamed for nothing."""
        ends = [End(job.job_id, job.attempt, self.worker_id, "queued", "handed_back", solo=job.solo) for job in left]
        self._riding_out(lambda tx: attempts.settle(tx, ends))
        self._tell(left)

    def _tell(self, jobs: Sequence[Begun]) -> None:
        """After a commit, those who wait for these jobs. A microsecond each; it neither blocks nor fails."""
        for job in jobs:
            self._changes.tell(job.job_id, job.root_id, job.tenant_id)

    def _run_solo(self, job: Begun) -> None:
        """Run a suspect in a process of its own: if it takes that process down, the failure is its own and nobody else's."""
        handler = self._handlers[job.command]
        order = orjson.dumps({"job_id": job.job_id, "attempt": job.attempt, "worker_id": self.worker_id})
        lease = Lease(job.job_id, job.attempt, self.worker_id)
        entry = self._running.enter(lease, None, handler.timeout + SOLO_GRACE)
        process = subprocess.Popen([sys.executable, "-m", "workers.solo"], stdin=subprocess.PIPE)
        try:
            process.communicate(order, timeout=handler.timeout + SOLO_GRACE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            self._settle(outcome.fail(handler, job, self.worker_id, outcome.timed_out(), None, None, "timeout"), job)
            return
        finally:
            self._running.leave(entry)
        if process.returncode:
            how = (
                f"its process ended by signal {-process.returncode}"
                if process.returncode < 0
                else f"its process exited with {process.returncode}"
            )
            end = outcome.fail(handler, job, self.worker_id, outcome.crashed(how), None, None, "crashed")
            self._settle(replace(end, solo=True), job)

    def _cut_short(self, error: Exception) -> Exception:
        """A lost connection or a deadlock is nobody's fault; any other statement that failed is the handler's."""
        cause = error.orig if isinstance(error, DBAPIError) else error
        if not isinstance(cause, psycopg.Error) or not _is_nobodys_fault(cause):
            return error
        return CutShortError(f"the database went away or chose another: {cause}")

    def _roll_back(self, run: AttemptRun) -> None:
        try:
            run.roll_back()
        except (OperationalError, DBAPIError):
            self._threads_own().reset()  # the server rolls back by itself when the connection is gone
            run.open = run.driver = None

    def _tenant(self, tenant_id: int) -> str:
        if tenant_id not in self._tenants:
            self._tenants.update(self._riding_out(lambda tx: dict(tx.execute("select id, slug from haulier.tenants").fetchall())))
        return self._tenants[tenant_id]

    def _plainly(self, call: Callable[[psycopg.Connection[Any]], T]) -> T:
        """One use of the thread's plumbing connection; one that broke is replaced before the next."""
        local = self._threads_own()
        connection = local.plumbing()
        try:
            with self._database.watchdog.guard(connection, self._database.deadlines.call):
                return call(connection)
        except psycopg.Error:  # after a migration, too, which may have changed what a prepared statement returns
            local.reset()
            raise

    def _riding_out(self, call: Callable[[psycopg.Connection[Any]], T]) -> T:
        """For the end of an attempt: it is written as soon as the database is back (and the fence says whether it still counts)."""
        return ride_out("the database", lambda: self._plainly(call), (OperationalError,))

    def _threads_own(self) -> ThreadConnections:
        own: ThreadConnections | None = getattr(self._local, "own", None)
        if own is None:
            own = self._local.own = ThreadConnections(self._database, self._free_slots.pop())
        return own


def _is_nobodys_fault(error: psycopg.Error) -> bool:
    """No answer at all, a server that goes down or has no room (class 53: disk, memory, connections; I/O errors), or a deadlock that chose this one."""
    state = error.sqlstate
    if state is None:
        return isinstance(error, OperationalError)
    return state[:2] in {"08", "53"} or state in {"57P01", "57P02", "57P03", "58030", "40001", "40P01"}


def _parse(handler: Handler, job: Begun) -> Command:
    try:
        return handler.command.model_validate_json(job.payload)
    except ValidationError as error:
        raise InvalidPayloadError(error) from None


def _json(found: object) -> str | None:
    if found is None:
        return None
    if isinstance(found, BaseModel):
        return found.model_dump_json()
    return orjson.dumps(found).decode()


def _checked(result: str | None, limit: int) -> str | None:
    """JSON may hold a NUL, jsonb may not: better this attempt fails than a set of them cannot be written. Raises ResultTooLargeError."""
    if result is not None and len(result) * 4 > limit and (size := len(result.encode())) > limit:
        raise ResultTooLargeError(size, limit)
    if result is not None and _NUL.search(result):
        raise ValueError("the result holds a NUL character (U+0000), which the ledger cannot keep")
    return result


_NUL = re.compile(r"(?<!\\)(?:\\\\)*\\u0000")


def group(begun: Sequence[Begun], handlers: Mapping[str, Handler], shares: Shares) -> list[list[Begun]]:
    """What may share a transaction, side by side; all else by itself. In order, by the first of each group."""
    groups: list[list[Begun]] = []
    open_groups: dict[tuple[str, int], list[Begun]] = {}
    for job in begun:
        name = (job.command, job.tenant_id)
        most = 1 if job.solo else shares.most(handlers[job.command])
        joined = open_groups.get(name) if most > 1 else None
        if joined is not None and len(joined) < most:
            joined.append(job)
            continue
        groups.append([job])
        if most > 1:
            open_groups[name] = groups[-1]
    return groups
