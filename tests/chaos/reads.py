"""The final reads: the ledger, the domain's books and RabbitMQ's queues as they are when all is over, written into files."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, LiteralString

import psycopg
from psycopg import sql

#: File → what is in it.
LEDGER: dict[str, LiteralString] = {
    "jobs": """
        select j.id, t.slug as tenant, j.root_id, j.parent_id, j.command, j.state, j.reason, j.error->>'code' as code, j.attempt,
               j.failures, j.generation, j.seq, j.labels->>'key' as key, extract(epoch from j.submitted_at)::float8 as submitted_at,
               extract(epoch from j.finished_at)::float8 as finished_at
          from haulier.every_job j join haulier.tenants t on t.id = j.tenant_id""",
    "attempts": """
        select job_id, number, outcome, error->>'message' as message, extract(epoch from started_at)::float8 as started_at,
               extract(epoch from finished_at)::float8 as finished_at
          from haulier.every_attempt""",
    "events": "select job_id, seq, kind, state, attempt, extract(epoch from at)::float8 as at from haulier.every_event",
    "outbox": "select job_id, queue, command, attempt, scheduled from haulier.outbox",
    "leases": "select job_id, queue, attempt from haulier.leases",
    "dead_letters": "select job_id, command, reason, code, message from haulier.dead_letters",
    "orphans": "select queue, reason, times from haulier.orphan_messages",
}
#: What the commands of tests.crash leave in Postgres, and the shop; where they are.
EFFECTS: LiteralString = "select job_id, attempt from public.effects"
SHOP = ("products", "discounts", "orders", "order_lines", "payments", "shipments")


def write(database_url: str, directory: Path, queues: Mapping[str, int]) -> None:
    """All of one moment. `queues`: messages that RabbitMQ holds, by the queue's name."""
    directory.mkdir(parents=True, exist_ok=True)
    with psycopg.connect(database_url) as connection:
        connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        for name, statement in LEDGER.items():
            _write(connection, directory / f"{name}.jsonl", sql.SQL(statement))
        if _exists(connection, "public.effects"):
            _write(connection, directory / "effects.jsonl", sql.SQL(EFFECTS))
        for table in SHOP:
            if _exists(connection, f"orders.{table}"):
                _write(connection, directory / f"shop_{table}.jsonl", sql.SQL("select * from {}").format(sql.Identifier("orders", table)))
    (directory / "queues.json").write_text(json.dumps(dict(queues)))


def _exists(connection: psycopg.Connection[Any], table: str) -> bool:
    row = connection.execute("select to_regclass(%s) is not null", (table,)).fetchone()
    return bool(row and row[0])


def _write(connection: psycopg.Connection[Any], path: Path, statement: sql.Composable) -> None:
    with connection.cursor(name="final") as cursor, path.open("w", encoding="utf-8") as file:
        cursor.itersize = 5_000
        cursor.execute(sql.SQL("select row_to_json(x)::text from ({}) x").format(statement))
        for row in cursor:
            file.write(row[0] + "\n")
