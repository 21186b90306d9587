"""One writer's connection to the ledger, and the statement that it runs: a set of submissions in, an answer for each out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar
from uuid import UUID

import psycopg
import structlog

from config import failpoints
from ledger import batches, jobs, unique
from ledger.batches import Batch
from ledger.connection import Database
from ledger.jobs import Submission, Times
from ledger.unique import Outcome

log = structlog.get_logger()

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Accepted:
    """It is committed. `repeated`: under this key it was accepted before. `held`: it is another job, which holds the unique key.
    `times` is None where they have to be looked up. `replaced`: the job that was cancelled for it.
    """

    job_id: UUID
    repeated: bool = False
    times: Times | None = None
    held: bool = False
    replaced: UUID | None = None


@dataclass(frozen=True, slots=True)
class KeyTaken:
    """The idempotency key names another wish."""


@dataclass(frozen=True, slots=True)
class UniqueHeld:
    """Another job holds the unique key, and the wish was to be refused then."""

    holder: UUID


Answer = Accepted | KeyTaken | UniqueHeld

SET_PATIENCE = "select set_config('lock_timeout', %s, false)"


class Link:
    """A connection of one's own, outside the pool, opened when it is needed and opened again when it was lost."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._connection: psycopg.Connection[Any] | None = None
        self._outage = False

    @property
    def lost(self) -> bool:
        """Whether the last error took the connection with it, so that a commit may or may not have happened."""
        return self._connection is None or self._connection.broken or self._connection.closed

    def open(self) -> None:
        """Raises psycopg.OperationalError."""
        if self.lost:
            self.close()
            self._connection = self._database.connect()
            self.set_patience(0.25)

    def set_patience(self, seconds: float) -> None:
        """How long a statement waits for a key that somebody else is writing."""
        assert self._connection is not None
        self._connection.execute(SET_PATIENCE, (f"{seconds * 1000:.0f}ms",))

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
        self._connection = None

    def note_outage(self, error: psycopg.Error) -> None:
        """Logged once an outage, not once a try."""
        if not self._outage:
            log.warning("the ledger is away; submissions wait until their deadlines", error=str(error).strip())
        self._outage = True

    def write(self, submissions: Sequence[Submission]) -> list[Answer]:
        """Write the set. Raises psycopg.Error: then `lost` tells whether it may have been written all the same."""
        connection = self._connection
        assert connection is not None
        with self._database.watchdog.guard(connection, self._database.deadlines.call):
            failpoints.reach("intake.before_commit")
            outcome = self._submit(connection, submissions)
            failpoints.reach("intake.after_commit")
            try:
                answers = _answer(connection, submissions, outcome)
            except psycopg.Error:
                self.close()  # the set is committed: whatever goes wrong from here on is a loss, and no refusal
                raise
        self._note_success()
        return answers

    def run(self, write: Callable[[psycopg.Connection[Any]], T], seconds: float) -> T:
        """Write in one transaction, which is committed when `write` returns. Raises psycopg.Error, and what `write` raises: then nothing of
        it is written, unless the connection is `lost`.
        """
        connection = self._connection
        assert connection is not None
        with self._database.watchdog.guard(connection, seconds):
            with connection.transaction():
                written = write(connection)
                failpoints.reach("intake.before_batch_commit")
            failpoints.reach("intake.after_batch_commit")
        self._note_success()
        return written

    def _note_success(self) -> None:
        if self._outage:
            log.info("the ledger is back")
        self._outage = False

    def _submit(self, connection: psycopg.Connection[Any], submissions: Sequence[Submission]) -> Outcome:
        if any(wish.unique for wish in submissions):
            with connection.transaction():
                return unique.submit(connection, submissions, wake=True)
        return Outcome(jobs.submit(connection, submissions, wake=True))  # in autocommit: the statement is the transaction


@dataclass(frozen=True, slots=True)
class Part:
    """Consecutive items of a batch, from item `start` on; None for one that was refused. `ends`: how many items there are, if this is the last part."""

    start: int
    wishes: Sequence[Submission | None]
    digest: bytes
    ends: int | None = None


def write_part(tx: psycopg.Connection[Any], batch: Batch, part: Part) -> tuple[UUID, list[Answer | None]]:
    """Write a set of a batch, or what is missing of it, in an open transaction. Returns the batch's id and an answer for each item.

    Raises batches.BatchReusedError.
    """
    batch = replace(batch, id=batches.open_batch(tx, batch))
    there = batches.lock_set(tx, batch, part.start, len(part.wishes), part.digest)
    missing = [wish for wish, job in zip(part.wishes, there, strict=True) if wish is not None and job is None]
    answers: dict[UUID, Answer] = {}
    if missing:
        special = any(wish.unique for wish in missing)
        outcome = unique.submit(tx, missing, wake=True) if special else Outcome(dict.fromkeys(jobs.submit_set(tx, missing, wake=True)))
        answers = {wish.id: answer for wish, answer in zip(missing, _answer(tx, missing, outcome), strict=True)}
    results = [
        Accepted(job, repeated=wish is None or job != wish.id) if job is not None else None if wish is None else answers[wish.id]
        for wish, job in zip(part.wishes, there, strict=True)
    ]
    if missing:
        batches.fill_set(tx, batch, part.start, [each.job_id if isinstance(each, Accepted) else None for each in results])
    if part.ends is not None:
        batches.end_batch(tx, batch, part.ends)
    return batch.id, results


def _answer(tx: psycopg.Connection[Any], wishes: Sequence[Submission], outcome: Outcome) -> list[Answer]:
    """What became of each. One that is not new has its key taken, or an earlier try of this very submission was committed after all."""
    old = [wish for wish in wishes if wish.id not in outcome.new and wish.id not in outcome.held]
    named = [(wish.tenant_id, wish.key) for wish in old if wish.key is not None]
    found = jobs.find_keys(tx, named) if named else {}

    def answer(wish: Submission) -> Answer:
        if wish.id in outcome.new:
            return Accepted(wish.id, times=outcome.new[wish.id], replaced=outcome.replaced.get(wish.id))
        if held := outcome.held.get(wish.id):
            return UniqueHeld(held.holder) if held.refused else Accepted(held.holder, held=True)
        if wish.key is None:
            return Accepted(wish.id)
        if (wish.tenant_id, wish.key) not in found:
            raise psycopg.errors.SerializationFailure("the idempotency key's time ran out just now")
        job_id, fingerprint = found[wish.tenant_id, wish.key]
        if job_id == wish.id:
            return Accepted(wish.id)
        return Accepted(job_id, repeated=True) if fingerprint == wish.fingerprint else KeyTaken()

    return [answer(wish) for wish in wishes]
