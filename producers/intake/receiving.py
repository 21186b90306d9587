"""A batch on its way in: its body as it arrives, cut into items, which are checked and gathered into sets."""

from __future__ import annotations

import asyncio
import hashlib
import re
import time
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass, field
from typing import Any, cast

import orjson
from starlette.requests import Request

from config.settings import Settings
from ledger.batches import Batch, BatchReusedError, Known
from ledger.jobs import Submission
from producers import strict_json
from producers.intake.auth import Access
from producers.intake.parsing import check_encoding, unreadable
from producers.intake.parts import Parts
from producers.intake.problems import Problem, as_problem, in_flight
from producers.intake.splitting import Array, BrokenError, Item, Lines, Splitter
from producers.intake.writing import Part
from producers.submission import InvalidSubmission, UnknownCommandError, fingerprint_of, prepare, read_item

MOST_ITEMS = 10_000
#: Bytes of the items' text in one set.
SET_BYTES = 128 << 10
#: A body that comes slower than this, in bytes a second, after the first `request_deadline` seconds, is given up.
LEAST_RATE = 64 << 10
#: Seconds of checking after which other requests have their turn.
SLICE = 0.001

_JSON = re.compile(r'application/json\s*(;\s*charset="?utf-8"?\s*)?', re.IGNORECASE)
_LINES = re.compile(r'application/(x-)?(ndjson|jsonl)\s*(;\s*charset="?utf-8"?\s*)?', re.IGNORECASE)


@dataclass(slots=True)
class Receiving:
    """A batch on its way in."""

    request: Request
    parts: Parts
    access: Access
    batch: Batch
    known: Known | None
    splitter: Splitter
    trace: str | None
    #: Items in one set.
    most: int
    #: The set under way: its items, where it begins, how much text, and what tells it from another.
    start: int = 0
    wishes: list[Submission | None] = field(default_factory=list[Submission | None])
    size: int = 0
    digest: Any = field(default_factory=hashlib.sha256)
    #: The answer to each item, in JSON; empty until it is known.
    answers: list[bytes] = field(default_factory=list[bytes])
    accepted: int = 0
    new: int = 0
    #: The commands of those that were accepted.
    used: set[str] = field(default_factory=set[str])
    #: The sets before, while they are written: the last, and the one before it; why one could not be, and how many items were whole before it.
    writing: asyncio.Task[None] | None = None
    earlier: asyncio.Task[None] | None = None
    failed: Problem | None = None
    whole: int | None = None

    @property
    def items(self) -> int:
        return self.start + len(self.wishes)

    def is_full(self) -> bool:
        stored = self.known.sets.get(self.start) if self.known else None
        if stored is not None:
            return len(self.wishes) >= stored[0]
        return len(self.wishes) >= self.most or self.size >= SET_BYTES

    def add(self, raw: Item) -> Problem | None:
        """Check an item and put it into the set. Returns what is wrong with it. Raises BrokenError where it is no JSON at all."""
        if self.items >= MOST_ITEMS:
            raise BrokenError(f"a batch has at most {MOST_ITEMS} items", "too-large")
        if self.known is not None and self.known.items is not None and self.items >= self.known.items:
            raise BatchReusedError
        self.size += 0 if raw is None else len(raw)
        try:
            self.wishes.append(self._check(raw))
        except (Problem, InvalidSubmission, UnknownCommandError) as error:
            self.wishes.append(None)
            return as_problem(error, self.request)
        return None

    def _check(self, raw: Item) -> Submission:
        settings = self.parts.settings
        if raw is None:
            self._tell_apart(b"too large")
            raise Problem("too-large", f"an item must be at most {settings.max_job_bytes} bytes")
        try:
            body = strict_json.read(raw, settings.max_depth)
        except strict_json.JsonSyntaxError as error:
            if self.splitter.fragile:
                raise BrokenError(f"item {self.items}: {error.detail}") from None
            self._tell_apart(raw)
            raise unreadable(error) from None
        except strict_json.JsonError as error:
            self._tell_apart(raw)
            raise unreadable(error) from None
        fingerprint = self._fingerprint(body)
        wish = read_item(body)
        return prepare(
            wish,
            self.parts.handlers,
            self.batch.tenant_id,
            key=wish.idempotency_key,
            fingerprint=fingerprint if wish.idempotency_key else b"",
            who=self.batch.who,
            traceparent=self.trace,
        )

    def _fingerprint(self, body: Any) -> bytes:
        """The same as that of the item submitted by itself, under its key."""
        fields = cast("dict[str, Any]", body) if isinstance(body, dict) else {"": body}
        key = fields.get("idempotency_key")
        if key is None and self.batch.key is None:
            return b""
        fingerprint = fingerprint_of({name: value for name, value in fields.items() if name != "idempotency_key"})
        self._tell_apart(fingerprint + orjson.dumps(key))
        return fingerprint

    def _tell_apart(self, text: bytes) -> None:
        if self.batch.key is not None:
            self.digest.update(hashlib.sha256(text).digest())

    def jobs_of(self, starts: Iterable[int]) -> int:
        """How many jobs these sets have already, from an earlier try: no limit counts them again."""
        return sum(self.known.sets[start][1] for start in starts if start in self.known.sets) if self.known else 0

    def meets_another(self, start: int) -> Problem:
        """Where a set is not as it was written. One that was not there when this request began is written by another one of the same key, which
        may have cut it elsewhere, as its limits were: only a repeat, which knows its size, can tell.
        """
        return reused() if self.known and start in self.known.sets else in_flight()

    async def settle(self) -> None:
        """Wait for the sets that are being written."""
        if self.writing is not None:
            await self.writing
            self.writing = self.earlier = None

    def take(self, *, last: bool = False) -> Part:
        """The set under way, to be written; another one begins."""
        part = Part(self.start, self.wishes, self.digest.digest(), self.items if last else None)
        self.start, self.wishes, self.size, self.digest = self.items, [], 0, hashlib.sha256()
        return part


def reused() -> Problem:
    return Problem("key-reused", "this Idempotency-Key was used before for another batch; nothing of this body was accepted")


async def items(receiving: Receiving) -> AsyncIterator[Item]:
    """The items as they arrive. Raises Problem and BrokenError. Lets other requests have their turn."""
    splitter = receiving.splitter
    turn = time.perf_counter() + SLICE
    async for chunk in _chunks(receiving.request, receiving.parts.settings):
        for raw in splitter.feed(chunk):
            yield raw
            if time.perf_counter() > turn:
                await asyncio.sleep(0)
                turn = time.perf_counter() + SLICE
    for raw in splitter.close():
        yield raw


async def _chunks(request: Request, settings: Settings) -> AsyncIterator[bytes]:
    """The body in the pieces it comes in, which have to come fast enough; the time that we take ourselves is not the client's."""
    limit, size, waited = settings.max_batch_bytes, 0, 0.0
    too_large = Problem("too-large", f"the body must be at most {limit} bytes")
    announced = request.headers.get("content-length", "")
    if announced.isdigit() and int(announced[:20]) > limit:
        raise too_large
    stream = request.stream()
    while True:
        asked = time.monotonic()
        try:
            async with asyncio.timeout(settings.request_deadline + size / LEAST_RATE - waited):
                chunk = await anext(stream, None)
        except TimeoutError:
            detail = f"the body came slower than {LEAST_RATE} bytes a second, after {settings.request_deadline:g} s"
            raise Problem("request-timeout", detail, headers={"connection": "close"}) from None
        if chunk is None:
            return
        waited += time.monotonic() - asked
        size += len(chunk)
        if size > limit:
            raise too_large
        yield chunk


def splitter_of(request: Request, settings: Settings) -> Splitter:
    """By the form that the body says it has. Raises Problem."""
    given = request.headers.get("content-type", "")
    check_encoding(request.headers)
    if _JSON.fullmatch(given):
        return Array(settings.max_job_bytes)
    if _LINES.fullmatch(given):
        return Lines(settings.max_job_bytes)
    raise Problem("unsupported-media-type", f"the body must be application/json or application/x-ndjson in UTF-8, got {given[:100]!r}")
