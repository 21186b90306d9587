"""Huey on Redis: two consumers of eight threads, blocking pop.

Redis appends to its file and syncs it each second (`appendfsync everysec`): its crash may lose the last second. A consumer pops without
acknowledgement: what it runs or holds when it dies is lost. No results are kept. Sending is one by one; it has no bulk call.
"""

from __future__ import annotations

import os
from typing import Any

from huey import RedisHuey

from benchmarks import work

huey = RedisHuey("bench", url=os.environ["BENCH_REDIS_URL"], blocking=True, results=False)


@huey.task(name="noop")
def noop(number: int, account: int, data: str) -> None:
    work.noop(number)


@huey.task(name="durable")
def durable(number: int, account: int, data: str) -> None:
    work.durable(number, account)


async def prepare() -> None:
    database = huey.storage.conn
    database.flushall()
    database.config_set("appendonly", "yes")
    database.config_set("appendfsync", "everysec")


async def submit(kind: str, payloads: list[dict[str, Any]]) -> None:
    task = {"noop": noop, "durable": durable}[kind]
    for each in payloads:
        task(**each)


async def submit_one(one: dict[str, Any]) -> None:
    durable(**one)
