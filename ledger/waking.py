"""After a commit, wake a relay that sleeps: on a connection of its own, at most one wake under way. (The intake's own statement wakes by itself.)"""

from __future__ import annotations

import threading

import psycopg
import structlog

from ledger import workers
from ledger.connection import Database

log = structlog.get_logger()

#: Seconds after a wake for which those that follow become one.
PAUSE = 0.01


class Waker:
    """One thread. A wake that fails costs the relay's poll interval and nothing else."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._wanted = threading.Event()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="waker", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def wake(self) -> None:
        self._wanted.set()

    def close(self) -> None:
        self._closing.set()
        self._wanted.set()
        if self._thread.ident is not None:
            self._thread.join(5)

    def _run(self) -> None:
        failing = False
        connection: psycopg.Connection | None = None
        while self._wanted.wait() and not self._closing.is_set():
            self._wanted.clear()
            try:
                if connection is None:
                    connection = self._database.connect(durable=False)  # a NOTIFY would wait for the disk
                with self._database.watchdog.guard(connection, self._database.deadlines.call):
                    workers.wake(connection)
                failing = False
                self._closing.wait(PAUSE)
            except psycopg.Error as error:
                if not failing:
                    log.warning("the relay cannot be woken; it will look by itself", error=str(error).strip())
                failing = True
                if connection is not None:
                    connection.close()
                connection = None
                self._closing.wait(0.5)
        if connection is not None:
            connection.close()
