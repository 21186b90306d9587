"""The way between relay and worker, one connection's life: messages go out without waiting, confirms come back as they come.

What happens on the connection happens on the thread that is in `run`; a batch's future is always done, at the latest when the connection ends.
"""

# pyright: reportUnknownMemberType=false
# (pika's stubs leave callbacks untyped)
from __future__ import annotations

import threading
import time
from collections.abc import Collection, Sequence
from concurrent.futures import Future
from functools import partial
from typing import Any

import pika
import structlog
from pika.adapters.select_connection import IOLoop, SelectConnection
from pika.channel import Channel
from pika.spec import Basic

from config.transport import Unconfirmed, topology
from config.transport.connection import AWAY
from config.transport.message import Message, encode

log = structlog.get_logger()

#: Seconds for which a queue's depth is still worth telling.
DEPTH_LASTS = 5.0
#: Seconds without a confirm after which somebody should know.
SLOW = 3.0
#: Seconds after which a queue that is gone is declared again. When it comes back at once, RabbitMQ (3.10) does not tell its former
#: consumers that they are none any more, and what is delivered to them gets stuck.
DECLARE_AGAIN_AFTER = 1.0


class Batch:
    """Messages that were published together, and a future of those that were not confirmed."""

    __slots__ = ("bodies", "future", "left", "messages", "tags", "timer", "unconfirmed")

    def __init__(self, messages: Sequence[Message]) -> None:
        self.messages = messages
        self.bodies = [encode(message) for message in messages]
        self.future: Future[list[Unconfirmed]] = Future()
        self.future.set_running_or_notify_cancel()  # what is on its way cannot be called back
        self.unconfirmed: list[Unconfirmed] = []
        self.left = len(messages)
        self.tags = range(0)
        self.timer: object = None

    def fail(self, reason: str) -> None:
        """None of it went out."""
        self.left = 0
        self.future.set_result([Unconfirmed(message, reason) for message in self.messages])


class Stream:
    """One connection, from opening it to its end."""

    def __init__(self, parameters: pika.URLParameters, queues: Collection[str], confirm_timeout: float) -> None:
        self.blocked: str | None = None
        self.over: str | None = None
        self._queues = queues
        self._confirm_timeout = confirm_timeout
        self._lock = threading.Lock()
        self._inbox: list[Batch] = []
        self._open: dict[int, tuple[Batch, Message]] = {}
        self._returned: dict[int, str] = {}
        self._sent = 0
        self._confirmed = 0
        self._is_slow = False
        self._channel: Channel | None = None
        self._side: Channel | None = None
        self._depths: dict[str, tuple[int, float]] = {}
        self._asked: set[str] = set()
        self._missing: set[str] = set()
        self._loop = IOLoop()
        self._connection = SelectConnection(
            parameters,
            on_open_callback=self._on_open,
            on_open_error_callback=self._on_end,
            on_close_callback=self._on_end,
            custom_ioloop=self._loop,
        )
        self._connection.add_on_connection_blocked_callback(self._on_blocked)
        self._connection.add_on_connection_unblocked_callback(self._on_unblocked)

    # From any thread.

    @property
    def ready(self) -> bool:
        return self._channel is not None and self.over is None and self.blocked is None

    def publish(self, batch: Batch) -> None:
        with self._lock:
            if self.over is None:
                self._inbox.append(batch)
                if len(self._inbox) == 1:
                    self._loop.add_callback_threadsafe(self._send)
                return
        batch.fail(self.over)

    def depth(self, queue: str) -> int | None:
        """Only of queues of its own: a look at one that is not there ends the looks at all others."""
        count, at = self._depths.get(queue, (0, float("-inf")))
        if queue in self._queues and queue not in self._asked:
            self._asked.add(queue)
            self._call(partial(self._look, queue))
        return count if time.monotonic() - at < DEPTH_LASTS else None

    def close(self) -> None:
        self._call(self._close)

    def _call(self, callback: Any) -> None:
        with self._lock:
            if self.over is None:
                self._loop.add_callback_threadsafe(callback)

    # From here on: on the thread that is in `run`.

    def run(self) -> str:
        """Returns when the connection is over, and why."""
        try:
            self._loop.start()
        finally:
            self._end("the connection's loop broke")
            self._loop.close()
        assert self.over is not None
        return self.over

    def _on_open(self, connection: Any) -> None:
        self._connection.channel(on_open_callback=self._on_channel)
        self._open_side()

    def _on_channel(self, channel: Channel) -> None:
        channel.add_on_return_callback(self._on_return)
        channel.add_on_close_callback(self._on_channel_closed)
        channel.confirm_delivery(self._on_confirm, callback=partial(self._on_confirming, channel))

    def _on_confirming(self, channel: Channel, _frame: Any) -> None:
        self._channel = channel

    def _on_channel_closed(self, _channel: Channel, _reason: Exception) -> None:
        self._close()

    def _send(self) -> None:
        with self._lock:
            batches, self._inbox = self._inbox, []
        for batch in batches:
            if self._channel is None:
                batch.fail("not connected")
            else:
                self._send_batch(self._channel, batch)

    def _send_batch(self, channel: Channel, batch: Batch) -> None:
        first = self._sent + 1
        self._sent += len(batch.messages)
        batch.tags = range(first, self._sent + 1)
        batch.timer = self._loop.call_later(min(SLOW, self._confirm_timeout / 2), partial(self._note_slowness, batch))
        self._open.update(zip(batch.tags, ((batch, message) for message in batch.messages), strict=True))
        try:
            for tag, message, body in zip(batch.tags, batch.messages, batch.bodies, strict=True):
                properties = pika.BasicProperties(delivery_mode=2, message_id=str(tag))
                channel.basic_publish("", topology.wire_name(message.queue), body, properties, mandatory=True)
        except AWAY as error:
            self._settle(batch.tags, f"lost: {error!r}")

    def _on_return(self, _channel: Channel, method: Any, properties: Any, _body: bytes) -> None:
        """Always comes before the confirm of that message."""
        tag = int(properties.message_id)
        self._returned[tag] = f"returned: {method.reply_text}"
        entry = self._open.get(tag)
        queue = entry[1].queue if entry else ""
        if queue in self._queues and queue not in self._missing:
            self._missing.add(queue)
            self._loop.call_later(DECLARE_AGAIN_AFTER, partial(self._declare_again, queue))

    def _on_confirm(self, frame: Any) -> None:
        method = frame.method
        self._is_slow = False
        tags = range(self._confirmed + 1, method.delivery_tag + 1) if method.multiple else (method.delivery_tag,)
        if method.multiple:
            self._confirmed = method.delivery_tag
        self._settle(tags, "nacked" if isinstance(method, Basic.Nack) else None)

    def _note_slowness(self, batch: Batch) -> None:
        waited = min(SLOW, self._confirm_timeout / 2)
        batch.timer = self._loop.call_later(self._confirm_timeout - waited, partial(self._expire, batch))
        if not self._is_slow:
            self._is_slow = True
            log.warning("RabbitMQ is slow to confirm; jobs wait in the ledger", seconds=waited)

    def _expire(self, batch: Batch) -> None:
        self._settle(batch.tags, f"timed out: not confirmed within {self._confirm_timeout:g} s")

    def _settle(self, tags: Sequence[int], reason: str | None) -> None:
        for tag in tags:
            entry = self._open.pop(tag, None)
            if entry is None:
                continue
            batch, message = entry
            why = reason or self._returned.pop(tag, None)
            if why is not None:
                batch.unconfirmed.append(Unconfirmed(message, why))
            batch.left -= 1
            if not batch.left:
                self._loop.remove_timeout(batch.timer)
                batch.future.set_result(batch.unconfirmed)

    # The side channel: what may be refused, and closes its channel then.

    def _open_side(self) -> None:
        if self._connection.is_open:
            self._connection.channel(on_open_callback=self._on_side)

    def _on_side(self, channel: Channel) -> None:
        self._side = channel
        channel.add_on_close_callback(self._on_side_closed)

    def _on_side_closed(self, _channel: Channel, _reason: Exception) -> None:
        self._side = None
        self._asked.clear()
        self._open_side()

    def _look(self, queue: str) -> None:
        if self._side is None or not self._side.is_open:
            self._asked.discard(queue)
        else:
            self._side.queue_declare(topology.wire_name(queue), passive=True, callback=partial(self._on_depth, queue))

    def _on_depth(self, queue: str, frame: Any) -> None:
        self._depths[queue] = (frame.method.message_count, time.monotonic())
        self._asked.discard(queue)

    def _declare_again(self, queue: str) -> None:
        self._missing.discard(queue)
        if self._side is None or not self._side.is_open:
            return
        for name, arguments in topology.declarations(queue):
            self._side.queue_declare(name, durable=True, arguments=arguments, callback=lambda _frame: None)

    # The end.

    def _on_blocked(self, _connection: Any, frame: Any) -> None:
        self.blocked = str(frame.method.reason)
        log.warning("RabbitMQ takes no messages; jobs wait in the ledger", reason=self.blocked)

    def _on_unblocked(self, _connection: Any, _frame: Any) -> None:
        self.blocked = None
        log.info("RabbitMQ takes messages again")

    def _close(self) -> None:
        if not (self._connection.is_closing or self._connection.is_closed):
            self._connection.close()

    def _on_end(self, _connection: Any, reason: BaseException) -> None:
        self._end(repr(reason))
        self._loop.stop()

    def _end(self, reason: str) -> None:
        with self._lock:
            if self.over is not None:
                return
            self.over = f"lost: {reason}"
            unsent, self._inbox = self._inbox, []
        for batch in unsent:
            batch.fail(self.over)
        self._settle(list(self._open), self.over)
