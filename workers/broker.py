"""The Dramatiq brokers that workers run on: one actor for each queue, called with a Delivery.

No middleware: retries, delays, deadlines and dead letters are rows in the ledger. Nothing is enqueued here; the relay publishes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NoReturn

from dramatiq import Actor, Broker
from dramatiq import Message as DramatiqMessage
from dramatiq.errors import QueueNotFound

from config.transport.memory import MemoryQueues
from workers.capacity import Capacity
from workers.consumer import RabbitmqConsumer
from workers.delivery import Delivery
from workers.memory import MemoryConsumer
from workers.reading import OnOrphan

#: Called on a worker thread. A delivery that it neither acknowledged nor returned (it raised) goes back after a pause.
Perform = Callable[[Delivery], None]


class DeliveryBroker(Broker):
    """The common half. Give Dramatiq's Worker the same number of threads."""

    def __init__(self, queues: Iterable[str], threads: int, perform: Perform, on_orphan: OnOrphan) -> None:
        super().__init__(middleware=[])
        self.queues: dict[str, None] = {}
        self._perform = perform
        self._on_orphan = on_orphan
        self._capacity = Capacity(threads)
        self._consumers: dict[str, RabbitmqConsumer | MemoryConsumer] = {}
        for queue in queues:
            Actor(self._run, broker=self, actor_name=queue, queue_name=queue, priority=0, options={})

    @property
    def problem(self) -> str | None:
        """What a person should know or do, as a sentence; None when all is well."""
        return "; ".join(sorted({consumer.problem for consumer in self._consumers.values() if consumer.problem})) or None

    def pause(self) -> None:
        """Take nothing new, and return what is not started. There is no way back: the process drains."""
        self._capacity.close()
        for consumer in list(self._consumers.values()):
            consumer.wake()

    def declare_queue(self, queue_name: str) -> None:
        if queue_name not in self.queues:
            self.emit_before("declare_queue", queue_name)
            self.queues[queue_name] = None
            self.emit_after("declare_queue", queue_name)

    def consume(self, queue_name: str, prefetch: int = 1, timeout: int = 30_000) -> RabbitmqConsumer | MemoryConsumer:
        """The prefetch is not Dramatiq's to choose: it is the number of free threads."""
        if queue_name not in self.queues:
            raise QueueNotFound(queue_name)
        self._consumers[queue_name] = self._consumer(queue_name, timeout / 1000)
        return self._consumers[queue_name]

    def enqueue(self, message: DramatiqMessage[Any], *, delay: int | None = None) -> NoReturn:
        raise NotImplementedError("jobs are submitted to the ledger; the relay publishes their messages")

    def _consumer(self, queue: str, timeout: float) -> RabbitmqConsumer | MemoryConsumer:
        raise NotImplementedError

    def _run(self, delivery: Delivery) -> None:
        if not delivery.dead:  # its connection was lost before it could start: it arrives again
            self._perform(delivery)


class QuorumBroker(DeliveryBroker):
    """On RabbitMQ's quorum queues: a connection for each queue."""

    def __init__(self, url: str, queues: Iterable[str], threads: int, perform: Perform, on_orphan: OnOrphan) -> None:
        self._url = url
        super().__init__(queues, threads, perform, on_orphan)

    def _consumer(self, queue: str, timeout: float) -> RabbitmqConsumer:
        return RabbitmqConsumer(self._url, queue, self._capacity, self._on_orphan, timeout)


class MemoryBroker(DeliveryBroker):
    """On queues in this process's memory, which a MemoryTransport fills."""

    def __init__(self, memory: MemoryQueues, queues: Iterable[str], threads: int, perform: Perform, on_orphan: OnOrphan) -> None:
        self._memory = memory
        super().__init__(queues, threads, perform, on_orphan)

    def _consumer(self, queue: str, timeout: float) -> MemoryConsumer:
        return MemoryConsumer(self._memory[queue], queue, self._capacity, self._on_orphan, timeout)
