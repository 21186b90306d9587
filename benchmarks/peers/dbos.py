"""DBOS on Postgres: two executors that look for jobs each 50 ms and run fifty at a time in threads; `python -m benchmarks.peers.dbos` is one.

A job is a workflow, whose row is kept from its submission to its end and after; a crash of an executor runs it again when that executor, by its
name, has come back. W2's effect is a step, whose outcome is recorded after it.
"""

from __future__ import annotations

import asyncio
import os
import threading
from typing import Any

from dbos import DBOS, DBOSClient

from benchmarks import work

QUEUE = "bench"
VERSION = "bench"
DATABASE = os.environ["BENCH_DATABASE_URL"]

_clients: list[DBOSClient] = []


@DBOS.workflow(name="noop")
def noop(number: int, account: int, data: str) -> None:
    work.noop(number)


@DBOS.step(name="effect")
def have_effect(number: int, account: int) -> None:
    work.durable(number, account)


@DBOS.workflow(name="durable")
def durable(number: int, account: int, data: str) -> None:
    have_effect(number, account)


def launch() -> None:
    name = f"executor-{os.environ.get('BENCH_COPY', '0')}"
    DBOS(
        config={
            "name": "bench", "system_database_url": DATABASE, "application_version": VERSION, "executor_id": name, "log_level": "WARNING",
            "run_admin_server": False,
        }
    )  # fmt: skip
    DBOS.launch()
    DBOS.register_queue(QUEUE, on_conflict="always_update", worker_concurrency=50, polling_interval_sec=0.05)


async def prepare() -> None:
    """Its tables are made by the first that is launched."""

    def make_tables() -> None:
        launch()
        DBOS.destroy()

    await asyncio.to_thread(make_tables)
    _clients.append(DBOSClient(system_database_url=DATABASE))


async def submit(kind: str, payloads: list[dict[str, Any]]) -> None:
    for each in payloads:
        _enqueue(kind, each)


async def submit_one(one: dict[str, Any]) -> None:
    _enqueue("durable", one)


def _enqueue(kind: str, one: dict[str, Any]) -> None:
    _clients[0].enqueue({"queue_name": QUEUE, "workflow_name": kind, "app_version": VERSION}, *one.values())


if __name__ == "__main__":
    launch()
    threading.Event().wait()
