"""A way from relay to worker, for tests: one queue of its own, in RabbitMQ or in memory, and workers on it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any
from uuid import uuid4

import pika
from dramatiq import Worker

from config.ids import uuid7
from config.transport import topology
from config.transport.memory import MemoryQueues, MemoryTransport
from config.transport.message import Announcement, Message
from config.transport.rabbitmq import RabbitmqTransport
from tests.transport.waiting import eventually
from workers.broker import DeliveryBroker, MemoryBroker, QuorumBroker
from workers.delivery import Delivery


def ignore(*_: Any) -> None: ...


class Way:
    """What both have."""

    transport: Any

    def __init__(self) -> None:
        self.queue = f"q{uuid4().hex[:12]}"
        self._workers: list[Worker] = []

    def message(self) -> Message:
        return Message(self.queue, (Announcement(uuid7(), 1, None),))

    def publish(self, count: int = 1) -> list[Message]:
        messages = [self.message() for _ in range(count)]
        assert self.transport.publish(messages).result(20) == []
        return messages

    def depth(self) -> int | None:
        raise NotImplementedError

    def put(self, body: bytes) -> None:
        raise NotImplementedError

    def broker(self, perform: Callable[[Delivery], None], threads: int, on_orphan: Any, url: str | None) -> DeliveryBroker:
        raise NotImplementedError

    def work(
        self, perform: Callable[[Delivery], None], threads: int = 1, on_orphan: Any = ignore, url: str | None = None, timeout: int = 100
    ) -> tuple[DeliveryBroker, Worker]:
        """A worker that is ready to take deliveries."""
        broker = self.broker(perform, threads, on_orphan, url)
        worker = Worker(broker, worker_threads=threads, worker_timeout=timeout)
        worker.start()
        self._workers.append(worker)
        eventually(lambda: self.queue in worker.consumers and worker.consumers[self.queue].consumer)
        eventually(lambda: broker.problem is None)
        return broker, worker

    def stop(self, worker: Worker) -> None:
        """Without waiting for what its threads are doing."""
        self._workers.remove(worker)
        worker.stop(timeout=300)

    def close(self) -> None:
        for worker in list(self._workers):
            self.stop(worker)
        self.transport.close()


class RabbitmqWay(Way):
    def __init__(self, url: str) -> None:
        super().__init__()
        self.url = url
        self.connection = pika.BlockingConnection(pika.URLParameters(url))
        self.channel = self.connection.channel()
        self.transport = RabbitmqTransport(url, [self.queue], ignore)
        eventually(lambda: self.transport.ready)

    def depth(self) -> int | None:
        return self.channel.queue_declare(topology.wire_name(self.queue), passive=True).method.message_count

    def consumers(self) -> int:
        return self.channel.queue_declare(topology.wire_name(self.queue), passive=True).method.consumer_count

    def put(self, body: bytes) -> None:
        self.channel.basic_publish("", topology.wire_name(self.queue), body)

    def broker(self, perform: Callable[[Delivery], None], threads: int, on_orphan: Any, url: str | None) -> DeliveryBroker:
        return QuorumBroker(url or self.url, [self.queue], threads, perform, on_orphan)

    def close(self) -> None:
        super().close()
        channel = self.connection.channel()
        for name in (topology.wire_name(self.queue), topology.dead_name(self.queue)):
            channel.queue_delete(name)
        self.connection.close()


class MemoryWay(Way):
    def __init__(self) -> None:
        super().__init__()
        self.memory = MemoryQueues([self.queue])
        self.transport = MemoryTransport(self.memory)

    def depth(self) -> int | None:
        return self.transport.depth(self.queue)

    def put(self, body: bytes) -> None:
        self.memory[self.queue].put(body)

    def broker(self, perform: Callable[[Delivery], None], threads: int, on_orphan: Any, url: str | None) -> DeliveryBroker:
        return MemoryBroker(self.memory, [self.queue], threads, perform, on_orphan)


class Hold:
    """Somebody's actor: it acknowledges (if `early`), notes the message, and is busy until it may go on."""

    def __init__(self, early: bool = True) -> None:
        self.early = early
        self.go_on = threading.Event()
        self.deliveries: list[Delivery] = []

    def __call__(self, delivery: Delivery) -> None:
        if self.early:
            delivery.acknowledge()
        self.deliveries.append(delivery)
        assert self.go_on.wait(30)

    @property
    def messages(self) -> list[Message]:
        return [delivery.message for delivery in self.deliveries]


class Note:
    """Somebody's actor: it acknowledges and notes the message."""

    def __init__(self) -> None:
        self.messages: list[Message] = []

    def __call__(self, delivery: Delivery) -> None:
        delivery.acknowledge()
        self.messages.append(delivery.message)
