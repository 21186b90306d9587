"""Plain Dramatiq's side of the work: the module that its own command line runs, with its default middleware."""

from __future__ import annotations

import os

import dramatiq
from dramatiq.brokers.rabbitmq import RabbitmqBroker

from benchmarks import work

QUEUE = "plain"

broker = RabbitmqBroker(url=os.environ["BENCH_BROKER_URL"])
dramatiq.set_broker(broker)


@dramatiq.actor(queue_name=QUEUE)
def noop(number: int, account: int, data: str) -> None:
    work.noop(number)


@dramatiq.actor(queue_name=QUEUE)
def durable(number: int, account: int, data: str) -> None:
    work.durable(number, account)
