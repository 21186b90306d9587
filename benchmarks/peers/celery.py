"""Celery on RabbitMQ: one worker of two processes, or of sixteen threads.

Durable queue, persistent messages, acknowledged after the job (`acks_late`), delivered again when a process dies: a crash of a worker loses
nothing. Publishes are unconfirmed, as is its default: what is on its way when the broker dies is lost. No results are kept, for they would cost more
than the jobs. Sending is one by one; it has no bulk call.
"""

from __future__ import annotations

import os
from typing import Any

from celery import Celery

from benchmarks import work

app = Celery("bench", broker=os.environ["BENCH_BROKER_URL"])
app.conf.update(
    broker_connection_retry_on_startup=True,
    task_acks_late=True,
    task_default_queue="bench",
    task_ignore_result=True,
    task_reject_on_worker_lost=True,
)


@app.task(name="noop")
def noop(number: int, account: int, data: str) -> None:
    work.noop(number)


@app.task(name="durable")
def durable(number: int, account: int, data: str) -> None:
    work.durable(number, account)


async def prepare() -> None:
    """Queues are declared by the first send."""


async def submit(kind: str, payloads: list[dict[str, Any]]) -> None:
    task = {"noop": noop, "durable": durable}[kind]
    for each in payloads:
        task.delay(**each)


async def submit_one(one: dict[str, Any]) -> None:
    durable.delay(**one)
