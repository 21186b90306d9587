"""The relay: claim what may go, publish with confirms in flight, unmark what was not confirmed, stage what has become due.

A lone job whose notice wakes it is published first and claimed afterwards (decision 0025).

No transaction is open while it publishes. Any number of copies; each claims other rows (SKIP LOCKED).
"""

from __future__ import annotations

import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import nullcontext
from datetime import datetime
from typing import Any
from uuid import UUID

import psycopg
import structlog

from config.changes import NoChanges, Teller
from config.failpoints import reach
from config.ids import uuid7
from config.outage import ride_out
from config.settings import RELEASE, Settings
from config.transport import Transport, Unconfirmed
from config.transport.message import Announcement, Message
from ledger import notices, outbox, workers
from ledger.connection import Database
from ledger.notices import NewJob
from ledger.outbox import Claimed
from producers.relay import metrics
from producers.relay.marks import SLACK, Marks, Pace
from producers.relay.window import SECONDS as WINDOW_SECONDS
from producers.relay.window import Window

log = structlog.get_logger()

#: Rows claimed in one statement, batches whose confirms may be outstanding, jobs named by one message at the most, and milliseconds
#: that a message's jobs may take to run one after the other.
CLAIM_ROWS = 500
IN_FLIGHT = 4
MESSAGE_JOBS = 100
MESSAGE_MS = 100.0
#: Below this many rows at once each gets a message of its own, so that idle workers share them.
FEW = 4
#: Seconds within which fewer than those come, if they come alone. More are a stream, and are claimed together.
CALM = 0.01
#: Seconds between two looks for lost announcements, and between two looks at the crew.
LOOK_AGAIN_EVERY = 5.0
REFRESH_EVERY = 1.0
#: So many passes in a row that found work, with nothing waited for between two, and the relay need not be woken.
BUSY_PASSES = 5
#: Seconds between two looks while work flows.
SHORT = 0.02


class Relay:
    """One copy, one thread. `run` until `stop`."""

    def __init__(self, settings: Settings, database: Database, transport: Transport, changes: Teller | None = None) -> None:
        self._settings = settings
        self._database = database
        self._transport = transport
        self._changes = changes or NoChanges()
        self._id = uuid7()
        self._stop = threading.Event()
        self._connection: psycopg.Connection[Any] | None = None
        self._listener: psycopg.Connection[Any] | None = None
        self._flying: deque[Future[list[Unconfirmed]]] = deque()
        #: Announced before they were claimed, since the last pass, and when the last few; and the latest that were claimed, whose notices are late.
        self._ahead: set[UUID] = set()
        self._ahead_at: deque[float] = deque([float("-inf")] * FEW, maxlen=FEW)
        self._claimed: deque[UUID] = deque(maxlen=CLAIM_ROWS)
        self._crew = workers.Crew(frozenset(), {})
        self._shares: dict[str, int] = {}
        self._windows: dict[str, Window] = {}
        self._marks: defaultdict[str, Marks] = defaultdict(Marks)
        self._staged_since: datetime | None = None
        self._stage_pace = Pace()
        self._lag_pace = Pace()
        self._again_pace = Pace()
        self._empty_before: dict[str, bool] = {}
        self._refresh_at = 0.0
        self._look_again_at = time.monotonic() + LOOK_AGAIN_EVERY
        self._asleep = False
        self._busy_passes = 0
        self._claimed_at = 0.0
        #: Queues in which something due waits for room.
        self._behind: set[str] = set()
        self._latest: datetime | None = None
        self._unsure = False

    def stop(self) -> None:
        self._stop.set()

    def run(self) -> None:
        """Carry until told to stop; a database that goes away is waited for."""
        while not self._stop.is_set():
            try:
                carried, staged = self._pass()
                if carried or staged:
                    self._stay_awake(lone=carried < FEW and not staged)
                else:
                    self._rest()
            except psycopg.Error as error:
                self._unsure = True
                self._disconnect()
                if not isinstance(error, psycopg.OperationalError):
                    log.exception("a pass of the relay failed; going on")
                ride_out("the database", self._connect, (psycopg.OperationalError,), give_up=self._stop.is_set)
        self._leave()

    def _pass(self) -> tuple[int, int]:
        """One round over all queues. Returns how many jobs were carried, and how many staged for the next pass."""
        tx = self._connected()
        with self._database.watchdog.guard(tx, self._database.deadlines.call):
            now = time.monotonic()
            if self._unsure:
                self._recollect(tx)
            if now >= self._refresh_at:
                self._refresh(tx)
            if now >= self._look_again_at and self._again_pace.is_due():
                with self._again_pace.timed():
                    self._look_again(tx)
            carried = sum(self._carry(tx, queue) for queue in self._windows) if self._transport.ready else 0
            staged = self._stage(tx)  # after carrying: who has woken it is in more of a hurry
            for changed in staged:
                self._changes.tell(*changed)
            metrics.STAGED.inc(len(staged))
            self._land(tx)
        self._ahead.clear()
        return carried, len(staged)

    def _carry(self, tx: psycopg.Connection[Any], queue: str) -> int:
        window = self._windows[queue]
        claimed = self._claim(tx, queue, window.size)
        if not claimed:
            return 0
        reach("relay.after_claim")
        self._claimed_at = time.monotonic()
        window.note(len(claimed))
        while len(self._flying) >= IN_FLIGHT:
            self._land(tx, wait=True)
        self._publish(queue, bundle(queue, [job for job in claimed if job.job_id not in self._ahead], self._shares))
        return len(claimed)

    def _publish(self, queue: str, messages: Sequence[Message]) -> None:
        self._flying.append(self._transport.publish(messages))
        reach("relay.after_publish")
        metrics.ANNOUNCED.labels(queue).inc(sum(len(message.jobs) for message in messages))

    def _announce(self, job: NewJob) -> bool:
        """A lone new job whose notice has just come, and before which nothing waits. If no worker has begun it by then, the next claim marks it as
        announced.
        """
        now = time.monotonic()
        known = job.queue in self._windows and job.command in self._crew.commands
        lone = job.queue not in self._behind and now - self._ahead_at[0] > CALM
        if not known or not lone or not self._transport.ready or job.job_id in self._claimed:
            return False
        self._ahead.add(job.job_id)
        self._ahead_at.append(now)
        self._publish(job.queue, [Message(job.queue, (Announcement(job.job_id, 1, job.traceparent),))])
        return True

    def _claim(self, tx: psycopg.Connection[Any], queue: str, window: int) -> list[Claimed]:
        """From the beginning while that is cheap, else from the marks."""
        marks = self._marks[queue]
        start = outbox.START if marks.pace.is_due() else marks.start()
        with marks.pace.timed() if start is outbox.START else nullcontext():
            claim = outbox.claim(tx, queue, list(self._crew.commands), window=window, limit=CLAIM_ROWS, start=start)
        marks.note(start, claim)
        self._latest = claim.at
        if claim.is_all:
            self._behind.discard(queue)
        else:
            self._behind.add(queue)
        self._claimed.extend(job.job_id for job in claim.rows)
        return claim.rows

    def _recollect(self, tx: psycopg.Connection[Any]) -> None:
        """A pass broke off: a claim may have been committed though its answer was lost, or have been answered and not been published."""
        again = outbox.unmark_since(tx, self._latest)
        self._unsure = False
        if again:
            self._look_from_the_beginning()
            log.warning("the database went away in the middle of a claim; it is announced again", jobs=again)

    def _stage(self, tx: psycopg.Connection[Any]) -> list[outbox.Changed]:
        """The same for what becomes due."""
        if self._stage_pace.is_due():
            self._staged_since = None
        with self._stage_pace.timed() if self._staged_since is None else nullcontext():
            staged = outbox.stage(tx, CLAIM_ROWS, self._staged_since)
        if len(staged) < CLAIM_ROWS and self._latest is not None:
            self._staged_since = self._latest - SLACK
        return staged

    def _look_from_the_beginning(self) -> None:
        """At the next claims: something may be before the marks."""
        for marks in self._marks.values():
            marks.pace.hurry()

    def _land(self, tx: psycopg.Connection[Any], *, wait: bool = False) -> None:
        """Look at the batches whose confirms are in, oldest first; `wait` for at least one."""
        while self._flying and (wait or self._flying[0].done()):
            unconfirmed = self._flying[0].result()
            reach("relay.after_confirm")
            wait = False
            ids = [job.job_id for failed in unconfirmed for job in failed.message.jobs]
            if ids:
                self._ahead.difference_update(ids)  # not marked yet: the claim that comes publishes it
                outbox.unmark(tx, ids)
                self._look_from_the_beginning()
            self._flying.popleft()  # not before it is unmarked: the database may have gone away
            if ids:
                metrics.UNCONFIRMED.inc(len(ids))
                log.warning("not confirmed; to be announced again", jobs=len(ids), reason=unconfirmed[0].reason)
                self._stop.wait(self._settings.poll)

    def _refresh(self, tx: psycopg.Connection[Any]) -> None:
        """Once a second: which commands somebody can run, which are short, which queues there are."""
        self._refresh_at = time.monotonic() + REFRESH_EVERY
        crew = workers.crew(tx, self._settings.lease)
        if crew.commands != self._crew.commands:
            self._look_from_the_beginning()
        self._crew = crew
        self._shares = {command: share(mean) for command, mean in workers.run_times(tx).items()}
        for command, queue in workers.queues(tx).items():
            self._windows.setdefault(queue, Window()).allow(self._shares.get(command, 1))
        workers.register(tx, self._id, "relay", RELEASE)  # and not only a heartbeat: it may have been taken for dead
        again = outbox.unmark_of_lost_relays(tx, self._settings.lease)
        if again:
            self._look_from_the_beginning()
            log.warning("a relay is gone; what it announced is announced again", jobs=again)
        if self._lag_pace.is_due():
            with self._lag_pace.timed():
                for queue in self._windows:
                    metrics.LAG.labels(queue).set(outbox.oldest(tx, queue))
        for queue in self._windows:
            self._transport.depth(queue)  # asked now: the answer is there, and fresh, when it is looked at

    def _look_again(self, tx: psycopg.Connection[Any]) -> None:
        """What was announced and seems lost is announced again (invariant 12)."""
        self._look_again_at = time.monotonic() + LOOK_AGAIN_EVERY
        for queue in self._windows:
            empty = self._transport.depth(queue) == 0
            again = outbox.announce_again(
                tx, queue, begun=self._crew.begun.get(queue), empty=empty and self._empty_before.get(queue, False)
            )
            self._empty_before[queue] = empty
            if again:
                self._marks[queue].pace.hurry()
                metrics.AGAIN.labels(queue).inc(again)
                log.warning("announced and not begun; announcing again", queue=queue, jobs=again)

    def _rest(self) -> None:
        """Nothing to do: ask to be woken, look once more (something may have come in between), then wait for a while."""
        recent = time.monotonic() - self._claimed_at < WINDOW_SECONDS
        if not self._asleep and not recent:
            with self._database.watchdog.guard(self._connected(), self._database.deadlines.call):
                workers.set_asleep(self._connected(), self._id, asleep=True)
            self._asleep = True
            return
        # Short while work flows: a full window has room again soon, and confirms are outstanding.
        flows = not self._asleep or self._flying or (self._behind and self._transport.ready)
        self._wait(min(SHORT, self._settings.poll) if flows else self._settings.poll)

    def _wait(self, seconds: float) -> None:
        """Until it is woken. A few lone jobs are announced here and now, and claimed later: a claim would get in the way of those that carry them
        out. What wakes another relay is left to that one, and if it is gone, to the next look.
        """
        began = now = time.monotonic()
        until = began + seconds
        while now < until:
            for relay, job in self._notices(until - now):
                if job and relay == self._id and self._announce(job):
                    until = min(until, time.monotonic() + WINDOW_SECONDS)
                elif relay in {None, self._id}:
                    until = began
            now = time.monotonic()
        if now - began > CALM:
            self._busy_passes = 0

    def _notices(self, seconds: float) -> Iterator[tuple[UUID | None, NewJob | None]]:
        """Those that are there, or else the next."""
        assert self._listener is not None
        for notification in self._listener.notifies(timeout=seconds, stop_after=1):
            yield notices.read(notification.payload)

    def _stay_awake(self, *, lone: bool) -> None:
        """A lone job leaves the mark as it is, and the next one wakes it again: meanwhile it keeps out of the way of the one just carried.
        Only a stream of them makes waking superfluous.
        """
        self._busy_passes += 1
        if self._asleep and self._busy_passes > BUSY_PASSES:
            with self._database.watchdog.guard(self._connected(), self._database.deadlines.call):
                workers.set_asleep(self._connected(), self._id, asleep=False)
            self._asleep = False
        elif self._asleep and lone and not self._behind:
            self._wait(self._settings.poll)

    def _connected(self) -> psycopg.Connection[Any]:
        if self._connection is None:
            ride_out("the database", self._connect, (psycopg.OperationalError,), give_up=self._stop.is_set)
        assert self._connection is not None
        return self._connection

    def _connect(self) -> None:
        # A mark that is lost in a crash costs a doubled message, which finds nothing to begin: no need to wait for the disk.
        connection = self._database.connect(durable=False)
        workers.register(connection, self._id, "relay", RELEASE)
        listener = self._database.connect()
        listener.execute("set idle_session_timeout = 0")
        listener.execute(f"listen {notices.CHANNEL}")
        self._connection, self._listener, self._asleep = connection, listener, False

    def _disconnect(self) -> None:
        for connection in (self._connection, self._listener):
            if connection is not None:
                connection.close()
        self._connection = self._listener = None

    def _leave(self) -> None:
        """What is in flight may still be confirmed; what is not is announced again by whoever comes next."""
        try:
            tx = self._connected()
            while self._flying:
                self._land(tx, wait=True)
            workers.stop(tx, self._id)
        except psycopg.Error as error:
            log.warning("the relay leaves without good-bye", error=str(error).strip())
        self._disconnect()


def share(mean_ms: float) -> int:
    """How many jobs of a command one message may name: short ones by tens, one that takes long goes by itself."""
    return max(1, min(MESSAGE_JOBS, int(MESSAGE_MS / max(mean_ms, 0.01))))


def bundle(queue: str, claimed: Sequence[Claimed], shares: Mapping[str, int]) -> list[Message]:
    """Put the jobs of one claim into messages: as many together as their command's share allows and as there are, suspects alone."""
    by_share: dict[int, list[Claimed]] = {}
    for row in claimed:
        by_share.setdefault(1 if row.solo else shares.get(row.command, 1), []).append(row)
    messages: list[Message] = []
    for most, rows in by_share.items():
        size = max(1, min(most, len(rows) // FEW))
        groups = (rows[at : at + size] for at in range(0, len(rows), size))
        messages += [Message(queue, tuple(Announcement(row.job_id, row.attempt, row.traceparent) for row in group)) for group in groups]
    return messages


def forget_announcements(database: Database) -> Callable[[], None]:
    """What to do when the broker remembers nothing: everything announced and not begun is to be announced again."""

    def forget() -> None:
        with database.plumbing() as tx:
            log.warning("announcing everything again", jobs=outbox.unmark_all(tx))

    return forget
