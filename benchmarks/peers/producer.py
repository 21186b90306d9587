"""A peer's own producer, in its virtual environment: `python -m benchmarks.peers.producer MODULE`.

Reads requests as JSON lines, `["submit", KIND, FIRST, END]` or `["submit_one", NUMBER]`, and answers each: when it began, in Unix seconds. The
first line of all says that tables and queues are there. Ends with its input.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import os
import sys
import time
from typing import Any, Protocol

from benchmarks.work import payload


class Side(Protocol):
    """What each peer's module has. Kinds are `noop` and `durable`."""

    async def prepare(self) -> None: ...
    async def submit(self, kind: str, payloads: list[dict[str, Any]]) -> None:
        """In bulk, or with many at once, if it can."""
        ...

    async def submit_one(self, one: dict[str, Any]) -> None:
        """One durable job."""
        ...


async def main(name: str) -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever a peer prints
    side: Side = importlib.import_module(f"benchmarks.peers.{name}")  # type: ignore[assignment]
    await side.prepare()
    print(time.time(), file=answers, flush=True)
    while line := await asyncio.to_thread(sys.stdin.readline):
        match json.loads(line):
            case ["submit", kind, first, end]:
                payloads = [payload(kind, number) for number in range(first, end)]
                began = time.time()
                await side.submit(kind, payloads)
            case ["submit_one", number]:
                one = payload("durable", number)
                began = time.time()
                await side.submit_one(one)
            case other:
                raise ValueError(f"expected submit or submit_one, got {other}")
        print(began, file=answers, flush=True)
    os._exit(0)  # connections and loops of its library are left as they are


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
