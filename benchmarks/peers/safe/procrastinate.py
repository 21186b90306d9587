"""Procrastinate on Postgres: two workers of eight jobs at a time, in an event loop.

What a dead worker held stays `doing` until somebody fetches it anew: here the periodic task of its guide ("Retry stalled jobs") does, every ten seconds instead of every ten minutes; a worker counts
as dead after half a minute (`seconds_since_heartbeat`, its default). An error is tried again after a second, up to twenty times. A submission that is repeated while its job waits is known by
its `queueing_lock`.
"""

from __future__ import annotations

import contextlib
from typing import Any

from procrastinate import RetryStrategy
from procrastinate.exceptions import AlreadyEnqueued

from benchmarks.peers.procrastinate import app, prepare
from benchmarks.peers.safe.effects import take_effect_async

__all__ = ["app", "prepare", "submit"]


@app.task(name="take", queue="bench", retry=RetryStrategy(max_attempts=20, wait=1))
async def take(number: int) -> None:
    await take_effect_async(number)


@app.periodic(cron="* * * * * */10")
@app.task(name="rescue", queue="bench", queueing_lock="rescue", pass_context=True)
async def rescue(context: Any, timestamp: int) -> None:
    for job in await app.job_manager.get_stalled_jobs():
        await app.job_manager.retry_job(job)


async def submit(number: int) -> None:
    with contextlib.suppress(AlreadyEnqueued):
        await take.configure(queueing_lock=f"number-{number}").defer_async(number=number)
