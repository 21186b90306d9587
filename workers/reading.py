"""What a consumer does with what arrives, whichever broker it came from: read it and hand it over, or keep it as an orphan.

Dramatiq calls `ack` when a set is finished, whatever became of it; the executor has acknowledged the delivery before.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

import structlog
from dramatiq.broker import Consumer, MessageProxy

from config.transport.message import Message, Undecodable, decode
from workers.capacity import Capacity
from workers.delivery import Delivery, Handover, Source
from workers.subscription import take_all

log = structlog.get_logger()

#: (queue, body, reason, headers). Called for each arrival that is no message, on the consumer's thread. It counts and keeps it; when it
#: raises, the message is held for a while, goes back and is not lost.
OnOrphan = Callable[[str, bytes, str, dict[str, Any]], None]

#: Seconds for which is held what could not be begun or kept, so that it does not come straight back.
PAUSE = 1.0


class ReadingConsumer(Consumer):
    """The common half of both consumers."""

    def __init__(self, queue: str, capacity: Capacity, on_orphan: OnOrphan) -> None:
        self.queue = queue
        self.capacity = capacity
        self._on_orphan = on_orphan
        self._paused: deque[tuple[float, Delivery]] = deque()

    def wake(self) -> None:
        """End a wait in `__next__`, from any thread."""
        raise NotImplementedError

    def flush(self) -> None:
        """A set is finished: send the acknowledgements that waited for it."""

    def read(self, source: Source, tag: int, body: bytes, headers: dict[str, Any]) -> Handover | None:
        """None if it is no message; then it is dealt with."""
        try:
            message = decode(body, self.queue)
        except Undecodable as error:
            self._keep_orphan(Delivery(Message(self.queue, ()), source, tag), body, str(error), headers)
            return None
        return Handover(Delivery(message, source, tag))

    def _keep_orphan(self, delivery: Delivery, body: bytes, reason: str, headers: dict[str, Any]) -> None:
        try:
            self._on_orphan(self.queue, body, reason, headers)
        except Exception:
            log.exception("an orphan message could not be kept; it goes back", queue=self.queue, reason=reason)
            self._pause(delivery)
        else:
            delivery.acknowledge()

    def _pause(self, delivery: Delivery) -> None:
        self._paused.append((time.monotonic() + PAUSE, delivery))

    def return_paused(self) -> float:
        """Return what was held long enough. Returns for how many seconds the rest may be held."""
        now = time.monotonic()
        for until, delivery in take_all(self._paused):
            if until > now:
                self._paused.appendleft((until, delivery))
                return until - now
            delivery.return_()
        return PAUSE

    def return_all_paused(self) -> None:
        for _, delivery in take_all(self._paused):
            delivery.return_()

    # Dramatiq's side; on worker threads.

    def ack(self, message: MessageProxy) -> None:
        """The set is finished. If the delivery is still held, the actor has failed before it could begin."""
        assert isinstance(message, Handover)
        if message.delivery.held:
            self._pause(message.delivery)
        self.capacity.give_back()
        self.flush()

    nack = ack

    def requeue(self, messages: Iterable[MessageProxy]) -> None:
        """The worker stops; these were handed over and not started."""
        for message in messages:
            assert isinstance(message, Handover)
            message.delivery.return_()
            self.capacity.give_back()
