"""Migrating as an owner that is no superuser, and from two databases of one cluster at once."""

from __future__ import annotations

import subprocess
from pathlib import Path

import psycopg
import pytest

from config.ids import uuid7
from console.logins import log_in_as
from console.servers.postgres import PostgresServer, debian_binaries
from ledger import archive, attempts, jobs, keys, workers
from ledger.attempts import Lease
from ledger.connection import opening, send
from ledger.roles import SERVICES, add_account
from tests.console.running import HAULIER, environment, haulier
from tests.roles.conftest import TIMEOUTS, submission
from tests.servers import fresh_database

pytestmark = pytest.mark.every_postgres


def test_an_owner_without_rights_over_roles_is_told_what_to_have_done_and_then_owns_a_ledger_that_works(
    empty_database_url: str, tmp_path: Path
):
    with psycopg.connect(empty_database_url, autocommit=True) as admin:
        admin.execute("drop role if exists test_owner")
        admin.execute("create role test_owner login password 'of no worth'")
        admin.execute(f"alter database {admin.info.dbname} owner to test_owner")  # pyright: ignore[reportArgumentType, reportCallIssue]
        url = log_in_as(empty_database_url, "test_owner", "of no worth")
        try:
            refused = haulier("migrate", cwd=tmp_path, HAULIER_DATABASE_URL=url)
            assert refused.returncode == 1
            told = " ".join(refused.stderr.split())
            _, _, statements = told.partition("let an administrator of this server run: ")
            assert "grant haulier_definer, haulier_operator to test_owner;" in statements
            admin.execute(statements)  # pyright: ignore[reportArgumentType, reportCallIssue]

            assert haulier("migrate", cwd=tmp_path, HAULIER_DATABASE_URL=url).returncode == 0
            for service in ("serve", "work", "upkeep"):
                with admin.transaction():
                    add_account(admin, f"test_{service}", "of no worth", service)
            carry_one(empty_database_url, admin)
            started = haulier("upkeep", cwd=tmp_path, HAULIER_DATABASE_URL=url, HAULIER_BROKER_URL="amqp://nobody@127.0.0.1:9")
            assert started.returncode == 1
            assert "test_owner is the owner of the tables" in " ".join(started.stderr.split())
        finally:
            admin.execute(f"alter database {admin.info.dbname} owner to current_user")  # pyright: ignore[reportArgumentType, reportCallIssue]
            admin.execute("drop owned by test_owner cascade")
            admin.execute("drop role test_owner")


def carry_one(url: str, admin: psycopg.Connection) -> None:
    """One job through the functions that lend rights, none of which is a superuser's here."""
    tenant = keys.add_tenant(admin, "mine", "Mine")
    assert tenant is not None
    workers.remember_commands(
        admin, [{"name": "test.run", "queue": "test", "max_failures": 3, "fields": ["n"], "on_rejected": None, "on_dead": None}]
    )
    wish, worker = submission(tenant.id), uuid7()
    with as_role(url, "serve", "haulier_intake") as tx:
        jobs.submit(tx, [wish])
    with as_role(url, "work", "haulier_worker") as tx:
        assert len(attempts.begin(tx, worker, [(wish.id, 1)], TIMEOUTS)[0]) == 1
    with as_role(url, "work", "haulier_handler") as tx:
        send(tx, opening(tenant.id))
        attempts.complete(tx, Lease(wish.id, 1, worker), None)
    with as_role(url, "upkeep", "haulier_upkeep") as tx:
        today = tx.execute("select current_date").fetchone()
        assert today is not None
        archive.open_partitions(tx, today[0])
        assert archive.drop_partitions(tx, today[0]) != []
    assert admin.execute("select state::text from haulier.jobs").fetchone() == ("succeeded",)


def as_role(url: str, service: str, role: str) -> psycopg.Connection:
    assert role in SERVICES[service]
    return psycopg.connect(log_in_as(url, f"test_{service}", "of no worth"), options=f"-c role={role}", autocommit=True)


def test_two_databases_of_a_new_cluster_migrate_at_once(postgres_kind: str, tmp_path: Path):
    with (
        PostgresServer(binaries=debian_binaries() if postgres_kind == "debian" else None) as server,
        fresh_database(server, "template0") as one,
        fresh_database(server, "template0") as two,
    ):
        both = [
            subprocess.Popen([*HAULIER, "migrate"], cwd=tmp_path, env=environment(HAULIER_DATABASE_URL=url), stderr=subprocess.PIPE)
            for url in (one, two)
        ]
        said = [each.communicate(timeout=100)[1] for each in both]

    assert [each.returncode for each in both] == [0, 0], said
