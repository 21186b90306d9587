"""The changes bus: whoever has committed a change of a job says so, and intakes wake those who wait for it. A hint, and never the truth.

Telling costs a job two appends and its share of a message: one thread a process gathers what is told and publishes it through Redis. It never
blocks and never fails; while Redis is away, hints are dropped, and whoever waits looks by itself a moment later.
"""

from __future__ import annotations

import asyncio
import struct
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, cast
from uuid import UUID

import redis
import redis.asyncio
import structlog
from pydantic import SecretStr

from config.redis import AWAY, REST, TIMEOUT

log = structlog.get_logger()

CHANNEL = "haulier:changes"
#: Seconds for which hints are gathered, hints of one message, and how many may wait: beyond that the oldest are dropped.
GATHER = 0.01
SHARE = 2_000
MOST_WAITING = 100_000

_HEAD = struct.Struct("<d")
_ONE = struct.Struct("<16s16sI")


@dataclass(frozen=True, slots=True)
class Hints:
    """Jobs that have changed, as (job, root of its family, tenant), ids as their 16 bytes. `since`: Unix seconds when the first was told."""

    since: float
    jobs: Sequence[tuple[bytes, bytes, int]]

    def pack(self) -> bytes:
        return _HEAD.pack(self.since) + b"".join(_ONE.pack(*job) for job in self.jobs)

    @classmethod
    def unpack(cls, packed: bytes) -> Hints:
        """Raises struct.error for what is no message of ours."""
        return cls(_HEAD.unpack_from(packed)[0], list(_ONE.iter_unpack(memoryview(packed)[_HEAD.size :])))


Take = Callable[[Hints], None]


class Teller(Protocol):
    """What those who change jobs need of it."""

    def tell(self, job_id: UUID, root_id: UUID, tenant_id: int) -> None:
        """Something of this job has been committed: its state, its progress, or a member of its family. From any thread."""
        ...


class Changes(Protocol):
    """One process's end of the bus."""

    def tell(self, job_id: UUID, root_id: UUID, tenant_id: int) -> None: ...

    async def listen(self, take: Take) -> None:
        """Call `take` in this event loop with all that is told anywhere, until cancelled."""
        ...

    def close(self) -> None:
        """Tell what still waits, then end."""
        ...


def connect(redis_url: SecretStr | None) -> Changes:
    """Through Redis where it is configured, else within this process."""
    return LocalChanges() if redis_url is None else RedisChanges(redis_url.get_secret_value())


class NoChanges:
    """For whoever has nobody to tell."""

    def tell(self, job_id: UUID, root_id: UUID, tenant_id: int) -> None:
        pass


class _Gathering:
    """The thread between those who tell and the way out."""

    def __init__(self, publish: Take) -> None:
        self._publish = publish
        self._told: deque[tuple[UUID, UUID, int]] = deque(maxlen=MOST_WAITING)
        self._since = 0.0
        self._wanted = threading.Event()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="changes", daemon=True)
        self._thread.start()

    def tell(self, job_id: UUID, root_id: UUID, tenant_id: int) -> None:
        self._told.append((job_id, root_id, tenant_id))
        if not self._wanted.is_set():
            self._since = time.time()
            self._wanted.set()

    def close(self) -> None:
        self._closing.set()
        self._wanted.set()
        self._thread.join(2)

    def _take(self) -> Iterator[tuple[UUID, UUID, int]]:
        return (self._told.popleft() for _ in range(min(SHARE, len(self._told))))

    def _run(self) -> None:
        while self._wanted.wait():
            self._closing.wait(GATHER)
            since = self._since
            self._wanted.clear()  # before they are taken: what is told from here on is in this message or has the next one sent
            while self._told:
                # By the id's integer: to hash a UUID is a call of Python's.
                told = {job.int: (job.bytes, root.bytes, tenant) for job, root, tenant in self._take()}
                self._publish(Hints(since, list(told.values())))
            if self._closing.is_set():
                return


class LocalChanges:
    """Where everything is in one process (`haulier dev`), or an intake is alone."""

    def __init__(self) -> None:
        self._listeners: list[Take] = []
        self._gathering = _Gathering(self._publish)
        self.close = self._gathering.close

    def tell(self, job_id: UUID, root_id: UUID, tenant_id: int) -> None:
        if self._listeners:  # in a worker's own process there are none
            self._gathering.tell(job_id, root_id, tenant_id)

    async def listen(self, take: Take) -> None:
        loop = asyncio.get_running_loop()

        def hand_over(hints: Hints) -> None:
            try:
                loop.call_soon_threadsafe(take, hints)
            except RuntimeError:  # the loop is closed: nobody waits any more
                pass

        self._listeners.append(hand_over)
        try:
            await asyncio.Event().wait()
        finally:
            self._listeners.remove(hand_over)

    def _publish(self, hints: Hints) -> None:
        for listener in list(self._listeners):
            listener(hints)


class RedisChanges:
    """Between processes. Who listens and who tells have a connection each."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._client = redis.Redis.from_url(url, socket_connect_timeout=TIMEOUT, socket_timeout=TIMEOUT)  # pyright: ignore[reportUnknownMemberType]
        self._away_until = 0.0
        self._is_away = False
        self._gathering = _Gathering(self._publish)
        self.tell = self._gathering.tell

    def close(self) -> None:
        self._gathering.close()
        self._client.close()

    async def listen(self, take: Take) -> None:
        away = False
        while True:
            client = redis.asyncio.from_url(self._url, socket_connect_timeout=TIMEOUT, socket_keepalive=True, health_check_interval=5)  # pyright: ignore[reportUnknownMemberType]
            try:
                async with client.pubsub(ignore_subscribe_messages=True) as subscription:
                    await subscription.subscribe(CHANNEL)
                    if away:
                        log.info("changes are heard of again")
                    away = False
                    async for message in cast("AsyncIterator[dict[str, Any]]", subscription.listen()):
                        _take_message(take, message)
            except AWAY as error:
                if not away:
                    log.warning("changes are not heard of; looking at intervals instead", error=str(error) or type(error).__name__)
                away = True
            finally:
                await client.aclose()
            await asyncio.sleep(REST)

    def _publish(self, hints: Hints) -> None:
        if time.monotonic() < self._away_until:
            return
        try:
            self._client.publish(CHANNEL, hints.pack())
        except AWAY as error:
            if not self._is_away:
                log.warning("changes cannot be told; who waits looks at intervals", error=str(error) or type(error).__name__)
            self._is_away = True
            self._away_until = time.monotonic() + REST
            return
        if self._is_away:
            log.info("changes are told again")
        self._is_away = False


def _take_message(take: Take, message: dict[str, Any]) -> None:
    try:
        hints = Hints.unpack(message["data"])
    except struct.error:
        log.warning("a message about changes is none of ours", size=len(message["data"]))
        return
    take(hints)
