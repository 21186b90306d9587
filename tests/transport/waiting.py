"""Wait for a thing, with a deadline."""

from __future__ import annotations

import time
from collections.abc import Callable


def eventually(holds: Callable[[], object], seconds: float = 20) -> None:
    """Returns when it holds; fails when it does not in time."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, f"did not come true within {seconds} s"
        time.sleep(0.005)


def never(holds: Callable[[], object], seconds: float = 0.5) -> None:
    """Returns when it has not held for that long."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        assert not holds(), "came true"
        time.sleep(0.005)


def settles(holds: Callable[[], object], seconds: float = 20, steady: float = 0.5) -> None:
    """Returns when it has held without a break for so long; fails when it does not in time."""
    deadline = time.monotonic() + seconds
    since = time.monotonic()
    while time.monotonic() - since < steady:
        if not holds():
            since = time.monotonic()
        assert time.monotonic() < deadline, f"did not settle within {seconds} s"
        time.sleep(0.005)
