"""The connections of worker threads: two for each."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

import psycopg
from psycopg import OperationalError
from sqlalchemy import Connection
from sqlalchemy.exc import SQLAlchemyError

from config.outage import ride_out
from ledger.connection import Database, driver_of, is_open, send

T = TypeVar("T")

#: Seconds for which a transaction that was opened for the next job may idle: the server may end it some seconds later.
STALE = 1.0


class ThreadConnections:
    """A worker thread's two connections, kept open between jobs: the plumbing's in autocommit, and the handlers'."""

    def __init__(self, database: Database, slot: int) -> None:
        self.slot = slot
        self._database = database
        self._plumbing: psycopg.Connection[Any] | None = None
        self._handlers: Connection | None = None
        self._open_for: int | None = None
        self._opened_at = 0.0

    def note_opened(self, tenant_id: int | None) -> None:
        """A completion has opened the transaction of the next job, which is this tenant's; or there is none next."""
        self._open_for, self._opened_at = tenant_id, time.monotonic()

    def plumbing(self) -> psycopg.Connection[Any]:
        if self._plumbing is None or self._plumbing.closed:
            self._plumbing = self._database.connect()
        return self._plumbing

    def handlers(self, tenant_id: int, *, fresh: bool = False) -> Connection:
        """`fresh`: without a transaction that the job before has opened. One for another tenant, or that has idled, is ended in any case."""
        if fresh or self._open_for != tenant_id or time.monotonic() - self._opened_at > STALE:
            self.end_transaction()
        if self._handlers is not None and (self._handlers.invalidated or self._handlers.closed or driver_of(self._handlers).closed):
            self._drop_handlers()
        if self._handlers is None:
            self._handlers = self._database.handlers.connect()
        return self._handlers

    def end_transaction(self) -> None:
        """A completion has opened the next job's transaction, which did not want it; and SQLAlchemy knows of no completion's commit."""
        self._open_for = None
        if self._handlers is None or not self._handlers.in_transaction():
            return
        try:
            driver = driver_of(self._handlers)
            if is_open(driver):
                with self._database.watchdog.guard(driver, self._database.deadlines.call):
                    send(driver, b"rollback")
            self._handlers.rollback()
        except (psycopg.Error, SQLAlchemyError):  # gone, and the transaction with it: nothing was in it
            self._drop_handlers()

    def reset(self) -> None:
        if self._plumbing is not None:
            self._plumbing.close()
            self._plumbing = None
        self._drop_handlers()

    def _drop_handlers(self) -> None:
        if self._handlers is not None:
            self._handlers.invalidate()
            self._handlers.close()
            self._handlers = self._open_for = None


class Connections:
    """One process's: every thread has its own, and the slot that goes with them."""

    def __init__(self, database: Database, threads: int) -> None:
        self._database = database
        self._free_slots = list(range(threads))
        self._local = threading.local()

    def own(self) -> ThreadConnections:
        """The calling thread's."""
        own: ThreadConnections | None = getattr(self._local, "own", None)
        if own is None:
            own = self._local.own = ThreadConnections(self._database, self._free_slots.pop())
        return own

    def close(self) -> None:
        """The calling thread's, if it has any."""
        if getattr(self._local, "own", None) is not None:
            self.own().reset()

    def plainly(self, call: Callable[[psycopg.Connection[Any]], T]) -> T:
        """One use of the thread's plumbing connection; one that broke is replaced before the next."""
        own = self.own()
        connection = own.plumbing()
        try:
            with self._database.watchdog.guard(connection, self._database.deadlines.call):
                return call(connection)
        except psycopg.Error:  # after a migration, too, which may have changed what a prepared statement returns
            own.reset()
            raise

    def riding_out(self, call: Callable[[psycopg.Connection[Any]], T]) -> T:
        """For the end of an attempt: it is written as soon as the database is back (and the fence says whether it still counts)."""
        return ride_out("the database", lambda: self.plainly(call), (OperationalError,))
