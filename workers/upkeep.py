"""Upkeep: rescue what a dead worker held, cancel what has expired, tell webhooks what has ended, seal the audit, archive
finished families and drop old days.

Any number of copies: each tick runs in one transaction that first asks for a lock, and does nothing when another copy has it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, LiteralString, TypeVar
from uuid import UUID

import psycopg
import structlog
from psycopg import Connection
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from config.changes import NoChanges, Teller
from config.failpoints import reach
from config.ids import first_id_at, uuid7
from config.settings import RELEASE, Settings
from ledger import archive, batches, deliveries, outbox, sealing, unique, workers
from ledger.connection import Database
from ledger.outbox import Changed
from ledger.workers import Lapsed
from pipelines.command import Handler
from pipelines.results import ResultTimes
from workers import recovery, webhooks

log = structlog.get_logger()
T = TypeVar("T")

#: "upke": the lock of upkeep's tick, held by its transaction and never by a session.
LOCK = 0x75706B65
#: Seconds past its deadline after which an attempt is ended even under a live heartbeat (its own watcher comes first).
GRACE = 10.0
#: Seconds between two sweeps through the old end of the jobs table.
SWEEP_EVERY = 30.0
#: A look through all leases is followed by so many times as long without one, up to so many seconds, unless a worker was lost: while somebody's
#: transaction is open, it walks through all that have been given back since.
REST = 500
MOST_REST = 30.0


class Upkeep:
    def __init__(self, settings: Settings, database: Database, handlers: Mapping[str, Handler], changes: Teller | None = None) -> None:
        self._settings = settings
        self._database = database
        self._handlers = handlers
        self._changes = changes or NoChanges()
        self._id = uuid7()
        self._stop = threading.Event()
        self._connected_since: float | None = None
        self._swept_to: UUID | None = None
        self._results_at = 0.0
        self._lapsed_at = 0.0
        self._sweep_at = 0.0
        self._results = ResultTimes(handlers, settings.result_ttl)
        self._results_seen_to: dict[LiteralString, UUID | None] = {"jobs": None, "archive": None}
        self._day_seen: object = None

    def stop(self) -> None:
        self._stop.set()

    def run(self) -> None:
        """Tick until told to stop."""
        away = False
        while not self._stop.wait(self._settings.tick):
            try:
                with self._database.plumbing() as tx:
                    self._register(tx)
                    self.tick(tx)
                if away:
                    log.info("upkeep reaches the database again")
                away = False
            except psycopg.errors.LockNotAvailable as error:  # it has seen the leases all the same, and goes on rescuing
                log.warning("upkeep met a lock; it tries again", error=str(error).strip())
            except (psycopg.Error, PoolTimeoutError) as error:
                self._connected_since = None
                if not away:
                    log.warning("upkeep does not reach the database", error=str(error).strip())
                away = True

    def tick(self, tx: Connection[Any]) -> None:
        """One look at everything. Each part is a transaction of its own, so that none holds locks for long."""
        recovery.tell(self._changes, self._locked(tx, self._rescue) or [])
        for changed in self._locked(tx, self._expire) or []:
            self._changes.tell(*changed)
        self._dispatch(tx)
        self._tell_of(self._locked(tx, sealing.seal) or {})
        if time.monotonic() >= self._sweep_at:
            self._locked(tx, self._tidy)
            self._locked(tx, self._sweep)
        if time.monotonic() >= self._results_at:
            self._locked(tx, self._forget_results)

    def _locked(self, tx: Connection[Any], part: Callable[[Connection[Any]], T], lock: int = LOCK) -> T | None:
        """What the part returns, once it is committed; None when another copy has the lock."""
        with tx.transaction():
            row = tx.execute("select pg_try_advisory_xact_lock(%s)", (lock,)).fetchone()
            return part(tx) if row and row[0] else None

    def _register(self, tx: Connection[Any]) -> None:
        if self._connected_since is None:
            workers.register(tx, self._id, "upkeep", RELEASE)
            self._connected_since = time.monotonic()
        else:
            workers.heartbeat(tx, self._id)

    def _rescue(self, tx: Connection[Any]) -> list[Lapsed]:
        """Only after a full lease of uninterrupted connection: right after an outage every lease looks dead."""
        if self._connected_since is None or time.monotonic() - self._connected_since < self._settings.lease:
            return []
        began = time.monotonic()
        if began < self._lapsed_at and not workers.lost_of_late(tx, self._settings.lease):
            return []
        lapsed = workers.lapsed(tx, self._settings.lease, GRACE)
        self._lapsed_at = began + min(MOST_REST, REST * (time.monotonic() - began))
        if lapsed:
            recovery.take_back(tx, lapsed, self._handlers)
            reach("upkeep.after_rescue")
        return lapsed

    def _expire(self, tx: Connection[Any]) -> list[Changed]:
        return outbox.expire(tx, 500)

    def _tell_of(self, heads: Mapping[int, sealing.Head]) -> None:
        """A log that goes elsewhere is an anchor: who tampers with the audit here cannot make that unsaid."""
        for tenant, head in heads.items():
            log.info("audit sealed", tenant_id=tenant, seq=head.seq, hash=head.hash.hex())

    def _dispatch(self, tx: Connection[Any]) -> None:
        """Until nothing is left to be seen, but not for longer than the rest of upkeep can wait."""
        until = time.monotonic() + 2 * self._settings.tick
        more = True
        while more and time.monotonic() < until:
            found = self._locked(tx, webhooks.dispatch, webhooks.LOCK)
            if found and found.submitted:
                reach("upkeep.after_dispatch")
                workers.wake(tx)
            more = found is not None and found.more

    def _tidy(self, tx: Connection[Any]) -> None:
        today = datetime.now(UTC).date()
        if self._day_seen != today:
            archive.open_partitions(tx, today)
            dropped = archive.drop_partitions(tx, today - timedelta(days=self._settings.retention_days))
            if dropped:
                log.info("old archive days dropped", partitions=dropped)
            self._day_seen = today
        archive.forget_keys(tx)
        unique.forget(tx)
        batches.forget(tx, timedelta(days=self._settings.retention_days + 1))
        kept_since = time.time() - timedelta(days=self._settings.retention_days).total_seconds()
        deliveries.forget_old(tx, first_id_at(kept_since))
        workers.forget_old(tx)

    def _forget_results(self, tx: Connection[Any]) -> None:
        """One step through the live tables, one through the archive; nothing where results stay as long as their jobs. Rest at the end of both."""
        if self._results.are_endless:
            return
        for table, after in self._results_seen_to.items():
            self._results_seen_to[table], gone = archive.forget_results(tx, table, self._results.by_command, self._results.default, after)
            if gone:
                log.info("results past their time are gone", table=table, jobs=gone)
        if not any(self._results_seen_to.values()):
            self._results_at = time.monotonic() + SWEEP_EVERY

    def _sweep(self, tx: Connection[Any]) -> None:
        """Move one step's worth of finished families; rest when the newest end is reached."""
        step = archive.archive(tx, timedelta(seconds=self._settings.archive_after), self._swept_to)
        self._swept_to = step.after
        if step.after is None:
            self._sweep_at = time.monotonic() + SWEEP_EVERY
