"""A client that costs little: connections that each send their next request when the answer to the last has come.

`python -m benchmarks.load URL CONNECTIONS SECONDS [KEY]`: prints the number of answers, of others than 2xx, and the seconds.
"""

from __future__ import annotations

import asyncio
import itertools
import sys
import time
from typing import cast
from urllib.parse import urlsplit

import orjson
import uvloop

from benchmarks.contender import DATA

numbers = itertools.count()


class Caller(asyncio.Protocol):
    """One connection."""

    def __init__(self, key: str, ends: float) -> None:
        self._key = key
        self._ends = ends
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
        if time.monotonic() < self._ends:
            self._ask()
        else:
            self._transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self.done.set_result(None)

    def _ask(self) -> None:
        number = next(numbers)
        body = orjson.dumps({"command": "bench.noop", "payload": {"number": number, "data": DATA}})
        key = f"authorization: Bearer {self._key}\r\nidempotency-key: {number}-{time.time_ns()}\r\n" if self._key else ""
        head = f"POST /v1/jobs HTTP/1.1\r\nhost: x\r\n{key}content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
        self._transport.write(head.encode() + body)


async def run(url: str, connections: int, seconds: float, key: str) -> None:
    parts, loop = urlsplit(url), asyncio.get_running_loop()
    began = time.monotonic()
    callers = [
        (await loop.create_connection(lambda: Caller(key, began + seconds), parts.hostname, parts.port))[1] for _ in range(connections)
    ]
    await asyncio.gather(*(caller.done for caller in callers))
    print(sum(caller.answers for caller in callers), sum(caller.others for caller in callers), time.monotonic() - began)


if __name__ == "__main__":
    uvloop.run(run(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), [*sys.argv, ""][4]))
