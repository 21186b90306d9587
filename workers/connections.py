"""The connections of one worker thread."""

from __future__ import annotations

import time
from typing import Any

import psycopg
from sqlalchemy import Connection
from sqlalchemy.exc import SQLAlchemyError

from ledger.connection import Database, driver_of, is_open, send

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
