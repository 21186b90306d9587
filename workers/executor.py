"""Carry out one delivery on one worker thread: begin the set, acknowledge, run each job, settle.

The deliveries are acknowledged once begin has committed: from there the lease carries the jobs, not RabbitMQ.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar
from uuid import UUID

import orjson
import structlog
from psycopg import OperationalError
from pydantic import ValidationError
from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from config.changes import NoChanges, Teller
from config.failpoints import reach
from config.metrics import part_of_this_place
from config.outage import ride_out
from config.transport.message import Message, encode
from ledger import attempts, jobs, orphans
from ledger.attempts import Begun, Lease, LeaseLostError, Success
from ledger.connection import Database
from pipelines.command import Command, Handler, Rejected, Snooze
from pipelines.many import Together
from workers import metrics, outcome
from workers.connections import Connections
from workers.delivery import Delivery
from workers.ends import Ends
from workers.outcome import InvalidPayloadError
from workers.run import AttemptRun
from workers.running import Entry, Running
from workers.shares import Shares, group
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
        self._connections = Connections(database, slots.threads)
        self._ends = Ends(worker_id, self._connections, handlers, self._changes, wake)
        self._tenants: dict[int, str] = {}
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
        self._ends.tell(begun)
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
        self._connections.close()

    def run_here(self, job: Begun) -> None:
        """Run one job that is already begun, and write its end: what a solo process does."""
        success = self._run_one(job)
        if success is not None:
            self._ends.complete([success], [job])

    def _begin(self, message: Message) -> tuple[list[Begun], float | None]:
        """After a commit of unknown outcome some may be begun already: those that nobody here runs are this delivery's."""
        expected = [(job.job_id, job.attempt) for job in message.jobs]
        unsure: list[bool] = []

        def begin() -> tuple[list[Begun], float | None]:
            held: list[Begun] = self._connections.plainly(lambda tx: attempts.held(tx, self.worker_id, expected)) if unsure else []
            unsure.append(True)
            begun, announced_at = self._connections.plainly(lambda tx: attempts.begin(tx, self.worker_id, expected, self._timeouts))
            return [job for job in held if job.job_id not in self._in_hand] + begun, announced_at

        return ride_out("the database", begin, (OperationalError,), give_up=self._stopping)

    def _decline(self, message: Message, begun: Sequence[Begun]) -> None:
        taken = {job.job_id for job in begun}
        left = [job.job_id for job in message.jobs if job.job_id not in taken]
        unknown = self._connections.riding_out(lambda tx: attempts.decline(tx, left, list(self._handlers)))
        there = self._connections.riding_out(lambda tx: jobs.exists(tx, left))
        metrics.DUPLICATES.inc(len(there) - unknown)
        if len(there) < len(left):
            self._keep_orphan(Message(message.queue, tuple(job for job in message.jobs if job.job_id in set(left) - there)))
        if unknown:
            log.info("commands that this worker does not know; they are announced again", jobs=unknown)

    def _keep_orphan(self, message: Message) -> None:
        """Jobs that were never in this ledger, or in one that was set back to an older backup."""
        reason = f"it names {len(message.jobs)} job(s) that the ledger does not know, first {message.jobs[0].job_id}"
        self._connections.riding_out(lambda tx: orphans.keep(tx, message.queue, encode(message), reason))
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
                self._ends.complete(finished, theirs)
                finished, theirs = [], []
            # The set was made for short jobs; others may be free for these.
            if groups and (self._stopping() or (time.monotonic() - started > LONG and not together)):
                self._ends.hand_back([job for left in groups for job in left])
                break
        if finished:
            self._ends.complete(finished, theirs)
        self._connections.own().end_transaction()

    def _attempt(self, job: Begun) -> AttemptRun:
        local = self._connections.own()
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
        local = self._connections.own()
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
            end = outcome.cut_short(error)
        except BaseException as error:  # noqa: BLE001  (whatever a handler raises, sys.exit too, is judged; nothing is swallowed)
            end = error
        finally:
            self._running.leave(entry)
            self._slots.leave(local.slot)
            metrics.observe_run(job.command, time.perf_counter() - started)
        self._roll_back(run)
        self._ends.settle(outcome.judge(handler, job, self.worker_id, end, run.lines), job)
        return None

    def _succeed(self, run: AttemptRun, job: Begun, lease: Lease, found: object, chain: int | None) -> Success | None:
        """Write the follow-ups and the completion in the handler's own transaction; without one, leave it to the set."""
        result = outcome.result_of(found, self._result_limits[run.command])
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
        self._connections.own().note_opened(chain)
        run.close()
        reach("worker.after_complete")
        self._ends.tell([job])
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
                self._ends.settle(outcome.judge(handler, job, self.worker_id, found, run.lines), job)
        return [list(left)] if left else []

    def _call_each(self, handler: Handler, begun: Sequence[Begun], runs: Sequence[AttemptRun], entries: list[Entry]) -> Sequence[Any]:
        """Results, as JSON text, of the first jobs, of as many as there is time for."""
        local = self._connections.own()
        assert runs[0].driver is not None
        runs[0].driver.send_with_next(PATIENCE)
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
        local = self._connections.own()
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
        return found if isinstance(found, NO_SUCCESS) else outcome.result_of(found, self._result_limits[handler.name])

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
        self._connections.own().note_opened(chain)
        for run in runs:
            run.close()
        reach("worker.after_complete_together")
        self._ends.tell([job for job, _, _ in done])
        if follow_ups:
            self._wake()
        metrics.succeeded(len(done))

    def _run_solo(self, job: Begun) -> None:
        """Run a suspect in a process of its own: if it takes that process down, the failure is its own and nobody else's."""
        handler = self._handlers[job.command]
        order = orjson.dumps({"job_id": job.job_id, "attempt": job.attempt, "worker_id": self.worker_id})
        lease = Lease(job.job_id, job.attempt, self.worker_id)
        entry = self._running.enter(lease, None, handler.timeout + SOLO_GRACE)
        environment = {**os.environ, **part_of_this_place(self._connections.own().slot)}
        process = subprocess.Popen([sys.executable, "-m", "workers.solo"], env=environment, stdin=subprocess.PIPE)
        try:
            process.communicate(order, timeout=handler.timeout + SOLO_GRACE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            self._ends.settle(outcome.fail(handler, job, self.worker_id, outcome.timed_out(), None, None, "timeout"), job)
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
            self._ends.settle(replace(end, solo=True), job)

    def _roll_back(self, run: AttemptRun) -> None:
        try:
            run.roll_back()
        except (OperationalError, DBAPIError):
            self._connections.own().reset()  # the server rolls back by itself when the connection is gone
            run.open = run.driver = None

    def _tenant(self, tenant_id: int) -> str:
        if tenant_id not in self._tenants:
            self._tenants.update(
                self._connections.riding_out(lambda tx: dict(tx.execute("select id, slug from haulier.tenants").fetchall()))
            )
        return self._tenants[tenant_id]


def _parse(handler: Handler, job: Begun) -> Command:
    try:
        return handler.command.model_validate_json(job.payload)
    except ValidationError as error:
        raise InvalidPayloadError(error) from None
