"""A ledger with one tenant, one queue and a worker that knows its command; and a relay on it, its transport in the test's hands."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import cast

import pytest

from config.ids import uuid7
from config.settings import Settings
from config.transport import Transport, Unconfirmed
from ledger import jobs, keys, workers
from ledger.connection import Database
from ledger.roles import Role
from producers.relay.relay import Relay


class Wire:
    """A transport that keeps what it is given, and refuses while it is told to."""

    def __init__(self) -> None:
        self.ready = True
        self.problem = None
        self.refuse = ""
        self.sent: list = []

    def publish(self, messages):
        done: Future = Future()
        self.sent += [] if self.refuse else messages
        done.set_result([Unconfirmed(message, self.refuse) for message in messages] if self.refuse else [])
        return done

    def depth(self, _queue):
        return None

    def close(self):
        """Nothing to close."""

    def names(self):
        return [job.job_id for message in self.sent for job in message.jobs]


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    database = Database(database_url)
    with database.plumbing() as tx:
        keys.add_tenant(tx, "acme", "Acme")
        workers.remember_commands(
            tx, [{"name": "test.do", "queue": "test", "max_failures": 3, "fields": [], "on_rejected": None, "on_dead": None}]
        )
        workers.register(tx, uuid7(), "worker", "1", ["test"], ["test.do"])
        workers.measure(tx, {"test.do": 0.1})
    yield database
    database.close()


def submit(database: Database, count: int, **facts) -> list:
    wishes = [wish(**facts) for _ in range(count)]
    with database.plumbing() as tx:
        jobs.submit(tx, wishes)
    return [each.id for each in wishes]


def wish(**facts) -> jobs.Submission:
    return jobs.Submission(uuid7(), 1, "test.do", "test", b"{}", 3, **facts)


@contextmanager
def running(database: Database, wire: Wire, **settings) -> Iterator[Relay]:
    own = Database(database.url, Role.RELAY)
    relay = Relay(Settings(**settings), own, cast("Transport", wire))
    thread = threading.Thread(target=relay.run)
    thread.start()
    try:
        yield relay
    finally:
        relay.stop()
        with database.plumbing() as tx:
            tx.execute("select pg_notify('haulier_relay', '')")
        thread.join(20)
        own.close()


def wait_for(condition, seconds: float = 20.0) -> None:
    pause, until = threading.Event(), time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "waited too long"
        pause.wait(0.005)
