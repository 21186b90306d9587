"""Procrastinate on Postgres: two workers of eight jobs at a time, in an event loop.

A job is a row from its submission to its end and after. A crash of a worker leaves it `doing`, until somebody fetches stalled jobs anew, which the
application has to do itself. The end of a job is written after its effect, in a transaction of its own. Submitted a thousand a statement.
"""

from __future__ import annotations

import os
from typing import Any

from procrastinate import App, PsycopgConnector

from benchmarks import work

app = App(connector=PsycopgConnector(conninfo=os.environ["BENCH_DATABASE_URL"]))


@app.task(name="noop", queue="bench")
async def noop(number: int, account: int, data: str) -> None:
    await work.noop_async(number)


@app.task(name="durable", queue="bench")
async def durable(number: int, account: int, data: str) -> None:
    await work.durable_async(number, account)


async def prepare() -> None:
    await app.open_async()
    await app.schema_manager.apply_schema_async()


async def submit(kind: str, payloads: list[dict[str, Any]]) -> None:
    task = {"noop": noop, "durable": durable}[kind]
    for first in range(0, len(payloads), 1000):
        await task.batch_defer_async(*payloads[first : first + 1000])


async def submit_one(one: dict[str, Any]) -> None:
    await durable.defer_async(**one)
