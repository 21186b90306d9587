"""A circuit breaker before an outside service: while the service is away, its callers fail at once instead of each waiting for a timeout.

Why one of our own: docs/decisions/0010-circuit-breaker.md.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import ClassVar, TypeVar

import structlog

from pipelines.command import CommandError

log = structlog.get_logger()
T = TypeVar("T")


class Unavailable(CommandError):
    """The outside service did not answer, answered 5xx, or asked to come later; whether it did its part is not known."""

    code: ClassVar[str] = "unavailable"

    def __init__(self, message: str, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class CircuitOpen(CommandError):
    """The outside service has failed too often in a row and is left alone for a moment; it was not called."""

    code: ClassVar[str] = "circuit_open"

    def __init__(self, service: str, seconds: float) -> None:
        super().__init__(f"{service} is left alone for another {seconds:.1f} s after repeated failures; it was not called")
        self.retry_after = seconds


class Breaker:
    """Opens after `failures` Unavailable in a row. From then on one call in `seconds` goes through, as a probe; one that succeeds closes
    it. Any number of threads; calls run outside the lock.
    """

    def __init__(self, service: str, *, failures: int = 5, seconds: float = 5.0, clock: Callable[[], float] = time.monotonic) -> None:
        self._service = service
        self._limit = failures
        self._seconds = seconds
        self._clock = clock
        self._lock = threading.Lock()
        self._failures = 0
        self._next_probe_at = 0.0

    @property
    def is_open(self) -> bool:
        return self._failures >= self._limit

    def call(self, function: Callable[[], T]) -> T:
        """Raises CircuitOpen instead of calling. Every exception but Unavailable counts as an answer: the service is there."""
        self._enter()
        try:
            value = function()
        except Unavailable:
            self._failed()
            raise
        except Exception:
            self._answered()
            raise
        self._answered()
        return value

    def _enter(self) -> None:
        with self._lock:
            now = self._clock()
            if not self.is_open:
                return
            if now < self._next_probe_at:
                raise CircuitOpen(self._service, self._next_probe_at - now)
            # This caller is the probe. Should it never come back, the next one follows after as long again.
            self._next_probe_at = now + self._seconds

    def _failed(self) -> None:
        with self._lock:
            self._failures += 1
            opened = self._failures == self._limit
            self._next_probe_at = self._clock() + self._seconds
        if opened:
            log.warning("circuit opened; calls fail at once until a probe succeeds", service=self._service, failures=self._limit)

    def _answered(self) -> None:
        with self._lock:
            was_open, self._failures = self.is_open, 0
        if was_open:
            log.info("circuit closed; the service answers again", service=self._service)
