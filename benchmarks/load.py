"""A client that costs little: connections that each send their next request when the answer to the last has come.

`python -m benchmarks.load URL CONNECTIONS SECONDS [--key KEY] [--command NAME] [--first N] [--most N]`: prints the number of answers, of others than 2xx, and
the seconds.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import time
from collections.abc import Iterator
from typing import cast
from urllib.parse import urlsplit

import orjson
import uvloop

from benchmarks.work import payload


class Caller(asyncio.Protocol):
    """One connection."""

    def __init__(self, key: str, command: str, numbers: Iterator[int], ends: float, most: float) -> None:
        self._key = key
        self._numbers = numbers
        self._command = command
        self._ends = ends
        self._most = most
        self._answer = b""
        self.done = asyncio.get_running_loop().create_future()
        self.answers = 0
        self.others = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._ask()

    def data_received(self, data: bytes) -> None:
        self._answer += data
        head, found, body = self._answer.partition(b"\r\n\r\n")
        if not found or len(body) < int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]):
            return
        self.answers += 1
        self.others += not head.startswith(b"HTTP/1.1 2")
        self._answer = b""
        self._ask()

    def connection_lost(self, exc: Exception | None) -> None:
        self.done.set_result(None)

    def _ask(self) -> None:
        number = next(self._numbers)
        if number >= self._most or time.monotonic() > self._ends:
            self._transport.close()
            return
        body = orjson.dumps({"command": self._command, "payload": payload("durable", number)})
        key = f"authorization: Bearer {self._key}\r\nidempotency-key: {number}-{time.time_ns()}\r\n" if self._key else ""
        head = f"POST /v1/jobs HTTP/1.1\r\nhost: x\r\n{key}content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
        self._transport.write(head.encode() + body)


async def run(asked: argparse.Namespace) -> None:
    parts, loop = urlsplit(asked.url), asyncio.get_running_loop()
    began = time.monotonic()
    numbers = itertools.count(asked.first)

    def connect() -> Caller:
        return Caller(asked.key, asked.command, numbers, began + asked.seconds, asked.most)

    callers = [(await loop.create_connection(connect, parts.hostname, parts.port))[1] for _ in range(asked.connections)]
    await asyncio.gather(*(caller.done for caller in callers))
    print(sum(caller.answers for caller in callers), sum(caller.others for caller in callers), time.monotonic() - began)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url")
    parser.add_argument("connections", type=int)
    parser.add_argument("seconds", type=float)
    parser.add_argument("--key", default="")
    parser.add_argument("--command", default="bench.noop")
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--most", type=float, default=float("inf"), help="the first number that is not sent")
    uvloop.run(run(parser.parse_args()))
