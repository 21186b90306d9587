"""One dead receiver must not hold all worker threads: how many of this process may be waiting for it at a time.

A receiver that answers well and quickly may have any number. One that has just failed, or was slow, has one at a time. One that has failed
three times in a row is left alone, and tried by one delivery after 5, 10, 20 seconds and so on, up to a quarter of an hour.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from uuid import UUID

#: Failures in a row after which it is left alone; seconds, for the first time and at most.
FAILURES = 3
FIRST_PAUSE = 5.0
LONGEST_PAUSE = 900.0
#: Seconds of an answer that is slow.
SLOW = 2.0
#: Seconds after which one that waits for its turn looks again, on average.
TURN = 2.0


@dataclass(slots=True)
class Lane:
    """One webhook's. `free_at`: left alone until then."""

    failures: int = 0
    slow: bool = False
    inside: int = 0
    free_at: float = 0.0


class Lanes:
    """All of a process. `scale` shrinks pauses, for tests."""

    def __init__(self, scale: float = 1, clock: Callable[[], float] = time.monotonic) -> None:
        self._scale = scale
        self._clock = clock
        self._lock = threading.Lock()
        self._lanes: dict[UUID, Lane] = {}

    def enter(self, webhook_id: UUID) -> float | None:
        """None: go, and `leave` afterwards. Else the seconds after which to ask again."""
        with self._lock:
            lane = self._lanes.setdefault(webhook_id, Lane())
            wait = lane.free_at - self._clock()
            if wait > 0:
                return wait + random.uniform(0, TURN * self._scale)
            if lane.inside and (lane.failures or lane.slow):
                return random.uniform(0.5, 1.5) * TURN * self._scale
            lane.inside += 1
            return None

    def is_left_alone(self, webhook_id: UUID) -> bool:
        """Whether it has failed too often in a row to be sent everything that is due."""
        with self._lock:
            lane = self._lanes.get(webhook_id)
            return lane is not None and lane.failures >= FAILURES

    def leave(self, webhook_id: UUID, *, well: bool, seconds: float, retry_after: float | None = None) -> None:
        """`retry_after`: the receiver itself asked for a pause."""
        with self._lock:
            lane = self._lanes[webhook_id]
            lane.inside -= 1
            lane.slow = seconds > SLOW
            lane.failures = 0 if well else lane.failures + 1
            pause = 0.0
            if lane.failures >= FAILURES:
                pause = min(LONGEST_PAUSE, FIRST_PAUSE * 2.0 ** min(lane.failures - FAILURES, 10)) * self._scale
            lane.free_at = self._clock() + max(pause, retry_after or 0.0)
            if not lane.inside and not lane.failures and not lane.slow:
                del self._lanes[webhook_id]  # nothing to remember
