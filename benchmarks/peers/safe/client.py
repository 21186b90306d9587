"""Whoever submits: `python -m benchmarks.peers.safe.client MODULE JOBS RATE FILE`, in the environment of the library that MODULE is about.

Says `ready` once tables are there; submits job 0 at the first line that it is told, and the others, 1 to JOBS, at the second: RATE in a second, four at a time. What raises is submitted again until
it is accepted, or until a minute after the last one was due. Each acceptance is a line of FILE: {number, tries, at}.
"""

from __future__ import annotations

import asyncio
import importlib
import inspect
import json
import os
import sys
import time
from pathlib import Path
from typing import Any, TextIO

#: Jobs that are submitted at once; seconds between two tries, and from when the last is due until it is given up.
HANDS, BREATH, PATIENCE = 4, 0.2, 60.0


class Client:
    def __init__(self, side: Any, output: TextIO, until: float) -> None:
        self._side = side
        self._output = output
        self._until = until

    async def submit(self, number: int) -> None:
        tries = 0
        while time.monotonic() < self._until:
            tries += 1
            try:
                await self._try(number)
            except Exception as error:  # noqa: BLE001  (each library has its own, and all mean the same here)
                print(f"{number}: {error!r}", file=sys.stderr, flush=True)
                await asyncio.sleep(BREATH)
            else:
                print(json.dumps({"number": number, "tries": tries, "at": time.time()}), file=self._output, flush=True)
                return

    async def _try(self, number: int) -> None:
        if inspect.iscoroutinefunction(self._side.submit):
            await self._side.submit(number)
        else:
            await asyncio.to_thread(self._side.submit, number)


async def main(module: str, jobs: int, rate: float, path: Path) -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever a library prints
    side = importlib.import_module(module)
    if hasattr(side, "prepare"):
        await side.prepare()
    print("ready", file=answers, flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    with path.open("w") as output:
        await Client(side, output, time.monotonic() + PATIENCE).submit(0)
        await asyncio.to_thread(sys.stdin.readline)
        began = time.monotonic()
        client = Client(side, output, began + jobs / rate + PATIENCE)
        numbers = iter(range(1, jobs + 1))

        async def hand() -> None:
            for number in numbers:
                await asyncio.sleep(max(0.0, began + number / rate - time.monotonic()))
                await client.submit(number)

        await asyncio.gather(*(hand() for _ in range(HANDS)))
    os._exit(0)  # connections and loops of its library are left as they are


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), Path(sys.argv[4])))
