"""The way between relay and worker, the relay's end in RabbitMQ: connect, declare, publish, and connect again after each loss.

One thread owns the connection. Nothing is kept over a lost one: what was not confirmed is reported, and the ledger has it.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future

import structlog
from pika.adapters.blocking_connection import BlockingConnection

from config.outage import ride_out
from config.transport import Unconfirmed, topology
from config.transport.connection import AWAY, parameters
from config.transport.message import Message
from config.transport.stream import Batch, Stream

log = structlog.get_logger()

#: Seconds within which a batch is confirmed, or reported as timed out.
CONFIRM_TIMEOUT = 10.0
CLOSE_TIMEOUT = 5.0


class ResetNotHandledError(Exception):
    """The broker was reset and `on_reset` failed: it is called again before anything is published."""


class RabbitmqTransport:
    """Any thread may call it."""

    def __init__(self, url: str, queues: Iterable[str], on_reset: Callable[[], None], confirm_timeout: float = CONFIRM_TIMEOUT) -> None:
        """`on_reset` is called on the transport's thread when RabbitMQ has forgotten every message (and on the very first start)."""
        self._parameters = parameters(url, "relay")
        self._queues = tuple(queues)
        self._on_reset = on_reset
        self._confirm_timeout = confirm_timeout
        self._stream: Stream | None = None
        self._mismatches: list[str] = []
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="rabbitmq-transport", daemon=True)
        self._thread.start()

    @property
    def ready(self) -> bool:
        return self._stream is not None and self._stream.ready

    @property
    def blocked(self) -> bool:
        """RabbitMQ refuses to read what we send: it is short of memory or disk."""
        return self._stream is not None and self._stream.blocked is not None

    @property
    def problem(self) -> str | None:
        stream = self._stream
        if stream is not None and stream.blocked is not None:
            return f"RabbitMQ takes no messages ({stream.blocked}): it is short of memory or disk"
        if not self.ready:
            return "RabbitMQ is not connected; jobs are accepted and wait in the ledger"
        return "; ".join(self._mismatches) or None

    def publish(self, messages: Sequence[Message]) -> Future[list[Unconfirmed]]:
        batch = Batch(messages)
        stream = self._stream
        if not messages:
            batch.fail("")
        elif stream is None or not stream.ready:
            batch.fail(self.problem or "not connected")
        else:
            stream.publish(batch)
        return batch.future

    def depth(self, queue: str) -> int | None:
        return self._stream.depth(queue) if self._stream is not None and self.ready else None

    def close(self) -> None:
        """What is not confirmed by now is reported as lost."""
        self._closing.set()
        if self._stream is not None:
            self._stream.close()
        self._thread.join(CLOSE_TIMEOUT)

    def _run(self) -> None:
        while not self._closing.is_set():
            try:
                ride_out("RabbitMQ", self._prepare, (*AWAY, ResetNotHandledError), give_up=self._closing.is_set)
                self._carry()
            except (*AWAY, ResetNotHandledError):
                continue  # given up: closing
            except Exception:
                log.exception("the transport broke; connecting again")
            self._closing.wait(random.uniform(0.05, 0.15))

    def _carry(self) -> None:
        self._stream = Stream(self._parameters, self._queues, self._confirm_timeout)
        if self._closing.is_set():  # close() may have come just before there was a stream to close
            self._stream.close()
        over = self._stream.run()
        if not self._closing.is_set():
            log.warning("the connection to RabbitMQ is lost; connecting again", error=over)

    def _prepare(self) -> None:
        """On a connection of its own, where one thing can be done after the other."""
        connection = BlockingConnection(self._parameters)
        try:
            mismatches = topology.declare(connection.channel(), self._queues)
            if not topology.exists(connection.channel(), topology.MARKER):
                self._handle_reset()
                topology.declare_marker(connection.channel())
        finally:
            if connection.is_open:
                connection.close()
        for mismatch in set(mismatches) - set(self._mismatches):
            log.error("a queue has other arguments than it should", problem=mismatch)
        self._mismatches = mismatches

    def _handle_reset(self) -> None:
        log.warning("RabbitMQ has forgotten every message (its marker queue is missing); all are announced again")
        try:
            self._on_reset()
        except Exception as error:
            raise ResetNotHandledError(f"{error!r}") from error
