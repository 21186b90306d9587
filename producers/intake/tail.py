"""The end of the events, which all streams of an intake read together: one query a round, whatever the number of streams.

A stream joins at the tail's place and gets all that is committed after it; what came before, it reads by itself. Like the hub, the tail is
woken by the changes bus and looks at intervals, so that a lost hint costs a moment.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import psycopg
import structlog

from config.changes import Hints
from config.settings import Settings
from ledger import following
from ledger.following import Snapshot, Told, Wanted
from producers.intake import metrics
from producers.intake.parts import Door
from producers.intake.problems import LOST, Problem

log = structlog.get_logger()
Tx = psycopg.Connection[Any]

#: Seconds between two rounds, and events that a stream may be behind before it is cut off: its client comes again and goes on.
PAUSE = 0.02
MOST_BEHIND = 2_000

#: Whose events a stream is of: ("tenant", id), ("job", id), ("family", its root), or everybody's.
Scope = tuple[str, int | UUID | None]
EVERYBODY: Scope = ("everybody", None)


@dataclass(frozen=True, slots=True)
class Position:
    """How far the tail has come, and when that was (Unix seconds)."""

    seen: Snapshot
    at: int


@dataclass(frozen=True, slots=True)
class Batch:
    """What one round found for one stream: `until` sees it, `since.seen` does not."""

    since: Position
    until: Position
    events: list[Told]


class Reader:
    """One stream's end of the tail."""

    def __init__(self, scope: Scope, stirred: asyncio.Event) -> None:
        self.scope = scope
        self.stirred = stirred
        self.batches: deque[Batch] = deque()
        #: There is nothing more to come: it is too far behind, or the process leaves.
        self.is_over = False
        self._behind = 0

    def put(self, batch: Batch) -> None:
        self._behind += len(batch.events)
        if self._behind > MOST_BEHIND:
            self.end()
            metrics.CUT_OFF.inc()
        else:
            self.batches.append(batch)
            self.stirred.set()

    def take(self) -> Batch | None:
        if self.is_over or not self.batches:
            return None
        batch = self.batches.popleft()
        self._behind -= len(batch.events)
        return batch

    def end(self) -> None:
        self.is_over = True
        self.stirred.set()


class Tail:
    """Everything but its queries happens in the event loop."""

    def __init__(self, settings: Settings, door: Door) -> None:
        self._settings = settings
        self._door = door
        self._readers: dict[Scope, set[Reader]] = {}
        self._position: Position | None = None
        #: Held by a round and by whoever joins: a round's query knows of every stream that its end counts for.
        self._turn = asyncio.Lock()
        self._stirred = asyncio.Event()
        self._leaving = False
        self._is_blind = False

    def take(self, hints: Hints) -> None:
        """What the changes bus says."""
        if self._readers and any(map(self._concerns, hints.jobs)):
            self._stirred.set()

    def _concerns(self, job: tuple[bytes, bytes, int]) -> bool:
        readers = self._readers
        return (
            EVERYBODY in readers
            or ("tenant", job[2]) in readers
            or ("job", UUID(bytes=job[0])) in readers
            or ("family", UUID(bytes=job[1])) in readers
        )

    @contextlib.contextmanager
    def reading(self, scope: Scope, stirred: asyncio.Event) -> Iterator[Reader]:
        """A reader, to `join` with."""
        reader = Reader(scope, stirred)
        metrics.STREAMS.inc()
        try:
            yield reader
        finally:
            metrics.STREAMS.dec()
            readers = self._readers.get(scope, set())
            readers.discard(reader)
            if not readers:
                self._readers.pop(scope, None)

    async def join(self, reader: Reader) -> Position:
        """From the place returned on, the reader gets everything. Raises Problem while the ledger is away."""
        async with self._turn:
            if self._position is None or not self._readers:
                self._position = Position(*await asyncio.to_thread(self._door.use_for_all, following.now))
            self._readers.setdefault(reader.scope, set()).add(reader)
            if self._leaving:
                reader.end()
            return self._position

    @property
    def position(self) -> Position | None:
        return self._position

    def leave(self) -> None:
        """The process leaves, and every stream ends: its client goes on at another intake."""
        self._leaving = True
        for readers in self._readers.values():
            for reader in readers:
                reader.end()

    async def run(self) -> None:
        while True:
            hinted = True
            try:
                async with asyncio.timeout(self._settings.look_again):
                    await self._stirred.wait()
            except TimeoutError:
                hinted = False
            self._stirred.clear()
            began = time.monotonic()
            async with self._turn:
                if self._readers and self._position is not None:
                    await self._go_on(self._position, hinted=hinted)
            await asyncio.sleep(max(PAUSE, time.monotonic() - began))

    async def _go_on(self, since: Position, *, hinted: bool) -> None:
        scopes = list(self._readers)
        by_kind = {kind: [thing for name, thing in scopes if name == kind] for kind in ("tenant", "job", "family")}
        tenants: Any = None if EVERYBODY in self._readers else by_kind["tenant"]
        wanted: Any = Wanted(tenants, by_kind["job"], by_kind["family"])  # pyright: ignore[reportArgumentType]

        def read(tx: Tx) -> tuple[Position, list[Told]]:
            until = Position(*following.now(tx))
            found: list[Told] = []
            low: int | None = 0
            while low is not None:
                part, low = following.between(tx, since.seen, until.seen, wanted, low)
                found += part
            return until, found

        try:
            until, found = await asyncio.to_thread(self._door.use_for_all, read)
        except (Problem, *LOST) as error:
            if not self._is_blind:
                log.warning("the ledger is away; streams go on when it is back", error=str(error).strip())
            self._is_blind = True
            return
        except Exception:  # a tail that ends here would leave all streams silent
            log.exception("reading what is new failed; going on")
            return
        self._is_blind = False
        self._position = until
        if found and not hinted:
            metrics.LOST_HINTS.inc(len({event.job_id for event in found}))
        for reader, events in self._share(found).items():
            reader.put(Batch(since, until, events))

    def _share(self, found: list[Told]) -> dict[Reader, list[Told]]:
        shares: dict[Reader, list[Told]] = {}
        for event in found:
            for scope in (EVERYBODY, ("tenant", event.tenant_id), ("job", event.job_id), ("family", event.root_id)):
                for reader in self._readers.get(scope, ()):
                    shares.setdefault(reader, []).append(event)
        return shares
