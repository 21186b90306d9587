"""PgQueuer on Postgres by asyncpg: two workers, each takes a hundred jobs at once and holds two hundred at most; `python -m benchmarks.peers.pgqueuer` is one.

A job is a row of a logged table until it ends; what a worker held when it died is run by another, half a minute later. Ends are buffered and written
together, so that a crash runs again what had ended, and part of their cost falls after the last job's end, where the clock has stopped. Submitted a thousand a statement.
"""

from __future__ import annotations

import asyncio
import json
import os
from typing import Any

import asyncpg
from pgqueuer import PgQueuer, Queries
from pgqueuer.db import AsyncpgDriver

from benchmarks import work

_connections: list[Any] = []


async def queries() -> Queries:
    if not _connections:
        _connections.append(await asyncpg.connect(os.environ["BENCH_DATABASE_URL"]))
    return Queries(AsyncpgDriver(_connections[0]))


async def prepare() -> None:
    await (await queries()).install()


async def submit(kind: str, payloads: list[dict[str, Any]]) -> None:
    for first in range(0, len(payloads), 1000):
        members = [json.dumps(each).encode() for each in payloads[first : first + 1000]]
        await (await queries()).enqueue([kind] * len(members), members, [0] * len(members))


async def submit_one(one: dict[str, Any]) -> None:
    await (await queries()).enqueue("durable", json.dumps(one).encode())


async def run() -> None:
    worker = PgQueuer(AsyncpgDriver(await asyncpg.connect(os.environ["BENCH_DATABASE_URL"])))

    @worker.entrypoint("noop")
    async def noop(job: Any) -> None:
        await work.noop_async(json.loads(job.payload)["number"])

    @worker.entrypoint("durable")
    async def durable(job: Any) -> None:
        carried = json.loads(job.payload)
        await work.durable_async(carried["number"], carried["account"])

    await worker.run(batch_size=100, max_concurrent_tasks=200)


if __name__ == "__main__":
    asyncio.run(run())
