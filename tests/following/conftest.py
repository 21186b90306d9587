"""An intake whose Redis is private, and a stand-in for a worker that tells of its commits as workers do."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any
from uuid import UUID

import httpx2
import pytest

from config.changes import Changes, RedisChanges
from console.servers.find import redis_server as find_redis
from console.servers.postgres import PostgresServer
from console.servers.redis import RedisServer
from ledger import attempts
from ledger.attempts import Lease
from ledger.connection import Database
from ledger.migrate import migrate
from ledger.roles import Role
from tests.intake.conftest import DEADLINES, Api, Worker, eventually, make_keys, running_intake
from tests.servers import fresh_database

#: So seldom does an intake look by itself where only hints shall wake it.
NEVER = 600


@dataclass
class Telling:
    """A stand-in for a worker that tells of its commits, as workers do."""

    worker: Worker
    changes: Changes

    def begin(self, job_id: str) -> Lease:
        lease = self.worker.begin(job_id)
        self.tell(job_id)
        return lease

    def complete(self, lease: Lease, result: str = "null") -> None:
        self.worker.complete(lease, result)
        self.tell(str(lease.job_id))

    def progress(self, lease: Lease, done: int) -> None:
        with self.worker.database.plumbing() as tx:
            attempts.keep_progress(tx, lease, f'{{"done": {done}, "total": 9, "message": ""}}')
        self.tell(str(lease.job_id))

    def tell(self, job_id: str) -> None:
        with self.worker.database.plumbing() as tx:
            row = tx.execute("select root_id, tenant_id from haulier.jobs where id = %s", (job_id,)).fetchone()
        assert row
        self.changes.tell(UUID(job_id), *row)


@dataclass
class Place:
    """An intake, its private Redis, and hands to wait with."""

    api: Api
    database: Database
    redis: RedisServer
    work: Telling
    hands: ThreadPoolExecutor

    def later(self, method: str, path: str, **arguments: Any) -> Future[httpx2.Response]:
        """A request that waits; returns once the intake holds it."""
        held = self.held()
        future = self.hands.submit(self.api.call, method, path, **arguments)
        eventually(lambda: future.done() or self.held() > held)
        return future

    def hears(self) -> bool:
        """Whether the intake hears what is told by now."""
        before = self.number("haulier_hint_lag_seconds_count")
        self.work.changes.tell(UUID(int=0), UUID(int=0), 0)
        until = time.monotonic() + 0.2
        while self.number("haulier_hint_lag_seconds_count") == before and time.monotonic() < until:
            pass
        return self.number("haulier_hint_lag_seconds_count") > before

    def rounds(self) -> int:
        assert self.api.server
        return self.api.server._parts.hub._round

    def held(self) -> int:
        assert self.api.server
        return sum(
            waiter._armed_in is not None for waiters in dict(self.api.server._parts.hub._waiters).values() for waiter in list(waiters)
        )

    def number(self, metric: str) -> float:
        text = self.api.call("GET", "/metrics", None).text
        return next(float(line.split()[-1]) for line in text.splitlines() if line.startswith(metric + " "))


@contextmanager
def open_place(url: str, redis: RedisServer, **settings: Any) -> Iterator[Place]:
    database, own = Database(url, size=8, deadlines=DEADLINES), Database(url, Role.INTAKE, size=8, deadlines=DEADLINES)
    changes = RedisChanges(redis.url)
    with running_intake(own, redis_url=redis.url, **settings) as api, ThreadPoolExecutor(320) as hands:
        place = Place(api, database, redis, Telling(Worker(database), changes), hands)
        eventually(place.hears)
        yield place
    changes.close()
    database.close()
    own.close()


@pytest.fixture(scope="session")
def shared_place(postgres_server: PostgresServer) -> Iterator[Place]:
    """Its intake is woken by hints alone, and its Redis is left running."""
    with fresh_database(postgres_server, "template0") as url, find_redis() as redis:
        migrate(url)
        with open_place(url, redis, look_again=NEVER) as place:
            yield place


@pytest.fixture
def place(shared_place: Place) -> Iterator[Place]:
    slug, made = make_keys(shared_place.database)
    own = Api(shared_place.api.url, made, slug, shared_place.api.server)
    yield replace(shared_place, api=own)
    own.client.close()
