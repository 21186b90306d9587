"""SIGTERM and SIGINT mean the same to every process of ours: take nothing new, finish, leave in order."""

from __future__ import annotations

import atexit
import signal
from collections.abc import Callable
from types import FrameType

STOPS = (signal.SIGTERM, signal.SIGINT)


def on_stop(stop: Callable[[], object]) -> None:
    """Call `stop` when the process is told to end, each time. Main thread only."""

    def told(_number: int, _frame: FrameType | None) -> None:
        stop()

    for number in STOPS:
        signal.signal(number, told)
    atexit.register(_ignore)


def _ignore() -> None:
    """It is leaving: told once more in Python's own last moment, when no handler is called any more, it would end by that signal and not with its
    status.
    """
    for number in STOPS:
        signal.signal(number, signal.SIG_IGN)
