"""Work by the million, written on the server: the rows that submitting, working and archiving would have left."""

from __future__ import annotations

from datetime import date, timedelta
from typing import Any, LiteralString

import psycopg

from benchmarks.commands import QUEUE
from benchmarks.work import DATA
from ledger import archive

Tx = psycopg.Connection[Any]

# A UUID of version 7 of any moment; inlined into the statement that calls it.
UUID7: LiteralString = """
create function bench.uuid7(at timestamptz) returns uuid language sql volatile as $$
    select encode(set_byte(set_byte(
        overlay(uuid_send(gen_random_uuid()) placing substring(int8send((extract(epoch from at) * 1000)::bigint) from 3) from 1 for 6),
        6, 112 + (random() * 15)::integer), 8, 128 + (random() * 63)::integer), 'hex')::uuid
$$
"""

QUEUED: LiteralString = """
with new as materialized (
    select bench.uuid7(at) as id, at, (g %% %(tenants)s) + %(tenant)s as tenant_id,
           jsonb_build_object('number', %(number)s::bigint + g, 'account', (%(number)s::bigint + g) %% 1000, 'data', %(data)s::text) as payload
      from generate_series(1, %(jobs)s) g, lateral (select now() - make_interval(secs => (%(jobs)s - g) / 1000.0) as at) t),
waiting as (
    insert into haulier.outbox (job_id, tenant_id, queue, command, priority, attempt, due_at)
    select id, tenant_id, %(queue)s, 'bench.durable', 0, 1, at from new),
told as (
    insert into haulier.events (job_id, seq, at, tenant_id, kind, state, attempt)
    select id, 1, at, tenant_id, 'accepted', 'queued', 0 from new)
insert into haulier.jobs (id, tenant_id, root_id, command, queue, state, priority, max_failures, submitted_at, due_at, payload)
select id, tenant_id, id, 'bench.durable', %(queue)s, 'queued', 0, 5, at, at, payload from new
"""
STEP = 100_000

FINISHED: LiteralString = """
with new as materialized (
    select bench.uuid7(at) as id, at, jsonb_build_object('number', 1000000000 + g, 'account', g %% 1000, 'data', %(data)s::text) as payload
      from generate_series(1, %(jobs)s) g,
           lateral (select %(until)s::timestamptz - make_interval(secs => (%(jobs)s - g) * %(seconds)s / %(jobs)s) as at) t),
tried as (
    insert into haulier.attempts (job_id, number, tenant_id, worker_id, started_at, finished_at, outcome)
    select id, 1, %(tenant)s, id, at, at, 'succeeded' from new),
told as (
    insert into haulier.events (job_id, seq, at, tenant_id, kind, state, attempt)
    select id, n, at, %(tenant)s, kind, state::haulier.job_state, attempt
      from new, (values (1, 'accepted', 'queued', 0), (2, 'started', 'running', 1), (3, 'succeeded', 'succeeded', 1)) e(n, kind, state, attempt))
insert into haulier.jobs (id, tenant_id, root_id, command, queue, state, priority, max_failures, attempt, seq, submitted_at, due_at,
                          started_at, finished_at, payload)
select id, %(tenant)s, id, 'bench.durable', %(queue)s, 'succeeded', 0, 5, 1, 3, at, at, at, at, payload from new
"""

ARCHIVED: LiteralString = """
insert into haulier.archive (id, tenant_id, root_id, command, queue, state, solo, priority, max_failures, failures, attempt, generation, seq,
                             submitted_at, due_at, started_at, finished_at, payload, archived_on, attempts, events)
select id, %(tenant)s, id, 'bench.durable', %(queue)s, 'succeeded', false, 0, 5, 0, 1, 0, 3, at, at, at, at,
       jsonb_build_object('number', 2000000000 + g, 'account', g %% 1000, 'data', %(data)s::text), %(day)s,
       jsonb_build_array(jsonb_build_object('number', 1, 'worker_id', id, 'started_at', at, 'finished_at', at, 'outcome', 'succeeded')),
       jsonb_build_array(
           jsonb_build_object('seq', 1, 'at', at, 'kind', 'accepted', 'state', 'queued', 'attempt', 0, 'xact', '1000'),
           jsonb_build_object('seq', 2, 'at', at, 'kind', 'started', 'state', 'running', 'attempt', 1, 'xact', '1001'),
           jsonb_build_object('seq', 3, 'at', at, 'kind', 'succeeded', 'state', 'succeeded', 'attempt', 1, 'xact', '1002'))
  from generate_series(1, %(jobs)s) g,
       lateral (select bench.uuid7(s.at) as id, s.at from (select %(day)s::date + make_interval(secs => g * 80000.0 / %(jobs)s) as at) s) n
"""
#: Today, and as many days before as are kept.
DAYS = 29


def queue_jobs(tx: Tx, jobs: int, tenant: int, tenants: int = 1, *, number: int = 0) -> None:
    """Accepted within the last seconds, 1,000 a second, evenly for the `tenants` tenants from `tenant` on."""
    for done in range(0, jobs, STEP):
        values = {"jobs": min(STEP, jobs - done), "number": number + done, "tenant": tenant, "tenants": tenants}
        tx.execute(QUEUED, values | {"queue": QUEUE, "data": DATA})


def finish_jobs(tx: Tx, jobs: int, tenant: int) -> None:
    """A tenth of them within the last half an hour, in the live tables; the others in the archive, as many a day."""
    live = jobs // 10
    values = {"tenant": tenant, "queue": QUEUE, "data": DATA}
    tx.execute("set synchronous_commit = off")
    today = date.today()  # noqa: DTZ011  (the database is on this machine)
    for day in (today - timedelta(days=number) for number in range(DAYS, 0, -1)):
        archive.open_partitions(tx, day)
        tx.execute(ARCHIVED, values | {"jobs": (jobs - live) // DAYS, "day": day})
    for done in range(0, live, STEP):
        until = _now(tx) - timedelta(seconds=1800 * (live - done) / live)
        tx.execute(FINISHED, values | {"jobs": min(STEP, live - done), "until": until, "seconds": 1800 * min(STEP, live) / live})
    tx.execute("set synchronous_commit = on")


def _now(tx: Tx) -> Any:
    row = tx.execute("select now()").fetchone()
    assert row is not None
    return row[0]
