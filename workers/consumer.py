"""A worker's end of one queue in RabbitMQ, as Dramatiq wants it: what arrives is handed over if a thread can start it now.

A delivery must not wait here while another process idles: when no thread has been free for a moment, the consumer takes no more,
returns what has not been started, and takes again when a thread is free. It connects by itself, and again after each loss.
"""

from __future__ import annotations

import contextlib
import random
import time

import structlog
from dramatiq.broker import MessageProxy

from config.transport.connection import AWAY
from workers.capacity import Capacity
from workers.reading import OnOrphan, ReadingConsumer
from workers.subscription import CancelledByBrokerError, Subscription

log = structlog.get_logger()

LOST = (*AWAY, CancelledByBrokerError)
#: Seconds between tries to connect: doubling from the first to the last.
FIRST_BACKOFF = 0.05
LAST_BACKOFF = 2.0
#: Seconds until a consumer that RabbitMQ has taken away comes back, and may declare its queue again: not before all the others know, too.
CANCELLED_BACKOFF = 1.0
#: Seconds that closing waits for the thread that still talks to RabbitMQ.
CLOSING = 2.0


class RabbitmqConsumer(ReadingConsumer):
    """`__next__` returns within the timeout, connected or not."""

    def __init__(self, url: str, queue: str, capacity: Capacity, on_orphan: OnOrphan, timeout: float) -> None:
        super().__init__(queue, capacity, on_orphan)
        self.problem: str | None = "RabbitMQ is not connected"
        self._url = url
        self._timeout = timeout
        self._subscription: Subscription | None = None
        self._failures = 0
        self._next_try = 0.0
        self._closed = False

    def wake(self) -> None:
        subscription = self._subscription
        if subscription is not None:
            subscription.wake()

    def flush(self) -> None:
        subscription = self._subscription
        if subscription is not None:
            subscription.flush()

    def __next__(self) -> MessageProxy | None:
        deadline = time.monotonic() + self._timeout
        try:
            subscription = self._subscription or self._connect()
            while subscription is not None and not self._closed and (left := deadline - time.monotonic()) > 0:
                if handover := self._take(subscription):
                    return handover
                with subscription.in_use:
                    self._tend(subscription)
                    self._wait(subscription, left)
        except LOST as error:
            self._lose(error)
        return None

    def close(self) -> None:
        """What is not settled goes back. Called by the thread that stops the worker, which does not wait for this one to end."""
        self._closed = True
        self.return_all_paused()
        subscription = self._subscription
        if subscription is None:
            return
        subscription.wake()
        held = subscription.in_use.acquire(timeout=CLOSING)
        try:
            self._drop()
        finally:
            if held:
                subscription.in_use.release()

    def _take(self, subscription: Subscription) -> MessageProxy | None:
        """The first arrival that is a message, if there is a place for it."""
        while subscription.arrived and self.capacity.take(self.wake):
            handover = self.read(subscription, *subscription.arrived.popleft())
            if handover is not None:
                return handover
            self.capacity.give_back()
        return None

    def _tend(self, subscription: Subscription) -> None:
        """Take no more when the threads are full, and as much at a time as there are free threads."""
        if subscription.consuming and (self.capacity.seconds_until_full() <= 0 or self._takes_too_little(subscription)):
            subscription.cancel()
        if not subscription.consuming and (free := self.capacity.await_free(self.wake)):
            subscription.consume(prefetch=free)

    def _takes_too_little(self, subscription: Subscription) -> bool:
        # Doubling, so that each change of the prefetch, which costs some round trips, is worth it.
        return self.capacity.free >= 2 * subscription.prefetch

    def _wait(self, subscription: Subscription, left: float) -> None:
        left = min(left, self.return_paused())
        if subscription.consuming:
            left = min(left, self.capacity.seconds_until_full())
        subscription.wait(left)
        subscription.look()
        self._recover(subscription)

    def _connect(self) -> Subscription | None:
        """None if it is not time yet to try again, or never will be."""
        if self._closed:
            return None
        rest = self._next_try - time.monotonic()
        if rest > 0:
            time.sleep(min(rest, self._timeout))
            return None
        self._subscription = Subscription(self._url, self.queue)
        return self._subscription

    def _recover(self, subscription: Subscription) -> None:
        problem = "; ".join(subscription.problems) or None
        if problem and problem != self.problem:
            log.error("a queue has other arguments than it should", problem=problem)
        self.problem = problem
        if self._failures:
            log.info("RabbitMQ is back", queue=self.queue, failures=self._failures)
            self._failures = 0

    def _lose(self, error: Exception) -> None:
        self._drop()
        self.problem = "RabbitMQ is not connected"
        if self._failures == 0:
            log.warning("the connection to RabbitMQ is lost; connecting again until it is back", queue=self.queue, error=repr(error))
        backoff = min(LAST_BACKOFF, FIRST_BACKOFF * 2.0 ** min(self._failures, 10))
        if isinstance(error, CancelledByBrokerError):
            backoff = CANCELLED_BACKOFF
        self._next_try = time.monotonic() + backoff * random.uniform(0.75, 1.25)
        self._failures += 1

    def _drop(self) -> None:
        subscription, self._subscription = self._subscription, None
        if subscription is not None:
            with contextlib.suppress(*LOST):  # it is gone anyway, and what was not settled with it
                subscription.close()
