"""How much a relay keeps announced and not begun: about half a second of work, so that a cancel or an urgent job acts at once."""

from __future__ import annotations

import time

#: Messages that are kept announced in any case, so that no thread of a small crew waits for a relay.
MESSAGES = 16
MOST = 20_000
SECONDS = 0.5


class Window:
    """One queue's. It grows with the rate at which workers take, which a full window shows as the rate of claims."""

    def __init__(self) -> None:
        self._least = MESSAGES
        self.size = MESSAGES
        self._since = time.monotonic()
        self._claimed = 0

    def allow(self, share: int) -> None:
        """A command of this queue may put so many jobs into one message."""
        self._least = max(self._least, MESSAGES * share)
        self.size = max(self.size, self._least)

    def note(self, claimed: int) -> None:
        """So many were claimed just now."""
        self._claimed += claimed
        now = time.monotonic()
        if now - self._since >= SECONDS:
            rate = self._claimed / (now - self._since)
            self.size = int(min(MOST, max(self._least, rate * SECONDS)))
            self._since, self._claimed = now, 0
