"""How finished jobs leave (decision 0003): three ways, the same rows, figures that do not drift with the machine.

`python -m benchmarks.retention [--jobs 100000] [--rounds 5]`: each round writes `jobs` finished jobs (one row in jobs, three events, one
attempt), then lets the oldest round go. Prints, by way: bytes of WAL a job for writing and for leaving, the size of what remains after
each round, and the seconds that the leaving took. Scale `--jobs` up for the full run.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import psycopg

from config.ids import uuid7
from console.servers.postgres import PostgresServer
from ledger import archive
from ledger.migrate import migrate

FILL = """
with new as materialized (
    select encode(set_byte(decode(lpad(to_hex({at}::bigint + g / 10), 12, '0'), 'hex') || '\\x7000'::bytea || substr(uuid_send(gen_random_uuid()), 9),
                           8, 128 + get_byte(uuid_send(gen_random_uuid()), 1) % 64), 'hex')::uuid as id, g
      from generate_series(1, {jobs}) g),
j as (insert into haulier.jobs (id, tenant_id, root_id, command, queue, state, attempt, seq, priority, max_failures, due_at, submitted_at,
                                started_at, finished_at, payload, result)
      select id, g % 20, id, 'bench.durable', 'bench', 'succeeded', 1, 3, 0, 8, now(), now() - interval '2 hours', now(),
             now() - interval '2 hours', '{{"data": "{pad}"}}', '{{"ok": 1}}' from new),
a as (insert into haulier.attempts (job_id, number, tenant_id, worker_id, started_at, finished_at, outcome)
      select id, 1, g % 20, id, now(), now(), 'succeeded' from new)
insert into haulier.events (job_id, seq, tenant_id, kind, state, attempt)
select id, n, g % 20, k, s::haulier.job_state, 1
  from new, (values (1, 'accepted', 'queued'), (2, 'started', 'running'), (3, 'succeeded', 'succeeded')) e(n, k, s)
"""
TABLES = ("jobs", "attempts", "events")
Tx = psycopg.Connection[Any]


def fill(tx: Tx, jobs: int, at: int) -> None:
    tx.execute(FILL.format(jobs=jobs, at=at, pad="x" * 160), prepare=False)  # pyright: ignore[reportArgumentType, reportCallIssue]


def floor(at: int) -> str:
    """The least id of that millisecond."""
    text = f"{at:012x}"
    return f"{text[:8]}-{text[8:]}-0000-0000-000000000000"


def delete(tx: Tx, start: int, end: int) -> None:
    """The plain way: delete where they stand, in steps, and vacuum."""
    step = max(1, (end - start) // 20)
    for at in range(start, end + step, step):
        bounds = (floor(at), floor(min(end, at + step)))
        tx.execute("delete from haulier.events where job_id >= %s and job_id < %s", bounds)
        tx.execute("delete from haulier.attempts where job_id >= %s and job_id < %s", bounds)
        tx.execute("delete from haulier.jobs where id >= %s and id < %s", bounds)


def move_and_drop(tx: Tx, start: int, end: int) -> None:
    """Ours: move whole families to the archive, then drop the archive's day (here: truncate it, there is one day only)."""
    after = None
    while True:
        step = archive.archive(tx, timedelta(hours=1), after, limit=500)
        if step.after is None or str(step.after) >= floor(end):
            break
        after = step.after
    tx.execute("truncate haulier.archive")


def detach(tx: Tx, start: int, end: int) -> None:
    """Partitions by id: the round's partition goes as a file."""
    for table in TABLES:
        tx.execute(f"drop table haulier.{table}_{start}")  # pyright: ignore[reportArgumentType]


def partition(tx: Tx) -> None:
    """Rebuild the three tables partitioned by id."""
    for table, key in (("jobs", "id"), ("attempts", "job_id"), ("events", "job_id")):
        tx.execute(f"alter table haulier.{table} rename to {table}_plain", prepare=False)  # pyright: ignore[reportArgumentType]
        tx.execute(
            f"create table haulier.{table} (like haulier.{table}_plain including indexes including defaults) partition by range ({key})",
            prepare=False,
        )  # pyright: ignore[reportArgumentType]


def add_partition(tx: Tx, start: int, end: int) -> None:
    for table in TABLES:
        tx.execute(
            f"create table haulier.{table}_{start} partition of haulier.{table} for values from ('{floor(start)}') to ('{floor(end)}')"  # pyright: ignore[reportArgumentType]
        )


def wal(tx: Tx) -> int:
    row = tx.execute("select pg_current_wal_insert_lsn() - '0/0'::pg_lsn").fetchone()
    assert row is not None
    return int(row[0])


def size(tx: Tx) -> float:
    """MiB of everything in the schema."""
    row = tx.execute(
        "select sum(pg_total_relation_size(c.oid)) / 1048576.0 from pg_class c join pg_namespace n on n.oid = c.relnamespace"
        " where n.nspname = 'haulier' and c.relkind = 'r'"
    ).fetchone()
    assert row is not None
    return float(row[0])


def measure(server: PostgresServer, name: str, leave: Callable[[Tx, int, int], None], jobs: int, rounds: int) -> None:
    with psycopg.connect(server.url, autocommit=True) as admin:
        admin.execute(f"create database {name}")  # pyright: ignore[reportArgumentType]
    url = server.database_url(name)
    migrate(url)
    written = left = seconds = 0.0
    sizes: list[float] = []
    with psycopg.connect(url, autocommit=True) as tx:
        if leave is detach:
            partition(tx)
        archive.open_partitions(tx, __import__("datetime").date.today())
        tx.execute("checkpoint")
        base = (uuid7().int >> 80) - 3 * 3_600_000
        span = jobs // 10 + 1
        for number in range(rounds):
            start, end = base + number * span, base + (number + 1) * span
            if leave is detach:
                add_partition(tx, start, end)
            before = wal(tx)
            fill(tx, jobs, start)
            written += wal(tx) - before
            before, clock = wal(tx), time.perf_counter()
            leave(tx, start, end)
            seconds += time.perf_counter() - clock
            left += wal(tx) - before
            tx.execute("vacuum haulier.jobs, haulier.attempts, haulier.events" if leave is not detach else "select 1")
            sizes.append(size(tx))
    total = jobs * rounds
    shown = " ".join(f"{value:.0f}" for value in sizes)
    print(f"| {name} | {written / total:,.0f} | {left / total:,.0f} | {1e6 * seconds / total:.1f} | {shown} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=100_000, help="jobs in one round")
    parser.add_argument("--rounds", type=int, default=5)
    asked = parser.parse_args()
    print("| way | WAL bytes a job, written | … leaving | microseconds a job, leaving | MiB after each round |")
    print("| --- | --- | --- | --- | --- |")
    with PostgresServer() as server:
        for name, leave in (("delete", delete), ("archive", move_and_drop), ("partitions", detach)):
            measure(server, name, leave, asked.jobs, asked.rounds)


if __name__ == "__main__":
    main()
