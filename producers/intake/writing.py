"""One writer's connection to the ledger, and the statement that it runs: a set of submissions in, an answer for each out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import psycopg
import structlog

from config import failpoints
from ledger import jobs, unique
from ledger.connection import Database
from ledger.jobs import Submission, Times
from ledger.unique import Outcome

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Accepted:
    """It is committed. `repeated`: under this key it was accepted before. `held`: it is another job, which holds the unique key.
    `times` is None where they have to be looked up.
    """

    job_id: UUID
    repeated: bool = False
    times: Times | None = None
    held: bool = False


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
                answers = [self._answer(connection, wish, outcome) for wish in submissions]
            except psycopg.Error:
                self.close()  # the set is committed: whatever goes wrong from here on is a loss, and no refusal
                raise
        if self._outage:
            log.info("the ledger is back")
        self._outage = False
        return answers

    def _submit(self, connection: psycopg.Connection[Any], submissions: Sequence[Submission]) -> Outcome:
        if any(wish.unique for wish in submissions):
            with connection.transaction():
                return unique.submit(connection, submissions, wake=True)
        return Outcome(jobs.submit(connection, submissions, wake=True))  # in autocommit: the statement is the transaction

    def _answer(self, connection: psycopg.Connection[Any], wish: Submission, outcome: Outcome) -> Answer:
        if wish.id in outcome.new:
            return Accepted(wish.id, times=outcome.new[wish.id])
        if held := outcome.held.get(wish.id):
            return UniqueHeld(held.holder) if held.refused else Accepted(held.holder, held=True)
        return self._settle(connection, wish)

    def _settle(self, connection: psycopg.Connection[Any], wish: Submission) -> Answer:
        """It was not new: either its key was taken, or an earlier try of this very submission has been committed after all."""
        if wish.key is None:
            return Accepted(wish.id)
        found = jobs.find_key(connection, wish.tenant_id, wish.key)
        if found is None:
            raise psycopg.errors.SerializationFailure("the idempotency key's time ran out just now")
        job_id, fingerprint = found
        if job_id == wish.id:
            return Accepted(wish.id)
        return Accepted(job_id, repeated=True) if fingerprint == wish.fingerprint else KeyTaken()
