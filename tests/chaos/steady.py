"""A steady load: jobs over HTTP, one after the other, while something else goes wrong."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Sequence
from typing import Self
from uuid import UUID

from tests.crash.rig import Rig

COMMANDS = ("crash.count", "crash.plain", "crash.call", "crash.snooze", "crash.chain")


class Load:
    """Jobs over HTTP, one after the other in two threads, until it is told to stop; and when jobs have ended."""

    def __init__(self, rig: Rig, commands: Sequence[str] = COMMANDS) -> None:
        self._rig = rig
        self._commands = commands
        self.ids: list[UUID] = []
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._submit, args=(number,)) for number in range(2)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _submit(self, number: int) -> None:
        for n in itertools.count(number):
            if self._stop.wait(0.05):
                return
            self.ids.append(self._rig.submit(self._commands[n % len(self._commands)], {"n": n}))

    def longest_pause(self, since: float) -> float:
        """Seconds between two ends of jobs, from that time (Unix seconds) until now."""
        rows = self._rig.rows(
            "select extract(epoch from finished_at)::float8 from haulier.jobs where finished_at > to_timestamp(%s) order by 1", since
        )
        times = [since, *(row[0] for row in rows), time.time()]
        return max(after - before for before, after in itertools.pairwise(times))
