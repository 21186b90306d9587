"""Plain Dramatiq on RabbitMQ with its default middleware: two workers of one process with eight threads.

Acknowledged after the job; an error is tried again after a quarter of a minute and more, up to twenty times (its defaults). PEER_CONFIRMS=1: `confirm_delivery`, which is the safest there is;
publishing is repeated by itself up to six times, with or without.
"""

from __future__ import annotations

import os

import dramatiq
from dramatiq.brokers.rabbitmq import RabbitmqBroker

from benchmarks.peers.safe.effects import take_effect

broker = RabbitmqBroker(url=os.environ["BENCH_BROKER_URL"], confirm_delivery=bool(os.environ.get("PEER_CONFIRMS")))
dramatiq.set_broker(broker)


@dramatiq.actor(queue_name="plain")
def take(number: int) -> None:
    take_effect(number)


def submit(number: int) -> None:
    take.send(number=number)
