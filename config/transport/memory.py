"""The way between relay and worker inside one process (`haulier dev`): bounded queues in memory.

Safe, because the ledger announces again whatever it forgets; the bodies are encoded and decoded as they are with RabbitMQ.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable, Sequence
from concurrent.futures import Future

from config.transport import Unconfirmed
from config.transport.message import Message, encode

MAX_LENGTH = 10_000


class MemoryQueue:
    """One queue. Whoever waits on `changed` is woken by each arrival."""

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.bodies: deque[bytes] = deque()

    def put(self, body: bytes) -> bool:
        """False if the queue is full."""
        with self.changed:
            if len(self.bodies) >= MAX_LENGTH:
                return False
            self.bodies.append(body)
            self.changed.notify_all()
            return True

    def put_back(self, body: bytes) -> None:
        """In front, and even into a full queue: it had its place already."""
        with self.changed:
            self.bodies.appendleft(body)
            self.changed.notify_all()


class MemoryQueues:
    """What the transport and the workers' broker share."""

    def __init__(self, queues: Iterable[str]) -> None:
        self._queues = {queue: MemoryQueue() for queue in queues}

    def __getitem__(self, queue: str) -> MemoryQueue:
        return self._queues[queue]


class MemoryTransport:
    """The relay's end."""

    ready = True
    problem: str | None = None

    def __init__(self, queues: MemoryQueues) -> None:
        self._queues = queues

    def publish(self, messages: Sequence[Message]) -> Future[list[Unconfirmed]]:
        done: Future[list[Unconfirmed]] = Future()
        done.set_result([Unconfirmed(each, "the queue is full") for each in messages if not self._queues[each.queue].put(encode(each))])
        return done

    def depth(self, queue: str) -> int | None:
        return len(self._queues[queue].bodies)

    def close(self) -> None:
        """Nothing to close; what waits in the queues is forgotten with the process."""
