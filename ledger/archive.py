"""Finished families leave the live tables for the archive, one row a job, in partitions by day that are dropped whole (decision 0003)."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any
from uuid import UUID

from psycopg import Connection, sql

Tx = Connection[Any]


@dataclass(frozen=True, slots=True)
class Archived:
    """One step of the sweep: how many roots were looked at, how many jobs moved, and where to go on (None: start again)."""

    seen: int
    moved: int
    after: UUID | None


# Whole families, so that a family is read in one place. A dead letter stays, and its family with it, until it is replayed or discarded.
ROOTS = """
select id from haulier.jobs
 where (%(after)s::uuid is null or id > %(after)s) and submitted_at < now() - make_interval(secs => %(age)s)
 order by id limit %(limit)s
"""

MOVE = """
with recursive looked_at as (
    select id from haulier.jobs
     where id = any(%(ids)s) and parent_id is null and finished_at < now() - make_interval(secs => %(age)s)),
family(root, id) as (
    select id, id from looked_at
    union all
    select family.root, child.id from family join haulier.jobs child on child.parent_id = family.id),
ended as (
    select root from family join haulier.jobs j on j.id = family.id
     group by root
    having bool_and(j.state in ('succeeded', 'rejected', 'cancelled') and j.finished_at < now() - make_interval(secs => %(age)s))),
locked as (
    select j.id from haulier.jobs j where j.id in (select f.id from family f join ended using (root)) order by j.id for update),
moved as (
    delete from haulier.jobs j using locked where j.id = locked.id returning j.*),
attempts as (
    delete from haulier.attempts a using locked where a.job_id = locked.id returning a.*),
events as (
    delete from haulier.events e using locked where e.job_id = locked.id returning e.*),
calls as (
    delete from haulier.external_calls c using locked where c.job_id = locked.id)
insert into haulier.archive
select m.*, current_date,
       coalesce((select jsonb_agg(jsonb_strip_nulls(jsonb_build_object('number', a.number, 'worker_id', a.worker_id, 'started_at', a.started_at,
                    'finished_at', a.finished_at, 'outcome', a.outcome, 'error', a.error, 'log', a.log)) order by a.number)
                   from attempts a where a.job_id = m.id), '[]'),
       coalesce((select jsonb_agg(jsonb_strip_nulls(jsonb_build_object('seq', e.seq, 'at', e.at, 'kind', e.kind, 'state', e.state,
                    'attempt', e.attempt, 'who', e.who, 'data', e.data)) order by e.seq)
                   from events e where e.job_id = m.id), '[]')
  from moved m
"""


def archive(tx: Tx, age: timedelta, after: UUID | None, limit: int = 500) -> Archived:
    """Move those families, among the next `limit` jobs after the id `after`, all of which ended more than `age` ago."""
    seconds = age.total_seconds()
    ids = [row[0] for row in tx.execute(ROOTS, {"after": after, "age": seconds, "limit": limit})]
    if not ids:
        return Archived(0, 0, None)
    moved = tx.execute(MOVE, {"ids": ids, "age": seconds}).rowcount
    return Archived(len(ids), moved, ids[-1])


def open_partitions(tx: Tx, today: date, ahead: int = 2) -> None:
    """See to it that today and the next days have a partition."""
    for day in (today + timedelta(days=n) for n in range(-1, ahead + 1)):
        tx.execute(
            sql.SQL("create table if not exists haulier.{} partition of haulier.archive for values from ({}) to ({})").format(
                sql.Identifier(_name(day)), sql.Literal(day.isoformat()), sql.Literal((day + timedelta(days=1)).isoformat())
            )
        )


def drop_partitions(tx: Tx, before: date) -> list[str]:
    """Drop every partition of the days before: a file is unlinked, nothing is vacuumed. Returns the names."""
    rows = tx.execute(
        "select c.relname from pg_inherits i join pg_class c on c.oid = i.inhrelid where i.inhparent = 'haulier.archive'::regclass"
    )
    old = sorted(name for (name,) in rows if name < _name(before))
    for name in old:
        tx.execute(sql.SQL("drop table haulier.{}").format(sql.Identifier(name)))
    return old


def forget_keys(tx: Tx, limit: int = 1000) -> int:
    """Idempotency keys past their time. Returns how many."""
    return tx.execute(FORGET_KEYS, (limit,)).rowcount


FORGET_KEYS = """
delete from haulier.idempotency_keys k
 using (select tenant_id, key from haulier.idempotency_keys where expires_at < now() order by expires_at limit %s for update skip locked) old
 where k.tenant_id = old.tenant_id and k.key = old.key
"""


def _name(day: date) -> str:
    return f"archive_{day:%Y%m%d}"
