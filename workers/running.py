"""What runs in this process right now, and its watcher: an attempt past its limit has its SQL cancelled and is settled as a failure.

A thread cannot be stopped in Python: one that survives its cancelled attempt makes the process take nothing new, drain and be replaced.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from uuid import UUID

import psycopg
import structlog

from ledger.attempts import Lease
from workers.run import AttemptRun

log = structlog.get_logger()

#: Seconds for which a handler may go on after its attempt was ended, before its process is given up.
SURVIVAL = 5.0


@dataclass(eq=False)
class Entry:
    """`members`: by job, the attempts that are carried out in one call, if they are several. Nobody knows which of them takes too long, so none
    is blamed.
    """

    lease: Lease
    run: AttemptRun | None
    until: float
    members: Mapping[UUID, AttemptRun] = field(default_factory=dict[UUID, AttemptRun])
    ended_at: float | None = field(default=None)
    #: Held while the watcher ends it.
    ending: threading.Lock = field(default_factory=threading.Lock)


class Running:
    """The attempts that run here. Entered and left by worker threads, looked at by the watcher and by the heartbeat."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._entries: set[Entry] = set()

    def enter(self, lease: Lease, run: AttemptRun | None, timeout: float, members: Mapping[UUID, AttemptRun] | None = None) -> Entry:
        entry = Entry(lease, run, time.monotonic() + timeout, members or {})
        with self._lock:
            self._entries.add(entry)
        return entry

    def leave(self, entry: Entry) -> None:
        """Waits for a watcher that is just ending it: what its cancellation would meet afterwards is another job's SQL."""
        with entry.ending, self._lock:
            self._entries.discard(entry)

    def cancel(self, job_ids: Iterable[UUID]) -> None:
        """Let the handlers of these jobs see that somebody wants them cancelled."""
        wanted = set(job_ids)
        for entry in self.entries():
            for run in entry.members.values() or filter(None, [entry.run]):
                run.cancelled = run.cancelled or run.job_id in wanted

    def job_ids(self) -> list[UUID]:
        """Of the jobs whose handlers run."""
        return [job for entry in self.entries() for job in entry.members or {entry.lease.job_id}]

    def entries(self) -> list[Entry]:
        with self._lock:
            return list(self._entries)

    def watch(self, time_out: Callable[[Lease], None], give_up: Callable[[], None]) -> None:
        """One look: end what is past its limit; give the process up when a handler survives that. Solo processes mind themselves."""
        now = time.monotonic()
        for entry in self.entries():
            if entry.ended_at is None and entry.run is not None and entry.until < now:
                self._end(entry, entry.run, now, time_out)
            elif entry.ended_at is not None and entry.ended_at + SURVIVAL < now:
                log.error("a handler goes on after its timeout; its process will be replaced", job=str(entry.lease.job_id))
                give_up()

    def _end(self, entry: Entry, run: AttemptRun, now: float, time_out: Callable[[Lease], None]) -> None:
        with entry.ending:
            if entry not in self.entries():
                return
            entry.ended_at = now
            log.warning("attempt timed out", job=str(entry.lease.job_id), attempt=entry.lease.attempt)
            if not entry.members:
                time_out(entry.lease)
            _cancel(run)


def _cancel(run: AttemptRun) -> None:
    connection = run.driver
    if connection is None:
        return
    try:
        connection.cancel_safe(timeout=2)
    except psycopg.Error as error:
        log.warning("the timed-out attempt's SQL could not be cancelled", job=str(run.job_id), error=str(error))
