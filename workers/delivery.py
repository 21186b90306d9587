"""One arrival of a message at a worker, on its way from a consumer through Dramatiq to the executor.

Delivery tags belong to the connection that delivered: a delivery settles on its own source or not at all, never on a later one.
"""

from __future__ import annotations

from typing import Any, Protocol

from dramatiq import Message as DramatiqMessage
from dramatiq.broker import MessageProxy

from config.transport.message import Message


class Source(Protocol):
    """Where deliveries come from, and are settled. Any thread may settle; a tag that is settled already, or lost, is left alone."""

    @property
    def dead(self) -> bool: ...
    def acknowledge(self, tag: int, *, soon: bool = True) -> None: ...
    def return_(self, tag: int) -> None: ...
    def holds(self, tag: int) -> bool: ...


class Delivery:
    """What an actor is called with."""

    __slots__ = ("_source", "_tag", "message")

    def __init__(self, message: Message, source: Source, tag: int) -> None:
        self.message = message
        self._source = source
        self._tag = tag

    @property
    def dead(self) -> bool:
        """Its connection is gone; the message has gone back by itself and will arrive again."""
        return self._source.dead

    @property
    def held(self) -> bool:
        """Neither acknowledged nor returned, and not dead."""
        return self._source.holds(self._tag)

    def acknowledge(self) -> None:
        """The jobs are begun, or there was nothing to begin: the message has done its work."""
        self._source.acknowledge(self._tag, soon=len(self.message.jobs) > 1)  # the next of a busy queue can come meanwhile

    def return_(self) -> None:
        """It could not be begun: another worker may have it."""
        self._source.return_(self._tag)


class Handover(MessageProxy):
    """A delivery in Dramatiq's clothes: a message whose one argument is the delivery."""

    def __init__(self, delivery: Delivery) -> None:
        queue = delivery.message.queue
        message: DramatiqMessage[Any] = DramatiqMessage(queue, queue, (delivery,), {}, {}, message_id=queue, message_timestamp=0)
        super().__init__(message)  # pyright: ignore[reportUnknownMemberType]
        self.delivery = delivery
