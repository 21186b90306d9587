"""Connections to the ledger, each with deadlines on both sides, so that a dead network or a frozen client holds nobody up.

Server side: lock_timeout, statement_timeout, idle_in_transaction_session_timeout (below the lease). Client side: TCP keepalives and
a watchdog that shuts the socket of a call that outlives its deadline (a blackholed connection never times out by itself behind a proxy).
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, LiteralString, TypeVar, cast

import orjson
import psycopg
from psycopg.pq import TransactionStatus
from psycopg.rows import class_row, tuple_row
from psycopg.types.json import set_json_loads
from psycopg.types.string import TextLoader
from sqlalchemy import URL, Engine, create_engine, event, make_url
from sqlalchemy import Connection as SqlalchemyConnection
from sqlalchemy.exc import DBAPIError

from ledger import libpq
from ledger.lent import LentConnection, lend
from ledger.roles import Role

set_json_loads(orjson.loads)
T = TypeVar("T")


#: For the connections that begin, settle, claim and rescue. Their prepared statements keep the plan that was right when the tables were tiny,
#: which reads them whole; each of these statements is right by index at any size.
BY_INDEX = "".join(f" -c {name}=off" for name in ("enable_seqscan", "enable_bitmapscan", "enable_hashjoin", "enable_mergejoin", "jit"))
#: For what is done on behalf of keys and of those who wait: the same, but events are found by bitmaps, and all has one plan for any values:
#: to plan a look-up anew takes longer than to look, since there is a partition of the archive for each day.
BY_KEY = (
    "".join(f" -c {name}=off" for name in ("enable_seqscan", "enable_hashjoin", "enable_mergejoin", "jit"))
    + " -c plan_cache_mode=force_generic_plan"
)
#: psycopg's `prepare_threshold` of our own connections.
PREPARE_AT_ONCE = 0
FREELY = b"set local enable_seqscan = on; set local enable_hashjoin = on; set local enable_mergejoin = on"
ANEW = b"set local plan_cache_mode = force_custom_plan"


@dataclass(frozen=True, slots=True)
class Deadlines:
    """Seconds. `call` bounds a whole use of a connection, seen from the client; the others are the server's own."""

    connect: float = 5
    call: float = 10
    statement: float = 8
    lock: float = 3
    idle_in_transaction: float = 6


def sqlalchemy_url(url: str) -> URL:
    """A libpq URL (`postgresql://…`) as SQLAlchemy names it, with psycopg 3 as the driver. Raises ValueError for any other."""
    parsed = make_url(url)
    if parsed.get_backend_name() not in {"postgresql", "postgres"}:
        raise ValueError(f"the database URL must begin with postgresql://, got {parsed.drivername}://")
    return parsed.set(drivername="postgresql+psycopg")


class Database:
    """The ledger's connections of one process: `plumbing()` for our own statements, `transaction()` for what is done on behalf of a key,
    `handlers` for what handlers write.

    `role` is what the plumbing assumes; without one it works as the account that logs in (an owner who migrates, a test that inspects).
    `by_index`: the plumbing of this process only has statements that go by index (workers, upkeep; not whoever reads for people).
    """

    def __init__(
        self,
        url: str,
        role: Role | None = None,
        *,
        size: int = 4,
        deadlines: Deadlines | None = None,
        name: str = "haulier",
        durable: bool = True,
        by_index: bool = False,
    ) -> None:
        self.url = url
        self.role = role
        self.deadlines = deadlines or Deadlines()
        self.watchdog = Watchdog()
        self._name = name
        self._durable = durable
        self._size = size
        self._engine = self._create(role, "AUTOCOMMIT", self.deadlines.statement, BY_INDEX if by_index else "")
        self._bound: dict[Role, Engine] = {}
        self._handlers: Engine | None = None
        self._lock = threading.Lock()

    @property
    def handlers(self) -> Engine:
        """An engine of its own for handlers: their transactions may take longer than ours, up to the attempt's own timeout. Each thread keeps one of
        its connections, so there are as many as threads.
        """
        with self._lock:
            if self._handlers is None:
                self._handlers = self._create(Role.HANDLER if self.role else None, "READ COMMITTED", 0, bounded=False)
                event.listen(self._handlers, "do_connect", lend)
            return self._handlers

    @contextlib.contextmanager
    def plumbing(self, deadline: float | None = None) -> Iterator[psycopg.Connection[Any]]:
        """A driver connection in autocommit. Raises psycopg.OperationalError when the whole use takes longer than the deadline."""
        with self._pooled(self._engine, deadline) as connection:
            yield connection

    @contextlib.contextmanager
    def transaction(self, role: Role, tenant_id: int | None, deadline: float | None = None) -> Iterator[psycopg.Connection[Any]]:
        """A transaction as `role`, bound to a tenant if one is given: committed at the block's end, rolled back when the block raises.

        What a tenant's connection keeps ends with its transaction. Raises RuntimeError when the block has hidden an error of a statement.
        """
        with self._lock:
            engine = self._bound.get(role) or self._bound.setdefault(
                role, self._create(role, "AUTOCOMMIT", self.deadlines.statement, BY_KEY)
            )
        with self._pooled(engine, deadline) as connection:
            send(connection, opening(tenant_id))
            try:
                yield connection
                if connection.info.transaction_status is TransactionStatus.INERROR:
                    raise RuntimeError("a statement failed and its error was hidden; the transaction cannot be committed")
            except BaseException:
                with contextlib.suppress(psycopg.Error):  # broken, and the transaction with it
                    send(connection, b"rollback")
                raise
            send(connection, b"commit")

    @contextlib.contextmanager
    def _pooled(self, engine: Engine, deadline: float | None) -> Iterator[psycopg.Connection[Any]]:
        try:
            proxied = engine.raw_connection()
        except DBAPIError as error:  # SQLAlchemy asked a new engine's first connection for the server's version, and it was lost
            raise error.orig or error from error
        connection = cast("psycopg.Connection[Any]", proxied.driver_connection)
        try:
            with self.watchdog.guard(connection, deadline or self.deadlines.call):
                yield connection
        except (psycopg.OperationalError, psycopg.errors.FeatureNotSupported) as error:
            # The second: a migration has changed what a prepared statement returns.
            if connection.closed or connection.broken or not isinstance(error, psycopg.OperationalError):
                proxied.invalidate()
            raise
        finally:
            proxied.close()

    def connect(self, *, durable: bool | None = None) -> psycopg.Connection[Any]:
        """A connection of one's own, outside the pool (the relay's, a listener's, a worker thread's), in autocommit."""
        arguments = self._arguments(self.role, self.deadlines.statement)
        arguments["options"] += BY_INDEX
        if not (self._durable if durable is None else durable):
            arguments["options"] += " -c synchronous_commit=off"
        connection: psycopg.Connection[Any] = psycopg.connect(self.url, autocommit=True, **arguments)
        _prepare(connection)
        return connection

    def close(self) -> None:
        for engine in (self._engine, self._handlers, *self._bound.values()):
            if engine is not None:
                engine.dispose()
        self.watchdog.close()

    def _create(self, role: Role | None, isolation: str, statement: float, options: str = "", *, bounded: bool = True) -> Engine:
        arguments = self._arguments(role, statement)
        arguments["options"] += options
        engine = create_engine(
            sqlalchemy_url(self.url),
            isolation_level=cast("Any", isolation),
            connect_args=arguments,
            pool_size=self._size,
            max_overflow=self._size if bounded else -1,
            pool_timeout=self.deadlines.call,
            pool_use_lifo=True,
        )
        event.listen(engine, "connect", _prepare)
        return engine

    def _arguments(self, role: Role | None, statement: float) -> dict[str, Any]:
        limits = {
            "statement_timeout": statement,
            "lock_timeout": self.deadlines.lock,
            "idle_in_transaction_session_timeout": self.deadlines.idle_in_transaction,
        }
        return {
            "application_name": self._name,
            "connect_timeout": max(2, int(self.deadlines.connect)),
            "keepalives_idle": 5,
            "keepalives_interval": 2,
            "keepalives_count": 3,
            "tcp_user_timeout": int(self.deadlines.call * 1000),
            # The role from the first moment on, for the life of the connection: never SET ROLE for each use of one (CVE-2024-10976).
            "options": " ".join(f"-c {name}={int(seconds * 1000)}" for name, seconds in limits.items())
            + " -c search_path=public"
            + (f" -c role={role}" if role else ""),
            "prepare_threshold": PREPARE_AT_ONCE,
        }


def _prepare(connection: Any, _record: Any = None) -> None:
    connection.prepare_threshold = PREPARE_AT_ONCE


class JsonText(TextLoader):
    """Loads a jsonb column as its text, for those who parse it with a schema of their own."""


class Watchdog:
    """One thread that shuts the socket of every guarded connection that outlives its deadline; the blocked call then raises."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._guarded: dict[int, tuple[float, psycopg.Connection[Any]]] = {}
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None

    @contextlib.contextmanager
    def guard(self, connection: psycopg.Connection[Any], seconds: float) -> Iterator[None]:
        key = id(connection)
        with self._lock:
            self._guarded[key] = (time.monotonic() + seconds, connection)
            if self._thread is None:
                self._thread = threading.Thread(target=self._watch, name="database-watchdog", daemon=True)
                self._thread.start()
        try:
            yield
        finally:
            with self._lock:
                self._guarded.pop(key, None)

    def close(self) -> None:
        self._closing.set()

    def _watch(self) -> None:
        while not self._closing.wait(0.25):
            now = time.monotonic()
            with self._lock:
                late = [connection for until, connection in self._guarded.values() if until < now]
                for connection in late:
                    shut(connection)


def driver_of(connection: SqlalchemyConnection) -> psycopg.Connection[Any]:
    """The driver's connection under one of SQLAlchemy's."""
    return cast("psycopg.Connection[Any]", connection.connection.driver_connection)


def opening(tenant_id: int | None) -> bytes:
    """What begins a transaction, bound to a tenant if one is given: for as long as it lasts, and never longer (`set local`)."""
    begin = b"begin isolation level read committed"
    return begin if tenant_id is None else b"%s; set local haulier.tenant = '%d'" % (begin, tenant_id)


@contextlib.contextmanager
def planned_anew(tx: psycopg.Connection[Any]) -> Iterator[None]:
    """What this transaction asks in here is planned for its values, by index as before."""
    send(tx, ANEW)
    yield
    send(tx, b"set local plan_cache_mode = default")


def fetch_list(tx: psycopg.Connection[Any], row: type[T], statement: LiteralString, parameters: Mapping[str, Any]) -> list[T]:
    """A page of what a filter lets through. Planned for this filter and the tables as they are, for some milliseconds: one plan for all of
    them would read ten thousand rows for a filter that it was not made for.
    """
    send(tx, FREELY + b"; " + ANEW)
    with tx.cursor(row_factory=class_row(row)) as cursor:
        return cursor.execute(statement, parameters, prepare=False).fetchall()


def is_open(connection: psycopg.Connection[Any]) -> bool:
    return connection.pgconn.transaction_status != TransactionStatus.IDLE


def send(connection: psycopg.Connection[Any], commands: bytes) -> None:
    """Run commands that have neither parameters nor rows, all in one round trip. Raises psycopg's errors.

    It costs a third of the driver's own way, which is made for more: a difference that every job pays.
    """
    if isinstance(connection, LentConnection):
        connection.send(commands)
    else:
        libpq.call(connection, commands)


def ask(connection: psycopg.Connection[Any], statement: LiteralString, *values: object) -> list[tuple[Any, ...]]:
    """Run a statement with `$1` and so on for its values, and return its rows. Raises psycopg's errors.

    On our own connections, where the statement is the transaction, it costs a third of a cursor's way. Within one it is the driver's to do, which
    throws away what is prepared after a rollback; and on a caller's connection, which may be in a pipeline, behind a pool that knows no prepared
    statements, or about to begin its transaction.
    """
    if isinstance(connection, LentConnection):
        return connection.ask(statement, *values).rows
    idle = connection.pgconn.transaction_status == TransactionStatus.IDLE and not connection.pgconn.pipeline_status
    if idle and connection.autocommit and connection.prepare_threshold == PREPARE_AT_ONCE:
        return libpq.ask(connection, statement, values)
    return psycopg.RawCursor(connection, row_factory=tuple_row).execute(statement, values).fetchall()


def shut(connection: psycopg.Connection[Any]) -> None:
    """Shut a connection's socket from another thread: whoever waits on it gets an OperationalError at once."""
    with contextlib.suppress(OSError, psycopg.Error), socket.socket(fileno=os.dup(connection.fileno())) as handle:
        handle.shutdown(socket.SHUT_RDWR)
