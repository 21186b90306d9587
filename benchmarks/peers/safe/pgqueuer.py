"""PgQueuer on Postgres by a pool of asyncpg's: two workers; `python -m benchmarks.peers.safe.pgqueuer` is one.

A worker ends when it hears nothing any more (`shutdown_on_listener_failure`, as its checklist for deployments has it) and is started again; what a dead one held is run by another after
half a minute (`heartbeat_timeout`, its default); an error is tried again after one, two, four seconds, up to twenty times (`DatabaseRetryEntrypointExecutor`), then held. A submission that is repeated while its job is
still there is known by its `dedupe_key`.
"""

from __future__ import annotations

import asyncio
import contextlib
from datetime import timedelta
from functools import partial
from typing import Any

from pgqueuer import PgQueuer, Queries
from pgqueuer.db import AsyncpgPoolDriver
from pgqueuer.errors import DuplicateJobError
from pgqueuer.executors import DatabaseRetryEntrypointExecutor

from benchmarks.peers.safe.effects import asyncpg_pool, take_effect_async

retried = partial(DatabaseRetryEntrypointExecutor, max_attempts=20, max_delay=timedelta(seconds=10))


async def prepare() -> None:
    await Queries(AsyncpgPoolDriver(await asyncpg_pool())).install()


async def submit(number: int) -> None:
    with contextlib.suppress(DuplicateJobError):
        await Queries(AsyncpgPoolDriver(await asyncpg_pool())).enqueue("take", str(number).encode(), dedupe_key=f"number-{number}")


async def run() -> None:
    worker = PgQueuer(AsyncpgPoolDriver(await asyncpg_pool()))

    @worker.entrypoint("take", on_failure="hold", executor_factory=lambda parameters: retried(parameters=parameters))
    async def take(job: Any) -> None:
        await take_effect_async(int(job.payload))

    await worker.run(max_concurrent_tasks=20, shutdown_on_listener_failure=True)


if __name__ == "__main__":
    asyncio.run(run())
