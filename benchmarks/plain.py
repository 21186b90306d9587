"""Plain Dramatiq's side of the work: the module that its own command line runs, with its default middleware."""

from __future__ import annotations

import os
import threading
from typing import Any

import dramatiq
import psycopg
from dramatiq.brokers.rabbitmq import RabbitmqBroker

from benchmarks import effect
from benchmarks.records import own_writer

QUEUE = "plain"
INSERT = effect.INSERT.format("%s")
UPDATE = effect.UPDATE.format("%s")

broker = RabbitmqBroker(url=os.environ["BENCH_BROKER_URL"])
dramatiq.set_broker(broker)
_local = threading.local()


def _connection() -> psycopg.Connection[Any]:
    """A connection for each thread, kept: cheaper than a pool's."""
    if not hasattr(_local, "connection"):
        _local.connection = psycopg.connect(os.environ["BENCH_DATABASE_URL"])
    return _local.connection


@dramatiq.actor(queue_name=QUEUE)
def noop(number: int, data: str) -> None:
    own_writer().wait()
    own_writer().end(number)


@dramatiq.actor(queue_name=QUEUE)
def durable(number: int, data: str) -> None:
    db = _connection()
    own_writer().wait()
    if db.execute(INSERT, (number,)).rowcount:
        db.execute(UPDATE, (number % effect.ACCOUNTS,))
    db.commit()
    own_writer().end(number)
