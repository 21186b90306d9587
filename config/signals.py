"""SIGTERM and SIGINT mean the same to every process of ours: take nothing new, finish, leave in order."""

from __future__ import annotations

import signal
from collections.abc import Callable
from types import FrameType


def on_stop(stop: Callable[[], object]) -> None:
    """Call `stop` when the process is told to end. Main thread only."""

    def told(_number: int, _frame: FrameType | None) -> None:
        stop()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, told)
