"""Plain Dramatiq's side of the work: the module that its own command line runs, with its default middleware."""

from __future__ import annotations

import os

import dramatiq
import psycopg_pool
from dramatiq.brokers.rabbitmq import RabbitmqBroker

from benchmarks import work
from benchmarks.records import own_writer

QUEUE = "plain"

broker = RabbitmqBroker(url=os.environ["BENCH_BROKER_URL"])
dramatiq.set_broker(broker)
#: Of so many connections, if it is to take them from one.
size = int(os.environ.get("BENCH_POOL", "0"))
pool = psycopg_pool.ConnectionPool(os.environ["BENCH_DATABASE_URL"], min_size=size, max_size=size, open=True) if size else None


@dramatiq.actor(queue_name=QUEUE)
def noop(number: int, account: int, data: str) -> None:
    work.noop(number)


@dramatiq.actor(queue_name=QUEUE)
def durable(number: int, account: int, data: str) -> None:
    if pool is None:
        work.durable(number, account)
    else:
        own_writer().wait()
        with pool.connection() as db:
            work.have_effect(db, number, account)
