"""How much of a process's worker threads is taken: a set that would wait here goes back, to a process that idles."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

#: Seconds without a free thread after which a process stops taking deliveries. Short jobs never get there.
FULL = 0.1


class Capacity:
    """One for all queues of a process. A place is a set handed to Dramatiq and not finished."""

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self.closed = False
        self._free = threads
        self._full_since = float("inf")
        self._waiting: set[Callable[[], None]] = set()
        self._lock = threading.Lock()

    def take(self, wake: Callable[[], None]) -> bool:
        """A place for one set. If there is none, `wake` is called once as soon as there may be."""
        with self._lock:
            if self.closed:
                return False
            if self._free == 0:
                self._waiting.add(wake)
                return False
            self._free -= 1
            if self._free == 0:
                self._full_since = time.monotonic()
            return True

    def give_back(self) -> None:
        with self._lock:
            self._free += 1
            self._full_since = float("inf")
            waiting, self._waiting = self._waiting, set()
        for wake in waiting:
            wake()

    @property
    def free(self) -> int:
        """How many places there are now."""
        return 0 if self.closed else self._free

    def await_free(self, wake: Callable[[], None]) -> int:
        """How many places there are now; with none, `wake` is called once as soon as there may be."""
        with self._lock:
            if self._free == 0:
                self._waiting.add(wake)
        return self.free

    def seconds_until_full(self) -> float:
        """Zero or less: nothing may wait here any longer."""
        return float("-inf") if self.closed else self._full_since + FULL - time.monotonic()

    def close(self) -> None:
        """No more places from now on: the process drains. Does not wake anybody."""
        self.closed = True
