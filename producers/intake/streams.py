"""Server-Sent Events: a job's, a family's and a tenant's, each from the ledger, so that `Last-Event-ID` goes on without a gap or a repeat.

A job's stream counts by its own numbers (`seq`). Families and tenants are in the order of the transactions that wrote, and their ids say what
was seen: never a time, never a highest id, for what is written later may be committed earlier.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import contextlib
import hashlib
import time
from collections.abc import AsyncIterator, Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any
from uuid import UUID

import orjson
from fastapi import APIRouter, Query
from sse_starlette import EventSourceResponse, ServerSentEvent
from starlette.requests import Request
from starlette.responses import Response

from ledger import following
from ledger.following import NOTHING, Snapshot, Told, Wanted
from ledger.reading import FINAL, Job
from producers.intake.auth import KEY_KEEPS, READ, WATCH, Access, Reader, Watcher, authenticate
from producers.intake.contract import header, problems
from producers.intake.hub import Waiter
from producers.intake.jobs import Command, find_job
from producers.intake.parts import Parts, Tx, parts_of
from producers.intake.problems import Problem
from producers.intake.representation import utc
from producers.intake.tail import EVERYBODY, Position, Scope
from producers.intake.tail import Reader as TailReader
from producers.intake.views import State

router = APIRouter()

#: Milliseconds after which a client comes again; seconds between two signs of life.
RETRY = 3_000
HEARTBEAT = 15.0

Key = tuple[int, UUID, int]


@dataclass(frozen=True, slots=True)
class Place:
    """How far a client has come: it has had all that `seen` sees, and of what `until` sees besides, all up to `last`. `at`: when `seen` was."""

    at: int
    seen: Snapshot
    until: Snapshot | None = None
    last: Key | None = None

    def has(self, event: Told) -> bool:
        if self.seen.sees(event.xact):
            return True
        return self.until is not None and self.last is not None and self.until.sees(event.xact) and event.place <= self.last

    def write(self, about: str) -> str:
        """As an id that is opaque to clients. `about` says which stream it is of."""
        last = f"{self.last[0]:x}.{self.last[1].hex}.{self.last[2]:x}" if self.last else ""
        text = f"{self.at}/{self.seen}/{self.until or ''}/{last}"
        return base64.urlsafe_b64encode(_digest(about) + text.encode()).decode().rstrip("=")

    @classmethod
    def read(cls, text: str, about: str) -> Place:
        """Raises Problem for what is no id of this stream."""
        try:
            raw = base64.b64decode(text + "=" * (-len(text) % 4), b"-_", validate=True)
            if raw[:6] != _digest(about):
                raise ValueError("of another stream")
            at, seen, until, last = raw[6:].decode().split("/")
            if bool(until) != bool(last):
                raise ValueError("torn")
            xact, job, seq = last.split(".") if last else ("", "", "")
            key = (int(xact, 16) % (1 << 62), UUID(job), int(seq, 16)) if last else None
            return cls(int(at), Snapshot.parse(seen), Snapshot.parse(until) if until else None, key)
        except (ValueError, binascii.Error):
            raise Problem("malformed-request", "Last-Event-ID is none of this stream's; take it as it came") from None


def _digest(about: str) -> bytes:
    return hashlib.sha256(about.encode()).digest()[:6]


STREAM: Mapping[int | str, dict[str, Any]] = {
    200: {
        "description": (
            "Server-Sent Events, until there is nothing more to come. `event` is the kind, `data` one line of JSON: the event as the timeline has"
            " it, with `job_id`, `root_id`, `command` (and `tenant`, for platform keys). A comment comes every 15 s."
        ),
        "content": {
            "text/event-stream": {
                # Of each event, as its fields are.
                "schema": {
                    "type": "object",
                    "required": ["id", "event", "data"],
                    "properties": {
                        "id": {"type": "string"},
                        "event": {"type": "string"},
                        "data": {"type": "string", "contentMediaType": "application/json"},
                    },
                },
                "example": {
                    "id": "zFYoX3JtMC8wOjA6",
                    "event": "started",
                    "data": '{"job_id":"0192f5a0-7d1c-7c7e-9d0a-3f2b8c1d4e5f","root_id":"0192f5a0-7d1c-7c7e-9d0a-3f2b8c1d4e5f","command":"orders.place",'
                    '"seq":2,"at":"2026-12-01T09:00:00Z","kind":"started","state":"running","attempt":1,"who":null,"data":null}',
                },
            }
        },
        "headers": {"X-Accel-Buffering": header("no: proxies pass each event on at once")},
    }
}
LAST_EVENT_ID = {
    "name": "Last-Event-ID",
    "in": "header",
    "required": False,
    "description": "the `id` of the last event that was had: the stream goes on after it",
    "schema": {"type": "string"},
}


@router.get(
    "/v1/jobs/{job_id}/events",
    tags=["jobs"],
    response_class=Response,
    responses={**STREAM, 204: {"description": "There is nothing more to come"}, **problems("too-many-waiting")},
    openapi_extra={"parameters": [LAST_EVENT_ID]},
)
async def follow_job(
    request: Request,
    access: Watcher,
    job_id: UUID,
    family: Annotated[bool, Query(description="the events of all that it and its follow-ups submitted, too")] = False,
) -> Response:
    """Every event of a job from its first on, and those to come, until it has ended. With `family=true`, of its whole family.

    While it runs, `event: progress` shows its progress; those events have no id, and are not kept.
    """
    parts = parts_of(request)
    job = await parts.door.use_aside(access, lambda tx: find_job(tx, job_id, access))
    stream = FamilyStream(request, access, job) if family else JobStream(request, access, job)
    return await stream.open()


@router.get(
    "/v1/events",
    tags=["jobs"],
    response_class=Response,
    responses={**STREAM, **problems("gone", "too-many-waiting")},
    openapi_extra={"parameters": [LAST_EVENT_ID]},
)
async def follow_events(
    request: Request,
    access: Reader,
    state: Annotated[list[State] | None, Query(description="only events after which the job is so; may be given more than once")] = None,
    command: Command = None,
) -> Response:
    """The events of all the tenant's jobs, from now on or from `Last-Event-ID` on. After an hour or so away, that is gone (410)."""
    parts = parts_of(request)
    tenants = await parts.door.use_aside(access, access.tenants)
    return await TenantStream(request, access, tenants, frozenset(state) if state else None, command).open()


class Stream:
    """What all three have in common: how one begins, lives and ends."""

    def __init__(self, request: Request, access: Access, scope: Scope) -> None:
        self._request = request
        self._access = access
        self._parts: Parts = parts_of(request)
        self._stirred = asyncio.Event()
        self._scope = scope
        self._last_id = request.headers.get("last-event-id") or None
        self._stack = contextlib.AsyncExitStack()
        #: When the key was last looked at.
        self._looked = time.monotonic()
        self.is_over = False

    async def open(self) -> Response:
        """The response, whose body is the stream. Raises Problem."""
        self._request.scope["held"] = True
        try:
            self._stack.enter_context(self._parts.hub.admit(self._access.key.tenant_id))
            self._reader: TailReader = self._stack.enter_context(self._parts.tail.reading(self._scope, self._stirred))
            began = await self._parts.tail.join(self._reader)
            if not await self.begin(began):
                await self._stack.aclose()
                return Response(None, 204, {"cache-control": "no-store"})
        except BaseException:
            await self._stack.aclose()
            raise
        return _Response(self._live(), self._stack)

    async def begin(self, joined: Position) -> bool:
        """Read what came before the tail's place. False: there was nothing, and there is nothing more to come."""
        raise NotImplementedError

    def earlier(self) -> AsyncIterator[bytes]:
        """What came before the tail's place and the client has not had."""
        raise NotImplementedError

    def fresh(self) -> Iterable[bytes]:
        """What has come since."""
        raise NotImplementedError

    def mark(self) -> str | None:
        """The id of where the stream is while nothing comes, if it has one."""
        return None

    async def _live(self) -> AsyncIterator[bytes]:
        yield ServerSentEvent(retry=RETRY, id=self.mark()).encode()
        async for block in self.earlier():
            yield block
            if not await self._may_still():
                return
        heartbeat = time.monotonic()
        while not self.is_over and not self._reader.is_over:
            self._stirred.clear()
            block = b"".join(self.fresh())
            if block:
                yield block
            if self.is_over or self._reader.is_over:
                return
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._looked + KEY_KEEPS - time.monotonic()):
                    await self._stirred.wait()
            if not await self._may_still():
                return
            if time.monotonic() - heartbeat >= HEARTBEAT:
                heartbeat = time.monotonic()
                yield ServerSentEvent(comment="", id=self.mark()).encode()

    async def _may_still(self) -> bool:
        """Whether the key is still good, which is looked at when it is time to."""
        now = time.monotonic()
        if now - self._looked < KEY_KEEPS:
            return True
        self._looked = now
        try:
            await authenticate(self._request, READ | WATCH)
        except Problem as problem:
            return problem.kind not in {"unauthenticated", "forbidden"}
        return True

    def show(self, event: Told, id_: str) -> bytes:
        shown: dict[str, Any] = {
            "job_id": event.job_id,
            "root_id": event.root_id,
            "command": event.command,
            "seq": event.seq,
            "at": utc(event.at),
            "kind": event.kind,
            "state": event.state,
            "attempt": event.attempt,
            "who": event.who,
            "data": event.data,
        }
        if self._access.key.tenant_id is None:
            shown["tenant"] = event.tenant
        return ServerSentEvent(_line(shown), event=event.kind, id=id_).encode()


def _line(content: Any) -> str:
    return orjson.dumps(content, option=orjson.OPT_UTC_Z).decode()


class _Response(EventSourceResponse):
    """Whatever ends it, the stream's place in the hub and the tail is given back."""

    def __init__(self, content: AsyncIterator[bytes], stack: contextlib.AsyncExitStack) -> None:
        super().__init__(content, ping=0)  # heartbeats are the stream's own: they say where it is
        self._stack = stack

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        async with self._stack:
            await super().__call__(scope, receive, send)


class JobStream(Stream):
    """A job's own events, by their numbers."""

    def __init__(self, request: Request, access: Access, job: Job) -> None:
        super().__init__(request, access, ("job", job.id))
        if self._last_id is not None and not (self._last_id.isascii() and self._last_id.isdigit() and len(self._last_id) < 10):
            raise Problem("malformed-request", "Last-Event-ID is none of this stream's; take it as it came")
        self._job_id = job.id
        self._last = int(self._last_id or 0)
        self._progress: Any = None
        self._waiter: Waiter
        self._earlier: list[Told] = []

    async def begin(self, joined: Position) -> bool:
        self._waiter = self._stack.enter_context(self._parts.hub.waiting(self._job_id, stirred=self._stirred))

        def read(tx: Tx) -> tuple[Job, list[Told]]:
            job = find_job(tx, self._job_id, self._access)
            return job, following.of_a_job(tx, self._job_id, self._last)

        job, self._earlier = await self._parts.door.use_aside(self._access, read)
        self._waiter.arm(job)
        self._waiter.offered = job
        self.is_over = job.state in FINAL and not self._earlier
        return not self.is_over

    async def earlier(self) -> AsyncIterator[bytes]:
        yield b"".join(self._show_next(self._earlier))

    def fresh(self) -> Iterable[bytes]:
        while batch := self._reader.take():
            yield from self._show_next(sorted(batch.events, key=lambda event: event.seq))
        job = self._waiter.offered
        if job is not None and job.state == "running" and job.progress != self._progress and not self.is_over:
            self._progress = job.progress
            yield ServerSentEvent(_line({"job_id": job.id, "attempt": job.attempt, **(job.progress or {})}), event="progress").encode()

    def _show_next(self, events: Iterable[Told]) -> Iterable[bytes]:
        for event in events:
            if event.seq > self._last:
                self._last = event.seq
                self.is_over = event.state in FINAL  # only the last counts: a dead job may have been replayed
                yield self.show(event, str(event.seq))


class FamilyStream(Stream):
    """The events of a job and of all that comes of it."""

    def __init__(self, request: Request, access: Access, job: Job) -> None:
        super().__init__(request, access, ("family", job.root_id))
        self._job_id = job.id
        self._about = f"family {job.id}"
        self._open: set[UUID] = set()
        self._members: set[UUID] = {job.id}
        self._place = Place(0, NOTHING) if self._last_id is None else Place.read(self._last_id, self._about)
        self._joined = Position(NOTHING, 0)
        self._earlier: list[Told] = []

    async def begin(self, joined: Position) -> bool:
        self._joined = joined

        def read(tx: Tx) -> list[Told]:
            find_job(tx, self._job_id, self._access)
            return following.of_a_family(tx, self._job_id)

        events = [event for event in await self._parts.door.use_aside(self._access, read) if joined.seen.sees(event.xact)]
        for event in sorted(events, key=lambda event: event.seq):
            self._note(event)
        self._earlier = [event for event in events if not self._place.has(event)]
        return bool(self._earlier or self._open)

    async def earlier(self) -> AsyncIterator[bytes]:
        place = self._place
        if place.until is not None:
            yield b"".join(self._show(event, place.at, place.seen, place.until) for event in self._earlier if place.until.sees(event.xact))
        seen = place.until or place.seen
        yield b"".join(self._show(event, place.at, seen, self._joined.seen) for event in self._earlier if not seen.sees(event.xact))
        self._place = Place(self._joined.at, self._joined.seen)
        self.is_over = not self._open

    def fresh(self) -> Iterable[bytes]:
        while batch := self._reader.take():
            own = [event for event in batch.events if self._is_own(event)]
            for event in sorted(own, key=lambda event: event.seq):
                self._note(event)
            yield from (self._show(event, batch.since.at, batch.since.seen, batch.until.seen) for event in own)
            self._place = Place(batch.until.at, batch.until.seen)
            if not self._open:  # what a job submits is committed with its end: nobody of the family is unknown
                self.is_over = True
                return

    def mark(self) -> str | None:
        return None if self._place.seen == NOTHING else self._place.write(self._about)

    def _is_own(self, event: Told) -> bool:
        if event.job_id not in self._members and event.parent_id in self._members:
            self._members.add(event.job_id)  # its parent came before it: it began after that had been committed
        return event.job_id in self._members

    def _note(self, event: Told) -> None:
        self._members.add(event.job_id)
        if event.state in FINAL:
            self._open.discard(event.job_id)
        else:
            self._open.add(event.job_id)

    def _show(self, event: Told, at: int, seen: Snapshot, until: Snapshot) -> bytes:
        return self.show(event, Place(at, seen, until, event.place).write(self._about))


class TenantStream(Stream):
    """The events of all of a tenant's jobs, or (`tenants` None) of everybody's."""

    def __init__(
        self, request: Request, access: Access, tenants: list[int] | None, states: Collection[str] | None, command: str | None
    ) -> None:
        super().__init__(request, access, EVERYBODY if tenants is None else ("tenant", tenants[0]))
        self._tenants = tenants
        self._states = states
        self._command = command
        self._about = f"tenant {'*' if tenants is None else tenants[0]}"
        self._place: Place | None = None if self._last_id is None else Place.read(self._last_id, self._about)
        self._joined = Position(NOTHING, 0)

    async def begin(self, joined: Position) -> bool:
        """Raises Problem `gone` when what was missed may be in the archive already."""
        self._joined = joined
        keeps = self._parts.settings.archive_after
        if self._place is None:
            self._place = Place(joined.at, joined.seen)
        elif joined.at - self._place.at > keeps - min(30, keeps / 2):
            raise Problem("gone", "events since this Last-Event-ID are in the archive by now; list what you missed, and begin without it")
        elif (self._place.until or self._place.seen).end > joined.seen.end:
            raise Problem("gone", "this Last-Event-ID is from after what the ledger knows; it was set back. Begin without it")
        return True

    async def earlier(self) -> AsyncIterator[bytes]:
        assert self._place is not None
        place = self._place
        if place.until is not None and place.last is not None:
            async for block in self._walk(place.at, place.seen, place.until, place.last):
                yield block
        async for block in self._walk(place.at, place.until or place.seen, self._joined.seen, None):
            yield block
        self._place = Place(self._joined.at, self._joined.seen)

    async def _walk(self, at: int, seen: Snapshot, until: Snapshot, last: Key | None) -> AsyncIterator[bytes]:
        wanted = Wanted(self._tenants)
        low: int | None = last[0] if last else 0
        while low is not None:
            read = partial(following.between, seen=seen, until=until, wanted=wanted, low=low)
            found, low = await self._parts.door.use_aside(self._access, read)
            yield b"".join(
                self._show(event, at, seen, until) for event in found if (last is None or event.place > last) and self._lets(event)
            )

    def fresh(self) -> Iterable[bytes]:
        while batch := self._reader.take():
            yield from (
                self._show(event, batch.since.at, batch.since.seen, batch.until.seen) for event in batch.events if self._lets(event)
            )
            self._place = Place(batch.until.at, batch.until.seen)
        position = self._parts.tail.position
        if position is not None and not self._reader.batches and not self._reader.is_over:
            self._place = Place(position.at, position.seen)

    def mark(self) -> str | None:
        return None if self._place is None else self._place.write(self._about)

    def _lets(self, event: Told) -> bool:
        return (self._states is None or event.state in self._states) and self._command in {None, event.command}

    def _show(self, event: Told, at: int, seen: Snapshot, until: Snapshot) -> bytes:
        return self.show(event, Place(at, seen, until, event.place).write(self._about))
