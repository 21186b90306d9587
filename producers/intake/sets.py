"""The thread that writes the sets of batches: beside the writers of single submissions, so that these never wait behind a set.

Batches take turns, a set each. A commit whose outcome is unknown is repeated until the set's deadline: the set's own row settles it.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import random
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Generic, TypeVar, cast

import psycopg
import structlog

from ledger.batches import BatchReusedError
from ledger.connection import Database
from producers.intake.problems import Problem, in_flight, outcome_unknown, unavailable
from producers.intake.writing import Link

log = structlog.get_logger()

T = TypeVar("T")
Write = Callable[[psycopg.Connection[Any]], T]
#: Seconds after which the interpreter goes to another thread that wants it, while batches are read. For single submissions it would be slower.
QUICK = 0.0002
AGAIN = (psycopg.errors.DeadlockDetected, psycopg.errors.SerializationFailure)
REFUSED = (psycopg.DataError, psycopg.errors.ProgramLimitExceeded, psycopg.errors.StatementTooComplex)


@dataclass(slots=True, eq=False)
class Waiting(Generic[T]):
    """A set that waits for its commit."""

    write: Write[T]
    #: How long one try may take, in seconds, and until when there may be another.
    patience: float
    until: float
    loop: asyncio.AbstractEventLoop
    answer: asyncio.Future[T]
    #: It was in a commit of unknown outcome; it met a lock.
    lost: bool = False
    locked: bool = False

    def give_up(self) -> Problem:
        if self.lost:
            return outcome_unknown()
        if self.locked:
            return in_flight("this Idempotency-Key, or one of these keys,")
        return unavailable()

    def resolve(self, outcome: T | BaseException) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            self.loop.call_soon_threadsafe(_tell, self.answer, outcome)


class Turns:
    """The interpreter's interval is the process's, which may have more than one intake: quick from the first batch on until the last has come."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._hurried = 0
        self._usual = 0.0

    def hurry(self) -> None:
        with self._lock:
            if not self._hurried:
                self._usual = sys.getswitchinterval()
                sys.setswitchinterval(QUICK)
            self._hurried += 1

    def calm_down(self) -> None:
        with self._lock:
            self._hurried -= 1
            if not self._hurried:
                sys.setswitchinterval(self._usual)


_TURNS = Turns()


class SetWriter:
    """One thread, one connection."""

    def __init__(self, database: Database, deadline: float) -> None:
        self._database = database
        self._deadline = deadline
        self._waiting: queue.SimpleQueue[Waiting[Any] | None] = queue.SimpleQueue()
        #: How many batches are on their way in.
        self.receiving = 0
        self._thread = threading.Thread(target=self._run, name="intake-set-writer", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """Write what waits, then end."""
        self._waiting.put(None)
        self._thread.join(self._deadline)

    @contextlib.contextmanager
    def receive(self) -> Iterator[None]:
        """While a batch is on its way in. Its items are read here and its sets are written there: at the usual interval of 5 ms, this thread would
        wait that long for the interpreter after each statement.
        """
        self.receiving += 1
        _TURNS.hurry()
        try:
            yield
        finally:
            self.receiving -= 1
            _TURNS.calm_down()

    async def submit(self, write: Write[T], *, sets: int = 1) -> T:
        """Returns what `write` returns once it is committed. `sets`: more of them may take longer. Raises BatchReusedError, or Problem."""
        loop = asyncio.get_running_loop()
        patience = self._database.deadlines.call * (1 + sets / 10)
        waiting = Waiting(
            write, patience, time.monotonic() + self._deadline * (1 + sets / 10), loop, cast("asyncio.Future[T]", loop.create_future())
        )
        self._waiting.put(waiting)
        return await waiting.answer

    def _run(self) -> None:
        link = Link(self._database)
        while (waiting := self._waiting.get()) is not None:
            try:
                self._write(link, waiting)
            except Exception as error:  # a thread that dies here would leave all later ones unanswered
                log.exception("a set of a batch could not be written")
                link.close()
                waiting.resolve(error)
        link.close()

    def _write(self, link: Link, waiting: Waiting[Any]) -> None:
        while not waiting.answer.cancelled() and time.monotonic() < waiting.until:
            try:
                link.open()
            except psycopg.OperationalError as error:
                link.note_outage(error)
                time.sleep(random.uniform(0.05, 0.2))
                continue
            try:
                waiting.resolve(link.run(waiting.write, waiting.patience))
                return
            except (BatchReusedError, Problem) as error:
                waiting.resolve(error)
                return
            except psycopg.Error as error:
                if not self._may_go_on(link, waiting, error):
                    return
        waiting.resolve(waiting.give_up())

    def _may_go_on(self, link: Link, waiting: Waiting[Any], error: psycopg.Error) -> bool:
        """Whether to try again at once."""
        if link.lost:
            waiting.lost = True
            link.note_outage(error)
            time.sleep(random.uniform(0.05, 0.2))
            return True
        if isinstance(error, AGAIN):
            time.sleep(random.uniform(0.01, 0.05))
            return True
        if isinstance(error, psycopg.errors.LockNotAvailable):
            waiting.locked = True
            self._waiting.put(waiting)  # behind the others, who need not wait for that lock
        elif isinstance(error, REFUSED):
            waiting.resolve(Problem("invalid", "the ledger cannot keep one of these submissions"))
        elif isinstance(error, psycopg.OperationalError | psycopg.errors.ReadOnlySqlTransaction):
            log.warning("the ledger refused a set of a batch", error=str(error).strip())
            link.close()
            waiting.resolve(waiting.give_up())
        else:
            log.error("the ledger refused a set of a batch for a reason nobody foresaw", error=str(error).strip(), exc_info=error)
            waiting.resolve(error)
        return False


def _tell(answer: asyncio.Future[Any], outcome: object) -> None:
    if answer.done():
        return
    if isinstance(outcome, BaseException):
        answer.set_exception(outcome)
    else:
        answer.set_result(outcome)
