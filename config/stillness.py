"""Notice that this process stood still: whoever wonders where a lease went should read it in its log."""

from __future__ import annotations

import threading
import time

import structlog

log = structlog.get_logger()


def wait(stop: threading.Event, seconds: float, bearable: float) -> bool:
    """Wait for so long, or until it is told to stop; says whether it is. One that takes `bearable` seconds longer is told in the log."""
    began = time.monotonic()
    stopping = stop.wait(seconds)
    late = time.monotonic() - began - seconds
    if late > bearable:
        log.warning(
            "this process stood still (stopped, swapped out, or its machine was); its jobs may have been taken back", seconds=round(late, 1)
        )
    return stopping
