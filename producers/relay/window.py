"""How much a relay keeps announced and not begun: about half a second of work, so that a cancel or an urgent job acts at once."""

from __future__ import annotations

import time

LEAST = 256
MOST = 20_000
SECONDS = 0.5


class Window:
    """One queue's. It grows with the rate at which workers take, which a full window shows as the rate of claims."""

    def __init__(self) -> None:
        self.size = LEAST
        self._since = time.monotonic()
        self._claimed = 0

    def note(self, claimed: int) -> None:
        """So many were claimed just now."""
        self._claimed += claimed
        now = time.monotonic()
        if now - self._since >= SECONDS:
            rate = self._claimed / (now - self._since)
            self.size = int(min(MOST, max(LEAST, rate * SECONDS)))
            self._since, self._claimed = now, 0
