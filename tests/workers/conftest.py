"""An executor on a real ledger, its deliveries handed to it by the test: everything of a worker but the broker."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import pytest

from config.ids import uuid7
from config.transport.message import Announcement, Message
from ledger import jobs, keys, orphans, outbox, reading, workers
from ledger.connection import Database
from ledger.roles import Role
from pipelines.command import Command, Handler
from pipelines.load import describe
from workers.executor import Executor
from workers.running import Running
from workers.slots import Slots


@dataclass
class ByHand:
    """A delivery made by the test."""

    message: Message
    acknowledged: int = 0
    returned: int = 0

    def acknowledge(self) -> None:
        self.acknowledged += 1

    def return_(self) -> None:
        self.returned += 1


@dataclass
class Shop:
    """One worker's insides, and the ledger under it."""

    database: Database
    tenant: int
    worker: UUID
    running: Running
    executor: Executor
    handlers: Mapping[str, Handler]
    slots: Slots
    stopping: list[bool] = field(default_factory=list)

    def submit(self, *commands: Command, **facts: Any) -> list[UUID]:
        wishes = [
            jobs.Submission(
                uuid7(), self.tenant, command.command_name, "test", command.model_dump_json().encode(),
                self.handlers[command.command_name].retry.max_failures, **facts,
            )
            for command in commands
        ]  # fmt: skip
        with self.database.plumbing() as tx:
            jobs.submit(tx, wishes)
        return [wish.id for wish in wishes]

    def deliver(self, *ids: UUID, attempt: int = 1) -> ByHand:
        delivery = ByHand(Message("test", tuple(Announcement(id_, attempt, None) for id_ in ids)))
        self.executor.execute(delivery)  # pyright: ignore[reportArgumentType]
        return delivery

    def run(self, command: Command, **facts: Any) -> reading.Job:
        """Submit one and run its first attempt."""
        [job_id] = self.submit(command, **facts)
        self.deliver(job_id)
        return self.job(job_id)

    def due_now(self) -> None:
        """Let what waits for its time be due."""
        with self.database.plumbing() as tx:
            tx.execute("update haulier.outbox set due_at = now()")
            outbox.stage(tx, 100)

    def job(self, job_id: UUID) -> reading.Job:
        with self.database.plumbing() as tx:
            job = reading.job(tx, job_id, None)
        assert job is not None
        return job

    def attempts(self, job_id: UUID) -> list[reading.Attempt]:
        with self.database.plumbing() as tx:
            return reading.attempts(tx, job_id)

    def orphans(self) -> list[orphans.Orphan]:
        with self.database.plumbing() as tx:
            return orphans.newest(tx, None, 10)

    def value(self, statement: Any, *parameters: Any) -> Any:
        with self.database.plumbing() as tx:
            row = tx.execute(statement, parameters).fetchone()
        assert row is not None
        return row[0]


@pytest.fixture
def shop(database_url: str) -> Iterator[Callable[..., Shop]]:
    """Make a worker of these handlers."""
    opened: list[tuple[Database, Database, Executor, Slots]] = []

    def open_shop(*handlers: Handler) -> Shop:
        table = {handler.name: handler for handler in handlers}
        database, own = Database(database_url), Database(database_url, Role.WORKER)
        worker, running, slots = uuid7(), Running(), Slots.create(1)
        stopping: list[bool] = []
        executor = Executor(worker, own, table, running, slots, lambda: bool(stopping))
        with database.plumbing() as tx:
            tenant = keys.add_tenant(tx, "acme", "Acme")
            assert tenant is not None
            workers.remember_commands(tx, describe(table))
            workers.register(tx, worker, "worker", "1", ["test"], list(table))
            tx.execute("create table effects (job_id uuid not null, what text)")
            tx.execute("grant select, insert, update, delete on effects to haulier_handler")
        opened.append((database, own, executor, slots))
        return Shop(database, tenant.id, worker, running, executor, table, slots, stopping)

    yield open_shop
    for database, own, executor, slots in opened:
        executor.close()
        slots.close()
        database.close()
        own.close()
