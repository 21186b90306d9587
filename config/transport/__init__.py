"""The way between relay and worker: the relay hands messages to a Transport, which says for each one that was not taken why not."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future
from typing import NamedTuple, Protocol

from config.transport.message import Message


class Unconfirmed(NamedTuple):
    """A message that the broker did not confirm: it may or may not have arrived, and is to be announced again."""

    message: Message
    reason: str


class Transport(Protocol):
    """Carries messages to the workers' queues. Any thread may call it."""

    @property
    def ready(self) -> bool:
        """Whether publishing makes sense now: connected, and the broker takes messages."""
        ...

    @property
    def problem(self) -> str | None:
        """What a person should know or do, as a sentence; None when all is well."""
        ...

    def publish(self, messages: Sequence[Message]) -> Future[list[Unconfirmed]]:
        """Never raises for the broker, and is done within a deadline; an empty list means that every message is safe there."""
        ...

    def depth(self, queue: str) -> int | None:
        """How many messages wait, as lately seen; None when not known. Asking has it looked up for the next time."""
        ...

    def close(self) -> None: ...
