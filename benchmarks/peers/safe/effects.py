"""The handler of somebody who trusts the library: one row, committed at once, with nothing that would notice a second; then the job goes on for a while.

Imported by peers in virtual environments of their own: nothing but psycopg, and for an event loop asyncpg.
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
from typing import Any

import psycopg

TABLE = "create table bench.effects (number integer not null, at timestamptz not null default clock_timestamp())"
#: Seconds that a job takes after its effect.
REST = 0.02

_local = threading.local()
_pools: list[Any] = []
_looking = asyncio.Lock()


def take_effect(number: int) -> None:
    """On a connection of this thread, a new one when that is lost."""
    connection = getattr(_local, "connection", None)
    if connection is None or connection.closed:
        connection = _local.connection = psycopg.connect(os.environ["BENCH_DATABASE_URL"], autocommit=True)
    connection.execute("insert into bench.effects (number) values (%s)", (number,))
    time.sleep(REST)


async def take_effect_async(number: int) -> None:
    pool = await asyncpg_pool()
    await pool.execute("insert into bench.effects (number) values ($1)", number)
    await asyncio.sleep(REST)


async def asyncpg_pool() -> Any:
    """This process's."""
    import asyncpg  # noqa: PLC0415  (only peers with an event loop have it)

    async with _looking:
        if not _pools:
            _pools.append(await asyncpg.create_pool(os.environ["BENCH_DATABASE_URL"], min_size=1, max_size=8))
    return _pools[0]
