"""The durable effect of W2 and W3, the same for everybody: one row and one update, idempotent by the row's key.

A commit is told by Postgres itself (`track_commit_timestamp`), so that nobody's clock is read before its commit is sure.
"""

from __future__ import annotations

from typing import Any, LiteralString

from psycopg import Connection

ACCOUNTS = 1000

#: What `PostgresServer` needs beside its own settings.
#: DBOS keeps a connection for each of a hundred threads, beside those of its pools.
POSTGRES_SETTINGS = {"max_connections": "300", "track_commit_timestamp": "on"}

TABLES: LiteralString = """
create schema bench;
create table bench.processed (job_number bigint primary key);
create table bench.account (id integer primary key, n bigint not null) with (fillfactor = 50);
insert into bench.account select g, 0 from generate_series(0, 999) g;
"""

INSERT: LiteralString = "insert into bench.processed (job_number) values ({}) on conflict do nothing"
UPDATE: LiteralString = "update bench.account set n = n + 1 where id = {}"

#: The same for a set, of numbers and their accounts: rows in one order, so that two sets cannot wait for each other.
MANY: LiteralString = """
with asked as (
    select * from unnest({}::bigint[], {}::integer[]) as t (job_number, account)),
new as (
    insert into bench.processed (job_number) select job_number from asked on conflict do nothing returning job_number),
wanted as materialized (
    select account as id, count(*) as n from new join asked using (job_number) group by 1),
locked as materialized (
    select a.id from bench.account a where a.id in (select id from wanted) order by a.id for update)
update bench.account a set n = a.n + w.n from wanted w, locked l where a.id = w.id and l.id = a.id
"""


def count(tx: Connection[Any]) -> tuple[int, int]:
    """Jobs that had their effect, and how often effects happened: the same number, or something is wrong."""
    row = tx.execute("select (select count(*) from bench.processed), (select sum(n) from bench.account)::bigint").fetchone()
    assert row is not None
    return row[0], row[1]


def commits(tx: Connection[Any]) -> dict[int, float]:
    """When each job's effect was committed, in Unix seconds."""
    rows = tx.execute("select job_number, extract(epoch from pg_xact_commit_timestamp(xmin))::float8 from bench.processed")
    return dict(rows.fetchall())
