"""Ride out an outage: try again with capped, jittered waits, and log once when it begins and once when it is over."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import structlog
from tenacity import RetryCallState, Retrying, retry_if_exception_type, wait_exponential_jitter

log = structlog.get_logger()
T = TypeVar("T")

#: Seconds: the first wait, and the longest.
FIRST_WAIT = 0.05
LONGEST_WAIT = 2.0


def ride_out(what: str, call: Callable[[], T], errors: tuple[type[Exception], ...], *, give_up: Callable[[], bool] = lambda: False) -> T:
    """Call until it succeeds. `give_up` is asked after each failure (a shutdown): then the last error is raised."""
    try:
        return call()  # costs nothing while all is well
    except errors as error:
        if give_up():
            raise
        log.warning("away; trying again until it is back", what=what, error=str(error).strip())

    def stop(_state: RetryCallState) -> bool:
        return give_up()

    waits = wait_exponential_jitter(multiplier=FIRST_WAIT, max=LONGEST_WAIT, jitter=FIRST_WAIT)
    value = Retrying(retry=retry_if_exception_type(errors), wait=waits, stop=stop, reraise=True)(call)
    log.info("back again", what=what)
    return value
