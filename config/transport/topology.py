"""The way between relay and worker, its queues in RabbitMQ: their names and arguments, declared by whoever comes first.

Arguments cannot be changed on a queue that exists; so the names carry a version, to be raised with the arguments.
"""

# pyright: reportUnknownMemberType=false
# (pika's stubs leave callbacks untyped)
from __future__ import annotations

from collections.abc import Iterable
from typing import Any, cast

from pika.adapters.blocking_connection import BlockingChannel
from pika.exceptions import ChannelClosedByBroker

VERSION = "v1"

#: It holds nothing. When it is missing, the broker was reset or wiped and has forgotten every message.
MARKER = f"haulier.marker.{VERSION}"
MARKER_ARGUMENTS: dict[str, Any] = {"x-queue-type": "quorum"}

#: Far above any expected number of crashes: each one counts against every message that the dead worker held. Never negative, which
#: RabbitMQ before 4.0 takes for zero.
DELIVERY_LIMIT = 100
#: Nothing may leave the dead-letter queue by being returned too often; without a number, RabbitMQ 4 would drop at 20.
DEAD_DELIVERY_LIMIT = 1_000_000
#: Beyond this the oldest dead message is dropped. It is only a signal: its jobs are rows, and are announced again.
DEAD_MAX_LENGTH = 10_000

NOT_FOUND = 404
PRECONDITION_FAILED = 406


def wire_name(queue: str) -> str:
    """What our queue is called in RabbitMQ."""
    return f"haulier.{queue}.{VERSION}"


def dead_name(queue: str) -> str:
    """Where RabbitMQ puts our queue's messages that were returned too often."""
    return f"haulier.{queue}.{VERSION}.XQ"


def declarations(queue: str) -> list[tuple[str, dict[str, Any]]]:
    """Names and arguments, the dead-letter target first: without it, RabbitMQ has nowhere to put a dead message."""
    arguments: dict[str, Any] = {
        "x-queue-type": "quorum",
        "x-delivery-limit": DELIVERY_LIMIT,
        "x-dead-letter-exchange": "",
        "x-dead-letter-routing-key": dead_name(queue),
        "x-dead-letter-strategy": "at-least-once",
        "x-overflow": "reject-publish",  # at-least-once needs it
    }
    dead: dict[str, Any] = {"x-queue-type": "quorum", "x-max-length": DEAD_MAX_LENGTH, "x-delivery-limit": DEAD_DELIVERY_LIMIT}
    return [(dead_name(queue), dead), (wire_name(queue), arguments)]


def declare(channel: BlockingChannel, queues: Iterable[str]) -> list[str]:
    """Create what is missing. Returns what is wrong with the rest, a sentence each; the channel may be closed afterwards."""
    problems: list[str] = []
    for name, arguments in _all(queues):
        channel = _reopened(channel)
        problems += _declare(channel, name, arguments)
    return problems


def check(channel: BlockingChannel, queues: Iterable[str]) -> list[str]:
    """What is wrong with the queues, a sentence each; creates nothing. The channel may be closed afterwards."""
    problems: list[str] = []
    for name, arguments in _all(queues):
        channel = _reopened(channel)
        if not exists(channel, name):
            problems.append(f"RabbitMQ has no queue {name!r}; a relay or a worker declares it when it starts")
        else:
            problems += _declare(channel, name, arguments)
    return problems


def exists(channel: BlockingChannel, name: str) -> bool:
    """The channel is closed afterwards if it does not."""
    try:
        channel.queue_declare(name, passive=True)
    except ChannelClosedByBroker as error:
        if error.reply_code != NOT_FOUND:
            raise
        return False
    return True


def declare_marker(channel: BlockingChannel) -> None:
    channel.queue_declare(MARKER, durable=True, arguments=MARKER_ARGUMENTS)


def _all(queues: Iterable[str]) -> list[tuple[str, dict[str, Any]]]:
    return [declaration for queue in queues for declaration in declarations(queue)]


def _declare(channel: BlockingChannel, name: str, arguments: dict[str, Any]) -> list[str]:
    try:
        channel.queue_declare(name, durable=True, arguments=arguments)
    except ChannelClosedByBroker as error:
        if error.reply_code != PRECONDITION_FAILED:
            raise
        trouble = f"RabbitMQ's queue {name!r} was declared with other arguments ({error.reply_text})"
        return [f"{trouble}; it is used as it is: delete it once it is empty, and it is declared anew"]
    return []


def _reopened(channel: BlockingChannel) -> BlockingChannel:
    return channel if cast(bool, channel.is_open) else cast(BlockingChannel, channel.connection.channel())
