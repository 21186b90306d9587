"""A worker's end of one queue in memory (`haulier dev`): the same as RabbitMQ's, without the ways in which that can fail."""

from __future__ import annotations

import itertools
import time

from dramatiq.broker import MessageProxy

from config.transport.memory import MemoryQueue
from workers.capacity import Capacity
from workers.reading import OnOrphan, ReadingConsumer


class MemoryConsumer(ReadingConsumer):
    """It takes from the queue only what a thread can start now, so nothing ever waits in it. It is its deliveries' source, too."""

    def __init__(self, memory: MemoryQueue, queue: str, capacity: Capacity, on_orphan: OnOrphan, timeout: float) -> None:
        super().__init__(queue, capacity, on_orphan)
        self.problem: str | None = None
        self.dead = False
        self._memory = memory
        self._timeout = timeout
        self._tags = itertools.count(1)
        self._unsettled: dict[int, bytes] = {}

    def wake(self) -> None:
        with self._memory.changed:
            self._memory.changed.notify_all()

    def __next__(self) -> MessageProxy | None:
        body = self._take(time.monotonic() + self._timeout)
        if body is None:
            return None
        tag = next(self._tags)
        self._unsettled[tag] = body
        handover = self.read(self, tag, body, {})
        if handover is None:
            self.capacity.give_back()
        return handover

    def close(self) -> None:
        """What is not settled goes back."""
        self.return_all_paused()
        self.dead = True
        for tag in list(self._unsettled):
            self.return_(tag)

    def _take(self, deadline: float) -> bytes | None:
        bodies = self._memory.bodies
        while (left := min(deadline - time.monotonic(), self.return_paused())) > 0:
            with self._memory.changed:
                if bodies and self.capacity.take(self.wake):
                    return bodies.popleft()
                if not self._memory.changed.wait(left):
                    return None
        return None

    # The source's side.

    def acknowledge(self, tag: int, *, soon: bool = True) -> None:
        self._unsettled.pop(tag, None)

    def return_(self, tag: int) -> None:
        body = self._unsettled.pop(tag, None)
        if body is not None:
            self._memory.put_back(body)

    def holds(self, tag: int) -> bool:
        return tag in self._unsettled
