"""One worker process: Dramatiq's threads, the heartbeat that holds their leases, and the watcher of their deadlines.

Started by the runner as `python -m workers.unit`; inside `haulier dev` it shares a process with intake and relay.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import dramatiq
import psycopg
import structlog
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from config import changes, logs, stillness
from config.changes import Changes
from config.ids import uuid7
from config.settings import RELEASE, Settings
from config.signals import on_stop
from ledger import attempts, orphans, workers
from ledger.attempts import End, Lease
from ledger.connection import Database
from ledger.roles import Role
from ledger.waking import Waker
from pipelines.command import Handler
from pipelines.load import load
from workers import metrics, outcome, recovery
from workers.broker import DeliveryBroker, Perform, QuorumBroker
from workers.executor import Executor
from workers.running import Running
from workers.slots import Slots

log = structlog.get_logger()

#: Exit code of a process that wants to be replaced: a handler survived its timeout.
REPLACE_ME = 75


class Unit:
    """Everything of one worker process. `start`, then `stop` from any thread; `wait` returns the exit code."""

    def __init__(
        self,
        settings: Settings,
        database: Database,
        handlers: Mapping[str, Handler],
        make_broker: Callable[[Perform], DeliveryBroker],
        queues: Sequence[str],
        slots: Slots,
        bus: Changes,
    ) -> None:
        self.id = uuid7()
        self._changes = bus
        self._settings = settings
        self._database = database
        self._handlers = handlers
        self._queues = list(queues)
        self._running = Running()
        self._stop = threading.Event()
        self._code = 0
        self._waker = Waker(database)
        slots.sign(self.id)
        most = settings.max_result_bytes
        self._executor = Executor(self.id, database, handlers, self._running, slots, self._stop.is_set, self._waker.wake, bus, most)
        self._broker = make_broker(self._executor.execute)
        self._worker = dramatiq.Worker(self._broker, queues=set(self._queues), worker_threads=slots.threads, worker_timeout=250)
        self._beat = threading.Thread(target=self._keep_beating, name="heartbeat", daemon=True)
        self._watch = threading.Thread(target=self._keep_watching, name="watcher", daemon=True)

    def start(self) -> None:
        with self._database.plumbing() as tx:
            workers.register(tx, self.id, "worker", RELEASE, self._queues, list(self._handlers))
        self._waker.start()
        self._beat.start()
        self._watch.start()
        self._worker.start()
        log.info("worker started", worker=str(self.id), queues=self._queues, threads=len(self._worker.workers))

    def stop(self, code: int = 0) -> None:
        """Take nothing new; `wait` drains."""
        self._code = max(self._code, code)
        self._stop.set()
        self._broker.pause()

    def wait(self) -> int:
        """Until told to stop; then let what runs finish within the drain time, hand the rest back, and leave in order."""
        self._stop.wait()
        until = time.monotonic() + self._settings.drain
        log.info("worker stops; what runs may finish", worker=str(self.id), seconds=self._settings.drain)
        stopper = threading.Thread(target=self._worker.stop, args=(int(self._settings.drain * 1000),), daemon=True)
        stopper.start()
        while stopper.is_alive() and time.monotonic() < until and not (self._code == REPLACE_ME and self._only_stuck()):
            stopper.join(0.05)
        self._waker.close()
        try:
            self._hand_back()
            with self._database.plumbing() as tx:
                workers.stop(tx, self.id)
        except (psycopg.OperationalError, PoolTimeoutError) as error:
            log.warning("could not say good-bye; the leases will run out", error=str(error).strip())
        self._changes.close()
        return self._code

    def _only_stuck(self) -> bool:
        return all(entry.ended_at is not None for entry in self._running.entries())

    def _hand_back(self) -> None:
        """What still runs, and what was begun with it and has not started."""
        ran = set(self._running.job_ids())
        suspects = {job for entry in self._running.entries() if entry.ended_at is not None for job in entry.members}
        with self._database.plumbing() as tx:
            left = workers.held_by(tx, self.id)
            ends = [
                End(
                    held.job_id,
                    held.attempt,
                    self.id,
                    "queued",
                    "interrupted" if held.job_id in ran else "handed_back",
                    solo=held.solo or held.job_id in suspects,
                )
                for held in left
            ]
            handed = attempts.settle(tx, ends)
        recovery.tell(self._changes, left)
        if handed:
            log.warning("drain time is over; jobs are handed back", jobs=[str(job) for job in handed])

    def _keep_beating(self) -> None:
        away = False
        while not stillness.wait(self._stop, self._settings.heartbeat, self._settings.lease / 2) or self._running.entries():
            try:
                self._beat_once()
                if away:
                    log.info("the heartbeat reaches the database again")
                away = False
            except (psycopg.Error, PoolTimeoutError) as error:
                if not away:
                    log.warning("the heartbeat does not reach the database", error=str(error).strip())
                away = True
            if self._stop.is_set():
                time.sleep(self._settings.heartbeat / 4)

    def _beat_once(self) -> None:
        with self._database.plumbing(deadline=self._settings.heartbeat * 2) as tx:
            known, cancelled = workers.heartbeat(tx, self.id, self._running.job_ids(), dict(self._executor.begun_through) or None)
            if not known:
                workers.register(tx, self.id, "worker", RELEASE, self._queues, list(self._handlers))
            means = metrics.take_means()
            if means:
                workers.measure(tx, means)
        self._running.cancel(cancelled)

    def _keep_watching(self) -> None:
        while not self._stop.is_set() or self._running.entries():
            try:
                self._running.watch(self._time_out, lambda: self.stop(REPLACE_ME))
            except Exception:  # without its watcher, a process enforces no timeout any more
                log.exception("the watcher failed; it goes on")
            time.sleep(0.2)

    def _time_out(self, lease: Lease) -> None:
        """Settle an attempt past its limit, fenced: whatever its thread writes later finds the lease gone."""
        try:
            with self._database.plumbing() as tx:
                found = [held for held in workers.held_by(tx, self.id) if held.job_id == lease.job_id and held.attempt == lease.attempt]
                for held in found:
                    late = replace(held, late=True)
                    attempts.settle(tx, [outcome.lapse(late, self._handlers[held.command].retry, guilty=True)])
            recovery.tell(self._changes, found)
        except (psycopg.Error, PoolTimeoutError) as error:
            log.warning("the timed-out attempt could not be settled; upkeep will", job=str(lease.job_id), error=str(error).strip())


def keep_orphan(database: Database) -> Any:
    """What a broker does with a message that names no readable job."""

    def keep(queue: str, body: bytes, reason: str, headers: dict[str, Any]) -> None:
        metrics.ORPHANS.labels(queue).inc()
        log.warning("orphan message kept", queue=queue, reason=reason)
        with database.plumbing() as tx:
            orphans.keep(tx, queue, body, reason, headers)

    return keep


def main() -> None:
    """Entry of a worker process: its order comes from the runner as one argument of JSON."""
    order = json.loads(sys.argv[1])
    settings = Settings()  # pyright: ignore[reportCallIssue]
    logs.configure(settings.log_format)
    database = Database(settings.need_database(), Role.WORKER, size=2, name="haulier worker", by_index=True)
    slots = Slots(order["slots"], order["threads"])

    def make_broker(perform: Perform) -> DeliveryBroker:
        return QuorumBroker(settings.need_broker(), order["queues"], slots.threads, perform, keep_orphan(database))

    unit = Unit(settings, database, load(settings.handlers), make_broker, order["queues"], slots, changes.connect(settings.redis_url))
    on_stop(unit.stop)
    threading.Thread(target=_follow_parent, args=(unit, os.getppid()), daemon=True).start()
    unit.start()
    code = unit.wait()
    logs.flush()
    os._exit(code)  # a stuck handler's thread must not keep the process


def _follow_parent(unit: Unit, parent: int) -> None:
    """Nobody is left to replace or to stop this process when its runner is gone: finish and go."""
    while os.getppid() == parent:
        time.sleep(0.5)
    unit.stop()


if __name__ == "__main__":
    main()
