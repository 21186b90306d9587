"""A worker's connection to one queue in RabbitMQ, from opening it to its end, and the deliveries that arrived on it.

Everything but settling and waking belongs to the thread of its consumer.
"""

# pyright: reportUnknownMemberType=false
# (pika's stubs leave callbacks untyped)
from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple, TypeVar

from pika.adapters.blocking_connection import BlockingChannel, BlockingConnection
from pika.exceptions import ConnectionWrongStateError

from config.transport import topology
from config.transport.connection import parameters

#: Seconds without an arrival after which a consumer looks whether it is still one.
QUIET = 5.0
#: Seconds for which the acknowledgement of a lone job may wait. Sent at once, it would take the interpreter from the job itself, which is
#: just about to start: a fifth of an idle system's latency.
UNHURRIED = 0.02


T = TypeVar("T")


class CancelledByBrokerError(Exception):
    """RabbitMQ has taken the consumer away: its queue was deleted, or its timeout has passed."""


class Arrival(NamedTuple):
    tag: int
    body: bytes
    headers: dict[str, Any]


class Subscription:
    """Raises pika's errors, or CancelledByBrokerError, when it is over; then it is to be closed, and a new one opened."""

    def __init__(self, url: str, queue: str) -> None:
        self.arrived: deque[Arrival] = deque()
        #: Held by the thread that talks to RabbitMQ: a connection of pika's breaks when two do.
        self.in_use = threading.Lock()
        self.dead = False
        self.prefetch = 0
        self._queue = queue
        self._consumer_tag: str | None = None
        self._cancelled = False
        self._outstanding: dict[int, None] = {}  # on the wire, in the order of their arrival
        self._unsettled: set[int] = set()
        self._settled: deque[tuple[int, bool]] = deque()
        self._woken = False
        self._quiet_since = time.monotonic()
        self._connection = BlockingConnection(parameters(url, f"worker {queue}"))
        try:
            self.problems = topology.declare(self._connection.channel(), [queue])
            self._channel: BlockingChannel = self._connection.channel()
            self._channel.add_on_cancel_callback(self._on_cancel)
        except BaseException:
            if self._connection.is_open:
                self._connection.close()
            raise

    # From any thread.

    def acknowledge(self, tag: int, *, soon: bool = True) -> None:
        """Not `soon`: within a moment, or at the next `flush`."""
        self._settle(tag, True, soon)

    def return_(self, tag: int) -> None:
        self._settle(tag, False, True)

    def flush(self) -> None:
        """Send what waits to be sent."""
        if self._settled:
            self._wake_once()

    def holds(self, tag: int) -> bool:
        return tag in self._unsettled

    def wake(self) -> None:
        """End a `wait` at once, or the next one."""
        try:
            self._connection.add_callback_threadsafe(_nothing)
        except ConnectionWrongStateError:
            pass  # it is over, and nobody waits

    def _settle(self, tag: int, acknowledged: bool, soon: bool) -> None:
        try:
            self._unsettled.remove(tag)  # one atomic step: of two threads, one settles
        except KeyError:
            return
        self._settled.append((tag, acknowledged))
        if soon:
            self._wake_once()

    def _wake_once(self) -> None:
        if not self._woken:
            self._woken = True
            self.wake()

    # From here on: on the consumer's thread.

    @property
    def consuming(self) -> bool:
        return self._consumer_tag is not None

    def consume(self, prefetch: int) -> None:
        self.prefetch = prefetch
        self._channel.basic_qos(prefetch_count=prefetch)
        self._consumer_tag = self._channel.basic_consume(topology.wire_name(self._queue), self._on_arrival)
        self._quiet_since = time.monotonic()

    def cancel(self) -> None:
        """Take nothing more, and return what arrived and was not taken."""
        if self._consumer_tag is not None:
            self._channel.basic_cancel(self._consumer_tag)
            self._consumer_tag = None
        while self.arrived:
            self.return_(self.arrived.popleft().tag)
        self._send_settled()

    def wait(self, seconds: float) -> None:
        """Until something arrives, is settled, or wakes it. Keeps the connection alive."""
        self._send_settled()
        if self._unsettled:
            seconds = min(seconds, UNHURRIED)
        self._connection.process_data_events(time_limit=max(0, seconds))  # pyright: ignore[reportArgumentType]
        if self._cancelled or self._channel.is_closed:
            raise CancelledByBrokerError(f"RabbitMQ took the consumer of {self._queue!r} away")
        self._send_settled()

    def look(self) -> None:
        """When all has been quiet: is there really nothing to take? RabbitMQ forgets, without a word, the consumers of a queue that is
        deleted and declared again at once (seen with 3.10).
        """
        if not self.consuming or time.monotonic() - self._quiet_since < QUIET:
            return
        self._quiet_since = time.monotonic()
        if self._channel.queue_declare(topology.wire_name(self._queue), passive=True).method.message_count and not self.arrived:
            raise CancelledByBrokerError(f"messages wait in {self._queue!r} and none arrives")

    def close(self) -> None:
        """What is not settled goes back by itself."""
        self.dead = True
        self._unsettled.clear()
        if self._connection.is_open:
            self._send_settled()
            self._connection.close()

    def _on_arrival(self, _channel: Any, method: Any, properties: Any, body: bytes) -> None:
        tag: int = method.delivery_tag
        self._outstanding[tag] = None
        self._unsettled.add(tag)
        self._quiet_since = time.monotonic()
        self.arrived.append(Arrival(tag, body, properties.headers or {}))

    def _on_cancel(self, _frame: Any) -> None:
        self._cancelled = True

    def _send_settled(self) -> None:
        self._woken = False
        if not self._settled:
            return
        acknowledged: set[int] = set()
        for tag, is_acknowledged in take_all(self._settled):
            if is_acknowledged:
                acknowledged.add(tag)
            else:
                del self._outstanding[tag]
                self._channel.basic_nack(tag, requeue=True)
        self._acknowledge(acknowledged)

    def _acknowledge(self, tags: set[int]) -> None:
        """One frame for all that have no unsettled one before them, and one each for the rest."""
        first = self._take_first(tags)
        if first:
            self._channel.basic_ack(first, multiple=True)
        for tag in tags:
            del self._outstanding[tag]
            self._channel.basic_ack(tag)

    def _take_first(self, tags: set[int]) -> int:
        last = 0
        for tag in _leading(self._outstanding, tags):
            last = tag
            del self._outstanding[tag]
            tags.discard(tag)
        return last


def take_all(queue: deque[T]) -> Iterator[T]:
    """Empty a queue that another thread may be emptying as well: at shutdown, a consumer is closed by the thread that stops it."""
    while True:
        try:
            yield queue.popleft()
        except IndexError:
            return


def _leading(outstanding: Iterable[int], tags: set[int]) -> list[int]:
    """Of the tags, those that stand before every outstanding tag that is not among them."""
    leading: list[int] = []
    for tag in outstanding:
        if tag not in tags:
            break
        leading.append(tag)
    return leading


def _nothing() -> None:
    """Being called is enough."""
