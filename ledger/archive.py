"""Finished families leave the live tables for the archive, one row a job, in partitions by day that are dropped whole (decision 0003)."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any, LiteralString
from uuid import UUID

from psycopg import Connection, sql

from config.ids import first_id_at
from ledger import deliveries

Tx = Connection[Any]


@dataclass(frozen=True, slots=True)
class Archived:
    """One step of the sweep: how many roots were looked at, how many jobs moved, and where to go on (None: start again)."""

    seen: int
    moved: int
    after: UUID | None


# What webhooks have not been told of stays until they are. Whole families, so that a family is read in one place. A dead letter stays, and its family with it, until it is replayed or discarded.
# Ids say when they were made: with a bound for them, what is younger is not even read. (Two conditions and no `or`, so that both are the index's.)
ROOTS = """
select id from haulier.jobs
 where id > %(after)s and id < %(below)s and submitted_at < now() - make_interval(secs => %(age)s)
 order by id limit %(limit)s
"""
FIRST = UUID(int=0)

ENDED = """
with recursive family(root, id) as (
    select id, id from haulier.jobs
     where id = any(%(ids)s) and parent_id is null and finished_at < now() - make_interval(secs => %(age)s)
    union all
    select family.root, child.id from family join haulier.jobs child on child.parent_id = family.id),
ended as (
    select root from family join haulier.jobs j on j.id = family.id
     group by root
    having bool_and(j.state in ('succeeded', 'rejected', 'cancelled') and j.finished_at < now() - make_interval(secs => %(age)s)
                    and (%(unseen)s::bigint is null
                         or not exists (select from haulier.events e where e.job_id = j.id and e.xact >= %(unseen)s))))
select id from family where root in (select root from ended) order by id
"""

# By an array of ids, so that each table is reached through its index whatever the statistics say. A unique key that somebody is asking for
# right now is skipped: it is about to have another holder.
MOVE = """
with moved as (
    delete from haulier.jobs where id = any(%(ids)s) and state in ('succeeded', 'rejected', 'cancelled') returning *),
attempts as (
    delete from haulier.attempts where job_id = any(%(ids)s) returning *),
events as (
    delete from haulier.events where job_id = any(%(ids)s) returning *),
calls as (
    delete from haulier.external_calls where job_id = any(%(ids)s)),
holders as (
    delete from haulier.unique_keys where (tenant_id, command, key) in (
        select tenant_id, command, key from haulier.unique_keys where job_id = any(%(ids)s) and held_until is null for update skip locked)),
losers as (
    delete from haulier.lost_unique_keys where job_id = any(%(ids)s)),
called_back as (
    delete from haulier.callbacks where job_id = any(%(ids)s)),
tried as (
    select job_id, jsonb_agg(jsonb_strip_nulls(jsonb_build_object('number', number, 'worker_id', worker_id, 'started_at', started_at,
               'finished_at', finished_at, 'outcome', outcome, 'error', error, 'log', log)) order by number) as list
      from attempts group by job_id),
told as (
    select job_id, jsonb_agg(jsonb_strip_nulls(jsonb_build_object('seq', seq, 'at', at, 'kind', kind, 'state', state, 'attempt', attempt,
               'who', who, 'data', data, 'xact', xact)) order by seq) as list
      from events group by job_id)
insert into haulier.archive
select m.*, current_date, coalesce(tried.list, '[]'), coalesce(told.list, '[]')
  from moved m left join tried on tried.job_id = m.id left join told on told.job_id = m.id
"""


def archive(tx: Tx, age: timedelta, after: UUID | None, limit: int = 500) -> Archived:
    """Move those families, among the next `limit` jobs after the id `after`, all of which ended more than `age` ago."""
    seconds = age.total_seconds()
    below = first_id_at(time.time() - seconds)
    ids = [row[0] for row in tx.execute(ROOTS, {"after": after or FIRST, "below": below, "age": seconds, "limit": limit})]
    if not ids:
        return Archived(0, 0, None)
    unseen = deliveries.unseen_from(tx)
    ended = [row[0] for row in tx.execute(ENDED, {"ids": ids, "age": seconds, "unseen": unseen})]
    moved = tx.execute(MOVE, {"ids": ended}).rowcount if ended else 0
    return Archived(len(ids), moved, ids[-1])


# Functions of the schema, for a partition is made and dropped by the owner of its parent: migrations/0005_roles.sql.
OPEN = "select haulier.open_archive(%s)"
DROP = "select haulier.drop_archive(%s)"


# By id, a step at a time: no index holds when a result's time is over.
FORGET_RESULTS = """
with looked as materialized (
    select id, command, finished_at, result is not null and state = 'succeeded' as has_one from haulier.{table}
     where %(after)s::uuid is null or id > %(after)s order by id limit %(limit)s),
old as materialized (
    select l.id from looked l left join unnest(%(commands)s::text[], %(ages)s::float8[]) as c(command, age) on c.command = l.command
     where l.has_one and l.finished_at < now() - make_interval(secs => coalesce(c.age, %(default)s))),
gone as (
    update haulier.{table} set result = null where id = any(array(select id from old)) returning id)
select (select max(id::text)::uuid from looked), (select count(*) from gone)
"""


def forget_results(
    tx: Tx, table: LiteralString, ages: Mapping[str, float], default: float | None, after: UUID | None, limit: int = 500
) -> tuple[UUID | None, int]:
    """Take the results away whose time is over (`ages`: seconds by command, `default`: of the others, None for ever), among the next
    `limit` jobs of `table` (jobs, archive) after the id `after`. Returns where to go on (None: start again), and how many are gone.
    """
    row = tx.execute(
        sql.SQL(FORGET_RESULTS).format(table=sql.Identifier(table)),
        {"after": after, "limit": limit, "commands": list(ages), "ages": list(ages.values()), "default": default},
    ).fetchone()
    assert row is not None
    return row[0], row[1]


def open_partitions(tx: Tx, today: date, ahead: int = 2) -> None:
    """See to it that today and the next days have a partition."""
    for day in (today + timedelta(days=n) for n in range(-1, ahead + 1)):
        tx.execute(OPEN, (day,))


def drop_partitions(tx: Tx, before: date) -> list[str]:
    """Drop every partition of the days before: a file is unlinked, nothing is vacuumed. Returns the names."""
    return [row[0] for row in tx.execute(DROP, (before,))]


def forget_keys(tx: Tx, limit: int = 1000) -> int:
    """Idempotency keys past their time. Returns how many."""
    return tx.execute(FORGET_KEYS, (limit,)).rowcount


FORGET_KEYS = """
delete from haulier.idempotency_keys k
 using (select tenant_id, key from haulier.idempotency_keys where expires_at < now() order by expires_at limit %s for update skip locked) old
 where k.tenant_id = old.tenant_id and k.key = old.key
"""
