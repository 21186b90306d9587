"""What a job carries, and what everybody but Haulier does for it; in threads, or in an event loop.

Imported by peers in virtual environments of their own: nothing of our dependencies but psycopg, and for an event loop asyncpg.
"""

from __future__ import annotations

import asyncio
import os
import threading
import zlib
from typing import Any

import psycopg

from benchmarks import effect
from benchmarks.records import own_writer

#: Makes a payload of about 200 bytes.
DATA = "x" * 160
#: Of an event loop: as many as threads.
CONNECTIONS = 8

INSERT = effect.INSERT.format("%s")
UPDATE = effect.UPDATE.format("%s")
ASYNC_INSERT = effect.INSERT.format("$1")
ASYNC_UPDATE = effect.UPDATE.format("$1")

_local = threading.local()
_free: asyncio.LifoQueue[Any] = asyncio.LifoQueue()
_opened = 0
_looking = asyncio.Lock()


def payload(kind: str, number: int) -> dict[str, Any]:
    """Accounts go round, so that neighbours never meet; those of kind `random` are drawn, the same for everybody."""
    drawn = zlib.crc32(number.to_bytes(8, "little", signed=True)) if kind == "random" else number
    return {"number": number, "account": drawn % effect.ACCOUNTS, "data": DATA}


def noop(number: int) -> None:
    own_writer().wait()
    own_writer().end(number)


def durable(number: int, account: int) -> None:
    """The effect in a transaction of its own, on a connection of this thread: cheaper than a pool's."""
    if not hasattr(_local, "connection"):
        _local.connection = psycopg.connect(os.environ["BENCH_DATABASE_URL"])
    own_writer().wait()
    have_effect(_local.connection, number, account)


def have_effect(db: psycopg.Connection[Any], number: int, account: int) -> None:
    if db.execute(INSERT, (number,)).rowcount:
        db.execute(UPDATE, (account,))
    db.commit()
    own_writer().end(number)


async def noop_async(number: int) -> None:
    await _wait()
    own_writer().end(number)


async def durable_async(number: int, account: int) -> None:
    """The same by asyncpg, which costs such a process less than psycopg."""
    await _wait()
    connection = await _connection()
    async with connection.transaction():
        if await connection.execute(ASYNC_INSERT, number) == "INSERT 0 1":
            await connection.execute(ASYNC_UPDATE, account)
    _free.put_nowait(connection)
    own_writer().end(number)


async def _wait() -> None:
    """Until the gate is open; one job looks, the others wait for it."""
    if not own_writer().is_open():
        async with _looking:
            while not own_writer().is_open():  # noqa: ASYNC110  (it is opened from outside)
                await asyncio.sleep(0.005)


async def _connection() -> Any:
    import asyncpg  # noqa: PLC0415  (only peers with an event loop have it)

    global _opened  # noqa: PLW0603
    if _opened < CONNECTIONS and _free.empty():
        _opened += 1
        return await asyncpg.connect(os.environ["BENCH_DATABASE_URL"])
    return await _free.get()
