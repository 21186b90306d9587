"""Two tenants on one database, and a way to act as any role."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import psycopg
import pytest
from sqlalchemy import create_engine

from config.ids import uuid7
from console.logins import log_in_as
from ledger import jobs, keys, workers
from ledger.connection import sqlalchemy_url
from ledger.roles import SERVICES, add_account
from pipelines.orders.schema import create_tables

TIMEOUTS = {"test.run": 30.0}


@dataclass
class Two:
    """`tx` is the superuser's: for what is to be found, and for looking. `mine` and `other` are tenants with two jobs each."""

    url: str
    tx: psycopg.Connection[Any]
    mine: int
    other: int
    jobs: dict[int, list[UUID]]
    open: ExitStack

    def log_in(self, service: str) -> str:
        """The URL of this service's account."""
        with self.tx.transaction():
            add_account(self.tx, f"test_{service}", "of no worth", service)
        return log_in_as(self.url, f"test_{service}", "of no worth")

    def account(self, name: str, *roles: str) -> str:
        """The URL of an account of somebody else's, which inherits these roles."""
        with self.tx.transaction():
            self.tx.execute(f"drop role if exists {name}")  # pyright: ignore[reportArgumentType, reportCallIssue]
            self.tx.execute(f"create role {name} login password 'of no worth'")  # pyright: ignore[reportArgumentType, reportCallIssue]
            for role in roles:
                self.tx.execute(f"grant {role} to {name}")  # pyright: ignore[reportArgumentType, reportCallIssue]
        return log_in_as(self.url, name, "of no worth")

    def act(self, role: str, tenant: int | None = None) -> psycopg.Connection[Any]:
        """A connection of a service that assumes this role, in a transaction that is bound to the tenant."""
        service = next((name for name, assumed in SERVICES.items() if role in assumed), None)
        url = self.log_in(service) if service else self.account(f"test_{role}", role)
        connection = self.open.enter_context(psycopg.connect(url, options=f"-c role={role}"))
        if tenant is not None:
            connection.execute("select set_config('haulier.tenant', %s, true)", (str(tenant),))
        return connection


@pytest.fixture
def two(database_url: str) -> Iterator[Two]:
    engine = create_engine(sqlalchemy_url(database_url))
    with engine.begin() as connection:
        create_tables(connection)
    engine.dispose()
    with ExitStack() as stack:
        tx = stack.enter_context(psycopg.connect(database_url, autocommit=True))
        workers.remember_commands(
            tx, [{"name": "test.run", "queue": "test", "max_failures": 3, "fields": ["n"], "on_rejected": None, "on_dead": None}]
        )
        tenants: list[int] = []
        submitted: dict[int, list[UUID]] = {}
        for slug in ("mine", "other"):
            tenant = keys.add_tenant(tx, slug, slug)
            assert tenant is not None
            keys.add_key(tx, tenant.id, "admin", slug)
            wishes = [submission(tenant.id, key=f"key-{n}") for n in range(2)]
            jobs.submit(tx, wishes)
            tenants.append(tenant.id)
            submitted[tenant.id] = [wish.id for wish in wishes]
        yield Two(database_url, tx, tenants[0], tenants[1], submitted, stack)


def submission(tenant_id: int, **facts: Any) -> jobs.Submission:
    return jobs.Submission(uuid7(), tenant_id, "test.run", "test", b'{"n": 1}', max_failures=3, labels={"shelf": "a"}, **facts)


Act = Callable[[str], psycopg.Connection[Any]]
