"""Group commit: submissions that arrive together share one statement and one commit; a lone one waits for nobody.

A few writer threads each take everything that waits, whenever they are free. A commit whose outcome is unknown is repeated with the
same job ids until the request's deadline: the primary key settles it.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import threading
import time
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, field

import psycopg
import structlog

from ledger.connection import Database
from ledger.jobs import Submission
from ledger.unique import name_of
from ledger.waking import Waker
from producers.intake import metrics
from producers.intake.problems import Problem, in_flight, outcome_unknown, unavailable
from producers.intake.sets import SetWriter
from producers.intake.writing import Accepted, Answer, KeyTaken, Link, UniqueHeld

log = structlog.get_logger()

#: Jobs, and bytes of payload, in one statement.
SET_SIZE = 200
SET_BYTES = 4 << 20
#: More than this waiting means that the ledger does not keep up: refused at once, while it is sure that nothing was accepted.
MOST_WAITING = 10_000
RETRIES = 3


@dataclass(slots=True, eq=False)
class Pending:
    """A submission that waits for its commit."""

    submission: Submission
    until: float
    loop: asyncio.AbstractEventLoop
    answer: asyncio.Future[Accepted]
    since: float = field(default_factory=time.monotonic)
    #: A statement with it is under way; it was in one whose outcome is unknown; its request has gone away with a 503.
    sent: bool = False
    lost: bool = False
    dropped: bool = False
    #: It met a lock, so it goes by itself.
    alone: bool = False

    @property
    def name(self) -> tuple[int | str | None, ...]:
        """What it may wait for while another transaction has it: its unique key, or else its idempotency key. Both are the tenant's own."""
        wish = self.submission
        return (wish.tenant_id, wish.key) if wish.unique is None else name_of(wish)

    def give_up(self) -> Problem:
        return outcome_unknown() if self.sent or self.lost else unavailable()


class Writers:
    """The threads that write submissions."""

    def __init__(self, database: Database, deadline: float, waker: Waker, threads: int = 2) -> None:
        self._database = database
        self._deadline = deadline
        self._waker = waker
        #: Those of batches have a thread of their own, so that nobody waits behind a set.
        self.sets = SetWriter(database, deadline)
        self._waiting: deque[Pending] = deque()
        #: Those that met a lock. One thread at a time sees to them, so that the others always serve those that need not wait.
        self._locked: deque[Pending] = deque()
        self._locked_keys: Counter[tuple[int | str | None, ...]] = Counter()
        self._at_locked = False
        self._lock = threading.Lock()
        self._arrived = threading.Condition(self._lock)
        self._closing = False
        self._threads = [threading.Thread(target=self._run, name=f"intake-writer-{n}", daemon=True) for n in range(threads)]

    def start(self) -> None:
        self._waker.start()
        self.sets.start()
        for thread in self._threads:
            thread.start()

    def after_commit(self) -> None:
        """Something was committed that a relay should see."""
        self._waker.wake()

    async def submit(self, submission: Submission) -> Accepted:
        """Returns once it is committed. Raises Problem, which says whether it may have been accepted all the same."""
        loop = asyncio.get_running_loop()
        pending = Pending(submission, time.monotonic() + self._deadline, loop, loop.create_future())
        with self._lock:
            if len(self._waiting) >= MOST_WAITING or self._closing:
                raise unavailable("too many submissions are waiting; nothing was accepted")
            self._waiting.append(pending)
            self._arrived.notify()
        try:
            async with asyncio.timeout(self._deadline):
                return await pending.answer
        except TimeoutError:
            with self._lock:
                pending.dropped = True
                raise pending.give_up() from None

    def close(self) -> None:
        """Write what waits, then end."""
        with self._lock:
            self._closing = True
            self._arrived.notify_all()
        self.sets.close()
        for thread in self._threads:
            thread.join(self._deadline)
        self._waker.close()

    def _run(self) -> None:
        link = Link(self._database)
        while members := self._take():
            aside = members[0] if members[0].alone else None
            try:
                self._write(link, members)
            except Exception as error:  # a thread that dies here would leave its members, and all later ones, unanswered
                log.exception("a set of submissions could not be written", size=len(members))
                link.close()
                self._resolve([(member, error) for member in members])
            if aside:
                self._leave_aside(aside)
        link.close()

    def _take(self) -> list[Pending]:
        """Wait for something to write, and take all of it, up to a limit. Empty means that it is time to leave."""
        with self._lock:
            while True:
                if self._may_see_to_locked():
                    self._at_locked = True
                    members = [self._locked.popleft()]
                else:
                    members = self._take_free()
                if members or (self._closing and not self._may_see_to_locked()):
                    break
                if not self._may_see_to_locked():
                    self._arrived.wait()
            if self._waiting:
                self._arrived.notify()
        # In one order, so that two sets that share keys wait for each other and cannot deadlock.
        return sorted(members, key=lambda member: (member.submission.tenant_id, member.submission.key or ""))

    def _may_see_to_locked(self) -> bool:
        return bool(self._locked) and not self._at_locked

    def _take_free(self) -> list[Pending]:
        members: list[Pending] = []
        size = 0
        while self._waiting and len(members) < SET_SIZE and size < SET_BYTES:
            member = self._waiting.popleft()
            if member.name in self._locked_keys:
                self._put_aside(member)
                continue
            members.append(member)
            size += len(member.submission.payload)
        return members

    def _put_aside(self, member: Pending) -> None:
        if not member.alone:
            member.alone = True
            self._locked_keys[member.name] += 1
        self._locked.append(member)
        self._arrived.notify()

    def _leave_aside(self, member: Pending) -> None:
        with self._lock:
            self._at_locked = False
            self._arrived.notify()
            if member not in self._locked:
                self._locked_keys -= Counter([member.name])

    def _write(self, link: Link, members: Sequence[Pending], tries: int = 0) -> None:
        while members := self._still_wanted(members):
            try:
                link.open()
            except psycopg.OperationalError as error:
                link.note_outage(error)
                self._pause(members)
                continue
            members = self._mark_sent(members)
            try:
                answers = link.write([member.submission for member in members])
            except psycopg.Error as error:
                if link.lost:
                    self._mark_lost(members)
                    link.note_outage(error)
                    self._pause(members)
                    continue
                self._refused(link, members, error, tries)
                return
            self._resolve(list(zip(members, answers, strict=True)))
            metrics.SET_SIZE.observe(len(members))
            return

    def _refused(self, link: Link, members: Sequence[Pending], error: psycopg.Error, tries: int) -> None:
        """The server rolled the statement back. Members of a set run again singly, so that one bad apple spoils nothing."""
        for member in members:
            member.sent = False
        if len(members) > 1:
            self._write_singly(link, members, error)
            return
        member = members[0]
        match error:
            case psycopg.errors.DeadlockDetected() | psycopg.errors.SerializationFailure() if tries < RETRIES:
                time.sleep(random.uniform(0.01, 0.05) * 2**tries)
                self._write(link, members, tries + 1)
            case psycopg.errors.LockNotAvailable():
                self._wait_for_lock(member)
            case psycopg.DataError() | psycopg.errors.ProgramLimitExceeded() | psycopg.errors.StatementTooComplex():
                self._resolve([(member, Problem("invalid", "the ledger cannot keep this submission"))])
            case psycopg.OperationalError() | psycopg.errors.ReadOnlySqlTransaction():
                log.warning("the ledger refused a submission", error=str(error).strip())
                link.close()
                self._resolve([(member, member.give_up())])
            case _:
                log.error("the ledger refused a submission for a reason nobody foresaw", error=str(error).strip(), exc_info=error)
                self._resolve([(member, error)])

    def _write_singly(self, link: Link, members: Sequence[Pending], error: psycopg.Error) -> None:
        if not isinstance(error, psycopg.errors.LockNotAvailable):
            for member in members:
                self._write(link, [member])
            return
        link.set_patience(0.01)  # those that meet the lock get out of the way of those that do not
        for member in members:
            self._write(link, [member])
        link.close()

    def _wait_for_lock(self, member: Pending) -> None:
        """Its key is being accepted in somebody else's transaction: it waits aside, until its time is up."""
        if time.monotonic() > member.since + self._database.deadlines.lock:
            busy = in_flight("this Idempotency-Key, or this unique key,")
            self._resolve([(member, member.give_up() if member.lost else busy)])
            return
        with self._lock:
            self._put_aside(member)

    def _still_wanted(self, members: Sequence[Pending]) -> list[Pending]:
        now = time.monotonic()
        return [member for member in members if not member.dropped and now < member.until]

    def _mark_sent(self, members: Sequence[Pending]) -> list[Pending]:
        with self._lock:
            wanted = [member for member in members if not member.dropped]
            for member in wanted:
                member.sent = True
        return wanted

    def _mark_lost(self, members: Sequence[Pending]) -> None:
        with self._lock:
            for member in members:
                member.sent, member.lost = False, True

    def _pause(self, members: Sequence[Pending]) -> None:
        left = max(member.until for member in members) - time.monotonic()
        time.sleep(max(0.0, min(random.uniform(0.05, 0.2), left)))

    def _resolve(self, answers: Sequence[tuple[Pending, Answer | Exception]]) -> None:
        if not answers:
            return
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            answers[0][0].loop.call_soon_threadsafe(_tell, answers)


def key_taken() -> Problem:
    return Problem("key-reused", "this Idempotency-Key was used before for another body; nothing was accepted")


def unique_held(wish: Submission, answer: UniqueHeld) -> Problem:
    assert wish.unique is not None
    detail = f"the unique key {wish.unique.key!r} is held by job {answer.holder}; nothing was accepted"
    return Problem("unique-held", detail, errors=[("/unique", detail)], members={"job_id": str(answer.holder)})


def _tell(answers: Sequence[tuple[Pending, Answer | Exception]]) -> None:
    for member, answer in answers:
        if member.answer.done():
            continue
        match answer:
            case Accepted():
                member.answer.set_result(answer)
            case KeyTaken():
                member.answer.set_exception(key_taken())
            case UniqueHeld():
                member.answer.set_exception(unique_held(member.submission, answer))
            case _:
                member.answer.set_exception(answer)
