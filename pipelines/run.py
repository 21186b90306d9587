"""What a handler is given beside its command: the attempt that it runs in. The worker provides it (`workers.run`)."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from datetime import datetime
from typing import Any, LiteralString, Protocol
from uuid import UUID

from sqlalchemy import Connection
from sqlalchemy.orm import Session

from pipelines.command import Command


class Refused(Exception):
    """Raise this (or a subclass) inside a `run.once` call when the other side surely did nothing, and said so.

    Only after such a recorded refusal may a replay call it again under a new key.
    """


class Answer(Protocol):
    """What a statement gave. `rowcount`: how many rows there are, or were changed."""

    @property
    def rows(self) -> list[tuple[Any, ...]]: ...

    @property
    def rowcount(self) -> int: ...


class Run(Protocol):
    """One attempt at one job."""

    @property
    def job_id(self) -> UUID: ...

    @property
    def root_id(self) -> UUID: ...

    @property
    def tenant(self) -> str: ...

    @property
    def attempt(self) -> int: ...

    @property
    def deadline(self) -> datetime: ...

    @property
    def cancelled(self) -> bool:
        """Whether somebody asked for this job to be cancelled (seen within two seconds)."""
        ...

    def transaction(self) -> AbstractContextManager[Connection]:
        """The attempt's one transaction: it commits together with the job's completion, or not at all.

        No `once` call while it is open (`RuntimeError`): an external call must not hold database locks.
        """
        ...

    def execute(self, statement: LiteralString, *values: Any) -> Answer:
        """One statement of the same transaction, with Postgres' own placeholders (`$1`), prepared once: for small jobs that run by the thousand.
        It costs the client a quarter of what it costs through SQLAlchemy. Raises psycopg's errors.
        """
        ...

    def defer(self, statement: LiteralString, *values: Any) -> None:
        """The same for a statement whose answer nobody needs: it goes with the next one, or with the job's completion, in the same round trip.
        That is also where its error is raised.
        """
        ...

    def read(self) -> AbstractContextManager[Connection]:
        """A short look at the database before a `once` call; it ends, and lets go of everything, with the block.

        Not while `transaction` is open (`RuntimeError`): that one reads as well.
        """
        ...

    def session(self) -> AbstractContextManager[Session]:
        """The same transaction through the ORM; costs the client about five times as much CPU a statement."""
        ...

    def submit(self, command: Command, *, priority: int | None = None, delay: float = 0) -> UUID:
        """Submit a follow-up, in the attempt's transaction. It joins this job's family."""
        ...

    def once(self, step: str, call: Callable[[str], Any], *, honours_key: bool = True) -> Any:
        """Call something outside at most once for each (job, step), as far as the other side allows. Returns the call's
        JSON-able result, or the recorded one when an earlier attempt has it already.

        `call` is given a stable idempotency key. `honours_key=False` names a service that takes no key: an outcome that
        stayed unknown then ends the job `dead` with reason `needs_review` instead of a blind second call.
        """
        ...

    def progress(self, done: int, total: int, message: str = "") -> None:
        """Shown to clients; written at most twice a second."""
        ...

    def checkpoint(self, value: Any) -> None:
        """Keep a JSON-able value for the next attempt of a long job, at once."""
        ...

    @property
    def restored(self) -> Any:
        """What the last attempt kept by `checkpoint`, or None."""
        ...

    def log(self, message: str, **facts: Any) -> None:
        """A line for the attempt's record (its first 100 are kept) and for the worker's log. Of an attempt that runs for longer than two seconds
        they are shown while it runs, and kept if its process dies.
        """
        ...

    def snooze(self, seconds: float) -> None:
        """Leave the handler now and run again in `seconds`; no failure."""
        ...
