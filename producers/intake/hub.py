"""Where requests wait for a job to change: one hub an intake process, in its event loop; no thread and no query for any one of them.

A hint from the changes bus makes a job due; a round reads all that are due in one query and offers each to those who wait for it. Hints may be
lost: at intervals one cheap query looks at all that is waited for.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar
from uuid import UUID

import psycopg
import structlog

from config.changes import Hints
from config.settings import Settings
from ledger import following
from ledger.reading import Job
from producers.intake import metrics
from producers.intake.parts import Door
from producers.intake.problems import LOST, Problem

log = structlog.get_logger()
T = TypeVar("T")
Tx = psycopg.Connection[Any]

#: Jobs in one query, and seconds between two rounds: what comes meanwhile joins the next.
SET_SIZE = 500
PAUSE = 0.005


class Waiter:
    """One request that waits for one job, or (`whole`) for its family."""

    def __init__(self, hub: Hub, job_id: UUID, stirred: asyncio.Event, *, whole: bool) -> None:
        """`stirred` is set whenever there is something to look at."""
        self.job_id = job_id
        self.whole = whole
        self.root_id: UUID | None = None
        self.is_dismissed = False
        self._hub = hub
        self._armed_in: int | None = None
        self._has_missed = False
        self.offered: Job | None = None
        self._stirred = stirred

    def arm(self, job: Job) -> None:
        """The job was read after this waiter was made: from now on, only what is newer is of interest."""
        self.root_id = job.root_id
        self._armed_in = self._hub.remember(self, job)
        if self._has_missed or self.whole:  # of a family, nothing could be heard before its root was known
            self._hub.look_at(self.job_id)

    def offer(self, job: Job, number: int) -> None:
        """What the round of this number has read."""
        if self._armed_in is None:
            self._has_missed = True
        elif number <= self._armed_in:
            self._hub.look_at(self.job_id)  # it may have been read earlier than what was known when this waiter was armed
        else:
            self.offered = job
            self._stirred.set()

    async def next(self) -> Job:
        """The job as it stands, once something of it may have changed. Raises TimeoutError when there is no more waiting here."""
        if not self.is_dismissed:
            await self._stirred.wait()
            self._stirred.clear()
        if self.is_dismissed or self.offered is None:
            raise TimeoutError
        return self.offered

    async def look(self, seconds: float = 2) -> Job | None:
        """The job as it stands now, whether or not it has changed; None if that cannot be said in time."""
        self._stirred.clear()
        self._hub.look_at(self.job_id)
        try:
            async with asyncio.timeout(seconds):
                return await self.next()
        except TimeoutError:
            return None

    def dismiss(self) -> None:
        """Let it wait no longer."""
        self.is_dismissed = True
        self._stirred.set()


class Hub:
    """All waiters of this process. Everything but its queries happens in the event loop."""

    def __init__(self, settings: Settings, door: Door) -> None:
        self._settings = settings
        self._door = door
        self._waiters: dict[UUID, set[Waiter]] = {}
        #: By the root of a family, the jobs whose families are waited for; and every job as it was last read.
        self._families: dict[UUID, Counter[UUID]] = {}
        self._known: dict[UUID, Job] = {}
        self._by_tenant: Counter[int | None] = Counter()
        self._due: set[UUID] = set()
        self._stirred = asyncio.Event()
        self._round = 0
        self._leaving = False
        self._is_blind = False

    def take(self, hints: Hints) -> None:
        """What the changes bus says."""
        if not self._waiters:
            return
        for job, root, _ in hints.jobs:
            job_id = UUID(bytes=job)
            if job_id in self._waiters:
                self._due.add(job_id)
            if self._families:
                self._due.update(self._families.get(UUID(bytes=root), ()))
        if self._due:
            self._stirred.set()

    @contextlib.contextmanager
    def admit(self, tenant_id: int | None) -> Iterator[None]:
        """Count one more who waits or reads a stream, of this tenant (None: of the platform). Raises Problem when that is too many."""
        most, of_a_tenant = self._settings.most_waiting, self._settings.most_waiting_of_a_tenant
        if self._by_tenant.total() >= most:
            raise Problem("unavailable", f"{most} requests wait here already; ask again without waiting", headers={"retry-after": "2"})
        if self._by_tenant[tenant_id] >= of_a_tenant:
            raise Problem("too-many-waiting", f"{of_a_tenant} requests of this tenant wait here already", headers={"retry-after": "2"})
        self._by_tenant[tenant_id] += 1
        try:
            yield
        finally:
            self._by_tenant[tenant_id] -= 1

    @contextlib.contextmanager
    def waiting(self, job_id: UUID, *, whole: bool = False, stirred: asyncio.Event | None = None) -> Iterator[Waiter]:
        """Make a waiter, before the job is read."""
        waiter = Waiter(self, job_id, stirred or asyncio.Event(), whole=whole)
        waiter.is_dismissed = self._leaving
        self._waiters.setdefault(job_id, set()).add(waiter)
        metrics.WAITING.inc()
        try:
            yield waiter
        finally:
            metrics.WAITING.dec()
            self._forget(waiter)

    def remember(self, waiter: Waiter, job: Job) -> int:
        """The job as the waiter knows it. Returns the number of the last round that may have read it earlier than that."""
        if waiter.whole:
            self._families.setdefault(job.root_id, Counter())[job.id] += 1
        self._known.setdefault(job.id, job)
        return self._round

    def look_at(self, job_id: UUID) -> None:
        self._due.add(job_id)
        self._stirred.set()

    def leave(self) -> None:
        """The process leaves: everybody is answered as at the end of their time."""
        self._leaving = True
        for waiters in self._waiters.values():
            for waiter in waiters:
                waiter.dismiss()

    async def run(self) -> None:
        """Look at what is due, and beside it at intervals at everything."""
        await asyncio.gather(self._answer(), self._look_again())

    async def _answer(self) -> None:
        while True:
            await self._stirred.wait()
            self._stirred.clear()
            began = time.monotonic()
            while self._due:
                await self._look([self._due.pop() for _ in range(min(SET_SIZE, len(self._due)))])
            # As long again as it took: a large family must not keep the ledger busy with itself.
            await asyncio.sleep(max(PAUSE, time.monotonic() - began))

    async def _look_again(self) -> None:
        while True:
            await asyncio.sleep(self._settings.look_again)
            known = list(self._known.values())
            for at in range(0, len(known), SET_SIZE):
                await self._find_lost({job.id: job for job in known[at : at + SET_SIZE]})

    async def _look(self, ids: Sequence[UUID]) -> None:
        self._round += 1
        for job in await self._read(lambda tx: following.jobs(tx, ids)) or []:
            if job.id in self._waiters:
                self._known[job.id] = job
                for waiter in self._waiters[job.id]:
                    waiter.offer(job, self._round)

    async def _find_lost(self, known: Mapping[UUID, Job]) -> None:
        """What has changed and nobody hinted at."""
        whole = [job_id for family in self._families.values() for job_id in family if job_id in known]
        found = await self._read(lambda tx: following.versions(tx, list(known), whole)) or {}
        # Unless it was read again meanwhile, or is about to be.
        lost = {job_id for job_id, job in known.items() if self._known.get(job_id) is job and job_id in found} - self._due
        lost = {job_id for job_id in lost if following.has_changed(known[job_id], found[job_id])}
        metrics.LOST_HINTS.inc(len(lost))
        self._due |= lost
        if lost:
            self._stirred.set()

    async def _read(self, call: Callable[[Tx], T]) -> T | None:
        """None while the ledger is away: whoever waits goes on waiting."""
        try:
            found = await asyncio.to_thread(self._door.use_for_all, call)
        except (Problem, *LOST) as error:
            if not self._is_blind:
                log.warning("the ledger is away; those who wait go on waiting", error=str(error).strip())
            self._is_blind = True
            return None
        except Exception:  # a hub that ends here would let everybody wait to the end of their time
            log.exception("looking at what is waited for failed; going on")
            return None
        self._is_blind = False
        return found

    def _forget(self, waiter: Waiter) -> None:
        waiters = self._waiters[waiter.job_id]
        waiters.discard(waiter)
        if waiter.whole and waiter.root_id is not None:
            family = self._families[waiter.root_id]
            family[waiter.job_id] -= 1
            if not family[waiter.job_id]:
                del family[waiter.job_id]
            if not family:
                del self._families[waiter.root_id]
        if not waiters:
            del self._waiters[waiter.job_id]
            self._known.pop(waiter.job_id, None)
