"""Ride out an outage: try again with capped, jittered waits, and log once when it begins and once when it is over."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import structlog
import tenacity

log = structlog.get_logger()
T = TypeVar("T")


def ride_out(
    what: str, call: Callable[[], T], errors: tuple[type[Exception], ...], *, give_up: Callable[[], bool] = lambda: False, cap: float = 2.0
) -> T:
    """Call until it succeeds. `give_up` is asked after each failure (a shutdown): then the last error is raised."""
    waits = tenacity.wait_exponential_jitter(initial=0.05, max=cap, jitter=0.1)
    tries = 0
    for attempt in tenacity.Retrying(
        retry=tenacity.retry_if_exception_type(errors), wait=waits, stop=lambda _state: give_up(), reraise=True
    ):
        with attempt:
            try:
                value = call()
            except errors as error:
                tries += 1
                if tries == 1:
                    log.warning("away; trying again until it is back", what=what, error=str(error).strip())
                raise
        if not attempt.retry_state.outcome or not attempt.retry_state.outcome.failed:
            if tries:
                log.info("back again", what=what, tries=tries)
            return value  # pyright: ignore[reportPossiblyUnboundVariable]
    raise AssertionError("tenacity either returns or raises")
