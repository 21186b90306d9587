"""RabbitMQ's dead-letter queues, emptied: what lands there is told, and kills no job. A job's own end is a row in the ledger."""

# pyright: reportUnknownMemberType=false
# (pika's stubs leave callbacks untyped)
from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, NamedTuple

import structlog
from pika.adapters.blocking_connection import BlockingChannel, BlockingConnection

from config.failpoints import reach
from config.outage import ride_out
from config.transport import topology
from config.transport.connection import AWAY, parameters
from config.transport.message import Message, Undecodable, decode

log = structlog.get_logger()

#: (queue, message, body, reason). With a message: its jobs are to be announced again. Without one: it is an orphan.
OnDeadMessage = Callable[[str, Message | None, bytes, str], None]

PREFETCH = 50
#: Seconds for which a message whose callback failed is kept before it goes back.
PAUSE = 5.0


class _Dead(NamedTuple):
    channel: BlockingChannel
    tag: int
    queue: str
    body: bytes
    headers: dict[str, Any]


def drain_dead_letters(url: str, queues: Iterable[str], on_dead_message: OnDeadMessage, stop: threading.Event) -> None:
    """Runs until `stop`, on the caller's thread; connects again after each loss."""
    queues = tuple(queues)
    while not stop.is_set():
        try:
            connection = ride_out("RabbitMQ", partial(BlockingConnection, parameters(url, "dead letters")), AWAY, give_up=stop.is_set)
            try:
                _drain(connection, queues, on_dead_message, stop)
            finally:
                if connection.is_open:
                    connection.close()
        except AWAY as error:
            if not stop.wait(1):
                log.warning("the dead-letter queues are not watched; connecting again", error=repr(error))


def _drain(connection: BlockingConnection, queues: tuple[str, ...], on_dead_message: OnDeadMessage, stop: threading.Event) -> None:
    """Returns at `stop`, or when RabbitMQ has taken a consumer away."""
    arrived: deque[_Dead] = deque()
    cancelled: list[Any] = []
    topology.declare(connection.channel(), queues)
    for queue in queues:
        channel = connection.channel()
        channel.basic_qos(prefetch_count=PREFETCH)
        channel.add_on_cancel_callback(cancelled.append)
        channel.basic_consume(topology.dead_name(queue), partial(_arrive, arrived, queue))
    while not stop.is_set() and not cancelled:
        connection.process_data_events(time_limit=0.5)  # pyright: ignore[reportArgumentType]
        while arrived and not stop.is_set():
            _tell(connection, arrived.popleft(), on_dead_message)


def _arrive(arrived: deque[_Dead], queue: str, channel: BlockingChannel, method: Any, properties: Any, body: bytes) -> None:
    arrived.append(_Dead(channel, method.delivery_tag, queue, body, properties.headers or {}))


def _tell(connection: BlockingConnection, dead: _Dead, on_dead_message: OnDeadMessage) -> None:
    try:
        on_dead_message(dead.queue, *_read(dead))
    except Exception:
        log.exception("a dead message could not be recorded; it is tried again", queue=dead.queue)
        connection.call_later(PAUSE, partial(dead.channel.basic_nack, dead.tag, requeue=True))
    else:
        reach("upkeep.after_dead_letter")
        dead.channel.basic_ack(dead.tag)


def _read(dead: _Dead) -> tuple[Message | None, bytes, str]:
    try:
        return decode(dead.body, dead.queue), dead.body, str(dead.headers.get("x-first-death-reason", "unknown"))
    except Undecodable as error:
        return None, dead.body, str(error)
