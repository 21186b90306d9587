"""Where a claim begins: not at rows that are dead, and that nobody can vacuum away while somebody's transaction is open (decision 0023).

What is due before its mark was claimed, or came late: it is found by the next look at everything, of which there is one at every claim as
long as that is cheap.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta

from ledger.outbox import START, Claim, Start, Stretch

#: A mark is so far behind what was claimed last: a transaction takes its time from when a job is due to its commit.
SLACK = timedelta(seconds=0.5)
STUCK_AFTER = timedelta(seconds=5)
#: A look at everything that takes longer than so many seconds is followed by so many times as long without one, up to so many seconds.
CHEAP = 0.001
REST = 50
MOST_REST = 10.0
#: Priorities that have a mark of their own.
MOST = 8


class Pace:
    """Whether a look at everything may be taken again: they shall take a fiftieth of the time at most."""

    def __init__(self) -> None:
        self._at = 0.0

    def is_due(self) -> bool:
        return time.monotonic() >= self._at

    @contextmanager
    def timed(self) -> Iterator[None]:
        began = time.monotonic()
        self._at = began + MOST_REST  # if it fails, because it takes too long, the others go on
        yield
        took = time.monotonic() - began
        self._at = began + took + min(MOST_REST, REST * max(0.0, took - CHEAP))

    def hurry(self) -> None:
        self._at = 0.0


class Marks:
    """One queue's."""

    def __init__(self) -> None:
        self.pace = Pace()
        self._due: dict[int, datetime] = {}
        self._announced: datetime | None = None
        self._stuck = 0

    def start(self) -> Start:
        """Of a claim that does not look at everything."""
        return Start(tuple(self._stretches()), self._announced, self._stuck)

    def note(self, start: Start, claim: Claim) -> None:
        self._stuck = start.stuck + claim.stuck
        self._announced = max((claim.first_announced or claim.at) - SLACK, claim.at - STUCK_AFTER)
        if claim.is_all:
            self._due = dict.fromkeys(self._due, claim.at - SLACK)
        elif start is START and claim.reached:  # of what is less urgent than the last that was claimed, more may lie before its mark
            self._due = {priority: mark for priority, mark in self._due.items() if priority > min(claim.reached)}
        for priority, due_at in claim.reached.items():
            self._due[priority] = max(due_at - SLACK, self._due.get(priority, due_at - SLACK))
        while len(self._due) > MOST:
            del self._due[min(self._due, key=self._due.__getitem__)]

    def _stretches(self) -> Iterator[Stretch]:
        """Each priority from its mark on, and the others between them from the beginning, since hardly anything was claimed there."""
        [(high, low, _)] = START.stretches
        for priority in sorted(self._due, reverse=True):
            if priority < high:
                yield high, priority + 1, None
            yield priority, priority, self._due[priority]
            high = priority - 1
        if high >= low:
            yield high, low, None
