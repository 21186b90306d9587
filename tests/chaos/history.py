"""The history of a run: what clients asked and were told, what outside services did, and which faults there were.

Every process writes a file of its own, a line at a time, flushed with each line. A line is
{i, mono, wall, proc, type, f, key, tenant, job, value}: `type` is invoke, ok (accepted, applied), fail (surely not) or info (nobody
knows); `f` is submit, status, effect or fault. `mono` is the machine's monotonic clock, and so the same for all of them.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

Type = Literal["invoke", "ok", "fail", "info"]
Function = Literal["submit", "status", "effect", "fault", "run"]


@dataclass(frozen=True, slots=True)
class Event:
    """`i` counts the writer's own. `key`: of the submission, of the effect (its idempotency key), or the fault's class."""

    i: int
    mono: float
    wall: float
    proc: str
    type: Type
    f: Function
    key: str | None = None
    tenant: str | None = None
    job: str | None = None
    value: Any = None


class Writer:
    """One process's own file; any number of threads."""

    def __init__(self, directory: Path, proc: str) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._proc = proc
        self._file = (directory / f"{proc}.jsonl").open("a", encoding="utf-8")
        self._lock = threading.Lock()
        self._next = 0

    def write(
        self,
        kind: Type,
        f: Function,
        *,
        key: str | None = None,
        tenant: str | None = None,
        job: str | None = None,
        value: Any = None,
    ) -> Event:
        with self._lock:
            event = Event(self._next, time.monotonic(), time.time(), self._proc, kind, f, key, tenant, job, value)
            self._next += 1
            self._file.write(json.dumps(asdict(event), separators=(",", ":")) + "\n")
            self._file.flush()
        return event

    def close(self) -> None:
        self._file.close()


def read(directory: Path) -> list[Event]:
    """All files of a history, by time. The last line of a writer that was killed may be torn: it is left out."""
    return sorted(
        (event for path in directory.glob("*.jsonl") for event in _read(path)), key=lambda event: (event.mono, event.proc, event.i)
    )


def _read(path: Path) -> Iterator[Event]:
    lines = path.read_text(encoding="utf-8").split("\n")
    for line in filter(None, lines[:-1]):
        yield Event(**json.loads(line))
