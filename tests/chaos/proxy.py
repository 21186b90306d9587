"""A TCP proxy in front of Postgres, RabbitMQ or Redis that a test poisons: slow, silent, cut, and so well acquainted with the protocol that it
can lose the one answer that matters.

It runs on a thread of its own; `set` and the others may be called from any thread, and what they say holds when they return.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import struct
import threading
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Literal, TypeVar
from urllib.parse import urlsplit, urlunsplit

T = TypeVar("T")

#: The end of a COMMIT, as Postgres tells it, and of any statement after which no transaction is open.
COMMITTED = b"C\x00\x00\x00\x0bCOMMIT\x00"
IDLE = b"Z\x00\x00\x00\x05I"
DEFAULT_PORTS = {"amqp": 5672, "postgresql": 5432, "redis": 6379}

Swallow = Literal["commit", "answer", "confirm", "ack", "return"]


@dataclass(frozen=True, slots=True)
class Toxic:
    """What is wrong. Seconds, bytes, and chances between 0 and 1.

    `latency` ± `jitter` for each piece that passes. `blackhole`: connections stay open and nothing passes. `down`: none stays open, and none is
    let in. `slices`: no piece is longer. `reset`: the chance of each piece to end its connection with a RST.
    `swallow`, for a share of `chance`: Postgres has done what it was asked to and its answer to a `commit` (or to any statement that ends a
    transaction: `answer`) is lost with the connection; RabbitMQ's `confirm` of a message is lost; a consumer's `ack` is lost; the `return`
    of a message that no queue took is lost. `refuse`: RabbitMQ's confirms become nacks.
    """

    latency: float = 0
    jitter: float = 0
    blackhole: bool = False
    down: bool = False
    slices: int = 0
    reset: float = 0
    swallow: Swallow | None = None
    refuse: bool = False
    chance: float = 1


HEALTHY = Toxic()


class Proxy:
    def __init__(self, url: str, *, seed: int = 0) -> None:
        parts = urlsplit(url)
        self.losses = 0
        self._protocol = parts.scheme
        self._target = (parts.hostname or "127.0.0.1", parts.port or DEFAULT_PORTS[parts.scheme])
        self._chance = random.Random(seed)
        self._toxic = HEALTHY
        self._links: set[Link] = set()
        self._serving: set[asyncio.Task[Any]] = set()
        self._listener = socket.create_server(("127.0.0.1", 0))
        credentials, at, _ = parts.netloc.rpartition("@")
        self.url = urlunsplit(parts._replace(netloc=f"{credentials}{at}127.0.0.1:{self._listener.getsockname()[1]}"))
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="proxy", daemon=True)
        self._thread.start()
        self._call(self._begin())

    @property
    def connections(self) -> int:
        return len(self._links)

    def set(self, toxic: Toxic) -> None:
        """From now on this is wrong, and nothing else."""

        async def change() -> None:
            self._toxic = toxic
            (self._flowing.clear if toxic.blackhole else self._flowing.set)()
            if toxic.down:
                self._cut_all()

        self._call(change())

    def heal(self) -> None:
        self.set(HEALTHY)

    def cut(self) -> None:
        """End every connection with a RST; new ones are let in."""

        async def cut() -> None:
            self._cut_all()

        self._call(cut())

    def block(self, reason: str = "low on memory") -> None:
        """Tell every client of RabbitMQ that its connection is blocked, as an alarm does."""
        text = reason.encode()
        self._inject(method_frame(10, 60, bytes([len(text)]) + text))

    def unblock(self) -> None:
        self._inject(method_frame(10, 61, b""))

    def close(self) -> None:
        """Safe to call twice."""
        if self._loop.is_closed():
            return

        async def stop() -> None:
            self._server.close()
            self._cut_all()
            if self._serving:
                await asyncio.wait(self._serving)
            await asyncio.sleep(0.01)  # what was aborted is closed by the loop

        self._call(stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    def swallows(self) -> bool:
        """Whether this one is lost; counted."""
        lost = self._chance.random() < self._toxic.chance
        self.losses += lost
        return lost

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()

    def _call(self, work: Coroutine[Any, Any, T]) -> T:
        done: Future[T] = asyncio.run_coroutine_threadsafe(work, self._loop)
        return done.result(10)

    async def _begin(self) -> None:
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._server = await asyncio.start_server(self._accept, sock=self._listener)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task
        self._serving.add(task)
        task.add_done_callback(self._serving.discard)
        await self._serve(End(reader, writer))

    async def _serve(self, near: End) -> None:
        if self._toxic.down:
            near.reset()
            return
        try:
            far = End(*await asyncio.open_connection(*self._target))
        except OSError:
            near.reset()
            return
        link = Link(near, far)
        self._links.add(link)
        filters = (
            (amqp_filter(self, asking=True), amqp_filter(self, asking=False)) if self._protocol == "amqp" else (whole, self._lose_answers)
        )
        link.pumps = [
            asyncio.create_task(self._pump(link, near, far, filters[0])),
            asyncio.create_task(self._pump(link, far, near, filters[1])),
        ]
        await asyncio.wait(link.pumps)
        self._links.discard(link)
        link.reset()

    async def _pump(self, link: Link, source: End, target: End, passes: Filter) -> None:
        with contextlib.suppress(OSError, _Lost):
            while data := await source.reader.read(65_536):
                await self._flowing.wait()
                for piece in self._sliced(passes(data)):
                    await self._delay()
                    if self._toxic.reset and self._chance.random() < self._toxic.reset:
                        raise _Lost
                    target.writer.write(piece)
                    await target.writer.drain()
            if target.writer.can_write_eof() and not link.is_over:
                target.writer.write_eof()
                return
        link.reset()

    async def _delay(self) -> None:
        if self._toxic.latency or self._toxic.jitter:
            await asyncio.sleep(max(0, self._toxic.latency + self._chance.uniform(-self._toxic.jitter, self._toxic.jitter)))

    def _sliced(self, data: bytes) -> Iterator[bytes]:
        size = self._toxic.slices or len(data) or 1
        return (data[at : at + size] for at in range(0, len(data), size))

    def _lose_answers(self, data: bytes) -> bytes:
        marker = {"commit": COMMITTED, "answer": IDLE}.get(self._toxic.swallow or "")
        if marker and marker in data and self.swallows():
            raise _Lost
        return data

    def _cut_all(self) -> None:
        for link in list(self._links):
            link.reset()

    def _inject(self, frame: bytes) -> None:
        async def inject() -> None:
            for link in self._links:
                link.near.writer.write(frame)

        self._call(inject())

    @property
    def toxic(self) -> Toxic:
        return self._toxic


Filter = Callable[[bytes], bytes]


class _Lost(Exception):
    """The connection ends here."""


class End:
    """One side's connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    def reset(self) -> None:
        """With a RST, whatever is still on its way."""
        connection = self.writer.get_extra_info("socket")
        with contextlib.suppress(OSError):
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()


class Link:
    """A client's connection and the one to the server that it stands for."""

    def __init__(self, near: End, far: End) -> None:
        self.near = near
        self.far = far
        self.pumps: list[asyncio.Task[None]] = []
        self.is_over = False

    def reset(self) -> None:
        self.is_over = True
        self.near.reset()
        self.far.reset()
        for pump in self.pumps:
            pump.cancel()


def whole(data: bytes) -> bytes:
    return data


#: AMQP 0-9-1: type, channel, size; then the payload and this octet.
FRAME = struct.Struct(">BHI")
FRAME_END = b"\xce"
METHOD, HEADER = 1, 2
BASIC = 60
RETURN, ACK, NACK = 50, 80, 120
GREETING = b"AMQP\x00\x00\x09\x01"


def method_frame(kind: int, method: int, arguments: bytes, channel: int = 0) -> bytes:
    payload = struct.pack(">HH", kind, method) + arguments
    return FRAME.pack(METHOD, channel, len(payload)) + payload + FRAME_END


def amqp_filter(proxy: Proxy, *, asking: bool) -> Filter:
    """Passes whole frames, and leaves out or changes those that the toxic names. `asking`: from the client to the server."""
    rest = b"" if not asking else None
    #: Channel → frames of a returned message that are still to be left out; its header says how many octets the body has.
    returned: dict[int, int] = {}

    def passes(data: bytes) -> bytes:
        nonlocal rest
        greeting = b""
        if rest is None:
            greeting, data, rest = data[: len(GREETING)], data[len(GREETING) :], b""
        frames, rest = split(rest + data)
        return greeting + b"".join(filter(None, map(judge, frames)))

    def judge(frame: bytes) -> bytes:
        kind, channel, size = FRAME.unpack_from(frame)
        toxic = proxy.toxic
        if channel in returned:
            _leave_out(returned, kind, channel, size, frame)
            return b""
        if kind != METHOD or frame[7:9] != b"\x00\x3c":
            return frame
        method = int.from_bytes(frame[9:11], "big")
        if method == RETURN and toxic.swallow == "return" and not asking and proxy.swallows():
            returned[channel] = -1
            return b""
        if method == ACK and toxic.swallow == ("ack" if asking else "confirm") and proxy.swallows():
            return b""
        if method == ACK and toxic.refuse and not asking and proxy.swallows():
            return frame[:9] + NACK.to_bytes(2, "big") + frame[11:]
        return frame

    return passes


def _leave_out(returned: dict[int, int], kind: int, channel: int, size: int, frame: bytes) -> None:
    returned[channel] = int.from_bytes(frame[11:19], "big") if kind == HEADER else returned[channel] - size
    if returned[channel] <= 0:
        del returned[channel]


def split(data: bytes) -> tuple[list[bytes], bytes]:
    """Whole frames, and the beginning of the next one."""
    frames: list[bytes] = []
    at = 0
    while len(data) - at >= FRAME.size:
        end = at + FRAME.size + FRAME.unpack_from(data, at)[2] + 1
        if end > len(data):
            break
        frames.append(data[at:end])
        at = end
    return frames, data[at:]
