"""What every contender can do, and what one measurement gives it: a database and a virtual host of its own."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from benchmarks.processes import Processes
from benchmarks.records import Reader

#: Makes a payload of about 200 bytes.
DATA = "x" * 160
WORKER_PROCESSES = 2


@dataclass(frozen=True)
class Place:
    database_url: str
    broker_url: str
    logs: Path
    reader: Reader
    processes: Processes


class Contender(Protocol):
    """`hold`, then `submit` a backlog, then `release`: the clock runs from there."""

    def hold(self) -> None: ...
    def submit(self, kind: str, numbers: range) -> None: ...
    def release(self) -> None: ...
    def submit_one(self, number: int) -> None:
        """One durable job, as its user would."""
        ...

    def ended_at(self) -> float | None:
        """When the last of all had ended, in Unix seconds; None while one of them has not."""
        ...

    def close(self) -> None: ...


class Served(Contender, Protocol):
    """One that takes jobs over HTTP, there and with this key."""

    url: str
    key: str


def await_(done: Callable[[], bool], what: str, place: Place, *, seconds: float = 60, pause: float = 0.02) -> None:
    """Raises RuntimeError when it takes too long, or when a process has ended meanwhile."""
    until = time.monotonic() + seconds
    while not done():
        place.processes.check()
        if time.monotonic() > until:
            raise RuntimeError(f"waited {seconds:g} s for {what}; see {place.logs}")
        time.sleep(pause)
