"""What every contender can do, and what one measurement gives it: a database and a virtual host of its own, and a Redis that is for whoever empties it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from benchmarks.processes import Processes
from benchmarks.records import Reader

WORKER_PROCESSES = 2


@dataclass(frozen=True)
class Place:
    database_url: str
    broker_url: str
    redis_url: str
    logs: Path
    reader: Reader
    processes: Processes


class Contender(Protocol):
    """`kind` is noop, durable, or random: durable on accounts at random. `hold`, then `submit` a backlog, then `release`: the clock runs from there."""

    def hold(self) -> None: ...
    def submit(self, kind: str, numbers: range) -> None: ...
    def release(self) -> None: ...
    def submit_one(self, number: int) -> float:
        """One durable job, as its user would; when that call began, in Unix seconds."""
        ...

    def ended_at(self) -> float | None:
        """When the last of all had ended, in Unix seconds; None while one of them has not."""
        ...

    def close(self) -> None: ...


class Served(Protocol):
    """One that takes jobs over HTTP, there and with this key."""

    url: str
    key: str

    def close(self) -> None: ...


def await_(done: Callable[[], bool], what: str, place: Place, *, seconds: float = 60, pause: float = 0.02) -> None:
    """Raises RuntimeError when it takes too long, or when a process has ended meanwhile."""
    until = time.monotonic() + seconds
    while not done():
        place.processes.check()
        if time.monotonic() > until:
            raise RuntimeError(f"waited {seconds:g} s for {what}; see {place.logs}")
        time.sleep(pause)
