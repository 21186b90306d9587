"""Plain Dramatiq with its default middleware: two processes of eight threads, effects in transactions of their own, nothing else.

Each thread keeps a connection, which is the cheapest that one can do; `pooled`: it takes one from a pool of psycopg's for each job, as most do.

A backlog is held at a gate in front of each job's work, and has ended when its last job has: before the last acknowledgement.
"""

from __future__ import annotations

import sys
import time

from dramatiq import Message
from dramatiq.brokers.rabbitmq import RabbitmqBroker

from benchmarks.contender import WORKER_PROCESSES, Place
from benchmarks.work import payload

QUEUE = "plain"
THREADS = 8


class PlainDramatiq:
    def __init__(self, place: Place, *, prefetch: int | None = None, pooled: bool = False) -> None:
        self._place = place
        self._broker = RabbitmqBroker(url=place.broker_url)
        self._broker.declare_queue(QUEUE)
        self.environment = {
            "BENCH_DATABASE_URL": place.database_url,
            "BENCH_BROKER_URL": place.broker_url,
            "BENCH_RECORDS": str(place.reader.directory),
        }
        if prefetch is not None:
            self.environment["dramatiq_queue_prefetch"] = str(prefetch)
        if pooled:
            self.environment["BENCH_POOL"] = str(THREADS)
        command = [sys.executable, "-m", "dramatiq", "benchmarks.plain", "--processes", str(WORKER_PROCESSES), "--threads", str(THREADS)]
        place.processes.start("work", command, self.environment)

    def hold(self) -> None:
        self._place.reader.shut()

    def submit(self, kind: str, numbers: range) -> None:
        for number in numbers:
            self._enqueue(kind, number)

    def release(self) -> None:
        self._place.reader.open()

    def submit_one(self, number: int) -> float:
        started = time.time()
        self._enqueue("durable", number)
        return started

    def ended_at(self) -> float | None:
        return max(self._place.reader.ends().values())

    def close(self) -> None:
        self._broker.close()

    def _enqueue(self, kind: str, number: int) -> None:
        actor = "noop" if kind == "noop" else "durable"
        self._broker.enqueue(Message(QUEUE, actor, (), payload(kind, number), {}))
