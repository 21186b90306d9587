"""One attempt as its handler sees it: the `Run` of `pipelines.run`, on the ledger."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, LiteralString, cast
from uuid import UUID

import orjson
import psycopg
import structlog
from psycopg.pq import TransactionStatus
from sqlalchemy import Connection
from sqlalchemy.orm import Session

from config.changes import Teller
from config.failpoints import reach
from config.ids import uuid7
from ledger import attempts, calls, jobs
from ledger.attempts import Begun, Lease
from ledger.connection import driver_of, is_open, opening, send
from ledger.lent import Answer, LentConnection
from pipelines.command import Command, Handler, Snoozed
from pipelines.run import Refused
from workers.outcome import NeedsReviewError, storable

if TYPE_CHECKING:
    from collections.abc import Mapping

log = structlog.get_logger()

#: Log lines kept of an attempt, and characters of one.
KEPT_LINES = 100
KEPT_CHARACTERS = 1_000
#: Bytes of all of them with their facts.
KEPT_BYTES = 64 << 10
#: Seconds between two writes of progress.
PROGRESS_EVERY = 0.5
#: The same of log lines, and for how long an attempt runs before the first.
LINES_EVERY = 2.0


class AttemptRun:
    """See `pipelines.run.Run`. `plumbing` is the thread's own connection in autocommit, `connect` its connection for handlers:
    with True, one that has no transaction open; else it may have one that is bound to this job's tenant.
    """

    def __init__(
        self,
        begun: Begun,
        lease: Lease,
        tenant: str,
        timeout: float,
        plumbing: psycopg.Connection[Any],
        connect: Callable[[bool], Connection],
        handlers: Mapping[str, Handler],
        changes: Teller,
    ) -> None:
        self._begun = begun
        self.lease = lease
        self.tenant = tenant
        self._until = time.time() + timeout
        self.driver: LentConnection | None = None
        self._ended = 0
        self.cancelled = False
        self.open: Connection | None = None
        self._session: Session | None = None
        self._plumbing = plumbing
        self._connect = connect
        self._handlers = handlers
        self._changes = changes
        self._lines: list[bytes] = []
        self._kept_bytes = 0
        self._dropped = 0
        self._shown_at = 0.0
        self._lines_shown_at = time.monotonic()
        self._submitted: list[jobs.Submission] = []

    @property
    def job_id(self) -> UUID:
        return self._begun.job_id

    @property
    def command(self) -> str:
        return self._begun.command

    @property
    def deadline(self) -> datetime:
        return datetime.fromtimestamp(self._until, UTC)

    @property
    def root_id(self) -> UUID:
        return self._begun.root_id

    @property
    def attempt(self) -> int:
        return self._begun.attempt

    def transaction(self) -> contextlib.AbstractContextManager[Connection]:
        if self.open is None:
            self.open = self._connect(False)
            self.driver = cast("LentConnection", driver_of(self.open))
            self._ended = self.driver.ended
            if not self.open.in_transaction():
                self.open.begin()
                self.driver.send_with_next(opening(self._begun.tenant_id))
        return contextlib.nullcontext(self.open)  # it ends with the attempt

    def execute(self, statement: LiteralString, *values: Any) -> Answer:
        return self._own().ask(statement, *values)

    def defer(self, statement: LiteralString, *values: Any) -> None:
        self._own().defer(statement, *values)

    def _own(self) -> LentConnection:
        if self.driver is None:
            self.transaction()
        assert self.driver is not None
        return self.driver

    def join(self, first: AttemptRun) -> None:
        """Have a part in the transaction that another job's run has open."""
        self.open, self.driver, self._ended = first.open, first.driver, first._ended

    def check_still_open(self) -> None:
        """What a handler has ended by itself is not what its job completes: it must not go unnoticed. Raises RuntimeError."""
        if self.driver is None:
            return
        if self.driver.ended != self._ended or not self.driver.is_open:
            raise RuntimeError("the handler has ended run.transaction() by itself, or tried to; it ends with the job")
        if self.driver.pgconn.transaction_status == TransactionStatus.INERROR:
            raise RuntimeError("a statement failed and its error was hidden; the transaction cannot be committed")

    @contextlib.contextmanager
    def read(self) -> Iterator[Connection]:
        if self.open is not None:
            raise RuntimeError("run.read() inside an open transaction; read through the transaction itself")
        connection = self._connect(True)
        connection.begin()
        send(driver_of(connection), opening(self._begun.tenant_id))
        try:
            yield connection
        finally:
            connection.rollback()

    @contextlib.contextmanager
    def session(self) -> Iterator[Session]:
        with self.transaction() as connection:
            if self._session is None:
                self._session = Session(bind=connection)
            yield self._session
            if connection.in_nested_transaction() and not self._session.in_nested_transaction():
                self._session.commit()  # of its own savepoint, which it has made within the handler's and must not outlive that one
            else:
                self._session.flush()

    def submit(self, command: Command, *, priority: int | None = None, delay: float = 0) -> UUID:
        handler = self._handlers.get(command.command_name)
        if handler is None:
            raise LookupError(f"{command.command_name} is in no table of handlers; nothing was submitted")
        wish = jobs.Submission(
            id=uuid7(),
            tenant_id=self._begun.tenant_id,
            command=handler.name,
            queue=handler.queue,
            payload=command.model_dump_json(exclude_unset=True).encode(),
            max_failures=handler.retry.max_failures,
            priority=self._begun.priority if priority is None else priority,
            delay=delay,
            parent_id=self._begun.job_id,
            root_id=self._begun.root_id,
            traceparent=self._begun.traceparent,
        )
        self._submitted.append(wish)
        return wish.id

    def take_submitted(self) -> list[jobs.Submission]:
        """The follow-ups, to be written with the completion."""
        submitted, self._submitted = self._submitted, []
        return submitted

    def once(self, step: str, call: Callable[[str], Any], *, honours_key: bool = True) -> Any:
        if self.open is not None:
            raise RuntimeError(f"run.once({step!r}) inside an open transaction would hold its locks during the call; call it before")
        generation = self._begun.generation
        earlier = calls.find(self._plumbing, self.job_id, step, generation)
        if earlier is not None and earlier.state == "done":
            return earlier.result
        if earlier is not None and earlier.state == "intended" and not honours_key:
            raise NeedsReviewError(f"attempt {earlier.attempt} called {step!r} and its outcome is unknown; the service takes no key")
        calls.intend(self._plumbing, self.lease, step, generation, honours_key=honours_key)
        reach("worker.before_call")
        try:
            result = call(f"{self.job_id}:{step}:{generation}")
        except Refused:
            calls.record(self._plumbing, self.job_id, step, generation, "refused", None)
            raise
        reach("worker.after_call")
        calls.record(self._plumbing, self.job_id, step, generation, "done", orjson.dumps(result).decode())
        return result

    def progress(self, done: int, total: int, message: str = "") -> None:
        now = time.monotonic()
        if done < total and now - self._shown_at < PROGRESS_EVERY:
            return
        self._shown_at = now
        value = orjson.dumps({"done": done, "total": total, "message": message[:KEPT_CHARACTERS]}).decode()
        attempts.keep_progress(self._plumbing, self.lease, value)
        self._changes.tell(self.job_id, self.root_id, self._begun.tenant_id)

    def checkpoint(self, value: Any) -> None:
        attempts.keep_checkpoint(self._plumbing, self.lease, orjson.dumps(value).decode())

    @property
    def restored(self) -> Any:
        return attempts.restored(self._plumbing, self.job_id) if self._begun.attempt > 1 else None

    def log(self, message: str, **facts: Any) -> None:
        log.info(message[:KEPT_CHARACTERS], job=str(self.job_id), attempt=self.attempt, **facts)
        if len(self._lines) >= KEPT_LINES or self._kept_bytes >= KEPT_BYTES:
            self._dropped += 1
            return
        line = {"at": datetime.now(UTC), "message": storable(message[:KEPT_CHARACTERS]), **facts}
        try:
            text = orjson.dumps(line, default=repr)
        except orjson.JSONEncodeError:
            text = orjson.dumps(line | {name: storable(repr(value)) for name, value in facts.items()})
        if self._kept_bytes + len(text) > KEPT_BYTES:
            self._kept_bytes = KEPT_BYTES  # nothing later either: a record with holes would mislead
            self._dropped += 1
            return
        self._kept_bytes += len(text)
        self._lines.append(text)
        now = time.monotonic()
        if now - self._lines_shown_at >= LINES_EVERY:
            self._lines_shown_at = now
            attempts.keep_lines(self._plumbing, self.lease, self.lines or "[]")

    @property
    def lines(self) -> str | None:
        """The kept log lines as JSON text, and how many were dropped."""
        lines = list(self._lines)
        if self._dropped:
            dropped = f"{self._dropped} further lines were not kept; an attempt keeps {KEPT_LINES} lines and {KEPT_BYTES} bytes"
            lines.append(orjson.dumps({"at": datetime.now(UTC), "message": dropped}))
        return f"[{b','.join(lines).decode()}]".replace("\\u0000", "\\ufffd") if lines else None

    def snooze(self, seconds: float) -> None:
        raise Snoozed(seconds)

    def close(self) -> None:
        """The transaction has been committed with the attempt's end, and the set's next has been opened: for whoever asks for it."""
        if self._session is not None:
            # Not closed: it would roll back to a savepoint that was left open, which is not there any more.
            self._session.expunge_all()
        self.open = self.driver = None

    def roll_back(self) -> None:
        """Undo what the handler wrote; its follow-ups go with it."""
        self._submitted.clear()
        if self.open is not None:
            self.open.rollback()
            # One that was begun through the driver, behind an end of the handler's own, is unknown to SQLAlchemy.
            if self.driver is not None and not self.open.closed and is_open(self.driver):
                self.driver.rollback()
            self.open = self.driver = None
        if self._session is not None:
            self._session.close()
