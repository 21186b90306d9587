"""Run one suspect job in a process of its own: `python -m workers.solo`, the lease on standard input, started by a worker thread.

If the job takes this process down, its parent sees how it ended and counts the failure; nobody else is harmed.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from uuid import UUID

import orjson
import psycopg
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from config import changes, logs
from config.outage import ride_out
from config.settings import Settings
from ledger import attempts
from ledger.attempts import Begun, Lease
from ledger.connection import Database
from ledger.roles import Role
from pipelines.load import load
from workers.executor import Executor
from workers.running import Running
from workers.slots import Slots


def main() -> None:
    order = orjson.loads(sys.stdin.buffer.read())
    settings = Settings()  # pyright: ignore[reportCallIssue]
    logs.configure(settings.log_format)
    database = Database(settings.need_database(), Role.WORKER, size=2, name="haulier solo")
    lease = Lease(UUID(order["job_id"]), order["attempt"], UUID(order["worker_id"]))
    threading.Thread(target=_follow_parent, args=(os.getppid(),), daemon=True).start()
    bus = changes.connect(settings.redis_url)
    most, slots = settings.max_result_bytes, Slots.create(1)
    handlers = load(settings.handlers)
    executor = Executor(lease.worker_id, database, handlers, Running(), slots, lambda: False, changes=bus, max_result_bytes=most)

    def read() -> list[Begun]:
        with database.plumbing() as tx:
            return attempts.held(tx, lease.worker_id, [(lease.job_id, lease.attempt)])

    for job in ride_out("the database", read, (psycopg.OperationalError, PoolTimeoutError)):
        executor.run_here(job)
    bus.close()
    logs.flush()
    os._exit(0)


def _follow_parent(parent: int) -> None:
    """Without its parent nobody renews the lease: whatever is written would be fenced off, so stop calling others."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)


if __name__ == "__main__":
    main()
