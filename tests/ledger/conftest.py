"""A small ledger for each test: one tenant, two commands (the second follows a rejected or dead first), one worker."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any
from uuid import UUID

import psycopg
import pytest

from config.ids import uuid7
from ledger import attempts, jobs, keys, workers
from ledger.attempts import Begun, Lease
from ledger.connection import Database

TIMEOUTS = {"test.run": 30.0, "test.after": 30.0}


@dataclass
class Books:
    """What a test of the ledger needs at hand."""

    database: Database
    tx: psycopg.Connection[Any]
    tenant: int
    worker: UUID

    def submit(self, count: int = 1, **facts: Any) -> list[UUID]:
        ids = [uuid7() for _ in range(count)]
        wishes = [replace(self.wish(id_), **facts) for id_ in ids]
        assert set(jobs.submit(self.tx, wishes)) == set(ids)
        return ids

    def wish(self, job_id: UUID | None = None) -> jobs.Submission:
        return jobs.Submission(job_id or uuid7(), self.tenant, "test.run", "test", b'{"n": 1}', max_failures=3)

    def begin(self, *ids: UUID, attempt: int = 1, worker: UUID | None = None) -> list[Begun]:
        begun, _ = attempts.begin(self.tx, worker or self.worker, [(id_, attempt) for id_ in ids], TIMEOUTS)
        return begun

    def running(self) -> Lease:
        """A job that has just begun."""
        [job] = self.begin(*self.submit())
        return Lease(job.job_id, job.attempt, self.worker)

    def state(self, job_id: UUID) -> str:
        return self.value("select state::text from haulier.every_job where id = %s", job_id)

    def kinds(self, job_id: UUID) -> list[str]:
        return [row[0] for row in self.tx.execute("select kind from haulier.every_event where job_id = %s order by seq", (job_id,))]

    def count(self, table: str) -> int:
        return self.value(f"select count(*) from haulier.{table}")  # pyright: ignore[reportArgumentType]

    def value(self, statement: Any, *parameters: Any) -> Any:
        row = self.tx.execute(statement, parameters).fetchone()
        assert row is not None
        return row[0]


@pytest.fixture
def books(database_url: str) -> Iterator[Books]:
    database = Database(database_url)
    with database.plumbing(deadline=60) as tx:
        tenant = keys.add_tenant(tx, "acme", "Acme")
        assert tenant is not None
        common = {"queue": "test", "max_failures": 3, "fields": ["n"]}
        workers.remember_commands(
            tx,
            [
                {"name": "test.run", **common, "on_rejected": "test.after", "on_dead": "test.after"},
                {"name": "test.after", **common, "on_rejected": None, "on_dead": None},
            ],
        )
        worker = uuid7()
        workers.register(tx, worker, "worker", "1", ["test"], list(TIMEOUTS))
        yield Books(database, tx, tenant.id, worker)
    database.close()
