"""Taskiq with aio-pika on RabbitMQ: two processes, jobs in their event loops.

Durable queue, persistent and confirmed messages, acknowledged when the job has been carried out: a crash of a worker loses nothing. No results are
kept. It has no bulk call: a hundred sends are in flight at once.
"""

from __future__ import annotations

import asyncio
import os
from typing import Any

from taskiq import AsyncBroker
from taskiq_aio_pika import AioPikaBroker

from benchmarks import work

broker: AsyncBroker = AioPikaBroker(os.environ["BENCH_BROKER_URL"])


@broker.task(task_name="noop")
async def noop(number: int, account: int, data: str) -> None:
    await work.noop_async(number)


@broker.task(task_name="durable")
async def durable(number: int, account: int, data: str) -> None:
    await work.durable_async(number, account)


async def prepare() -> None:
    await broker.startup()


async def submit(kind: str, payloads: list[dict[str, Any]]) -> None:
    task = {"noop": noop, "durable": durable}[kind]
    each = iter(payloads)

    async def send() -> None:
        for one in each:
            await task.kiq(**one)

    await asyncio.gather(*(send() for _ in range(100)))


async def submit_one(one: dict[str, Any]) -> None:
    await durable.kiq(**one)
