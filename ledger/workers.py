"""Processes and their heartbeats: a worker's one row is the lease of everything it runs."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import orjson
from psycopg import Connection

Tx = Connection[Any]

REGISTER = """
insert into haulier.workers (id, kind, host, pid, release, queues, commands) values (%s, %s, %s, %s, %s, %s, %s)
on conflict (id) do update set seen_at = now(), stopped_at = null
"""


def register(tx: Tx, worker_id: UUID, kind: str, release: str, queues: Sequence[str] = (), commands: Sequence[str] = ()) -> None:
    """Make a process known. kind: worker, relay, upkeep."""
    tx.execute(REGISTER, (worker_id, kind, socket.gethostname(), os.getpid(), release, list(queues), list(commands)))


# Also says which of its running jobs somebody wants cancelled, so that a cancel needs no query of its own. By the jobs' ids: a look for the worker's
# leases would walk through all that have been given back since the oldest open transaction of the whole server began.
HEARTBEAT = """
with seen as (
    update haulier.workers
       set seen_at = now(), begun = coalesce(%(begun)s::jsonb, begun), asleep = coalesce(%(asleep)s, asleep)
     where id = %(id)s
    returning id)
select (select count(*) from seen), array(
    select id from haulier.jobs
     where id = any(%(running)s) and state = 'running' and worker_id = %(id)s and cancel_requested_at is not null)
"""


def heartbeat(tx: Tx, worker_id: UUID, running: Sequence[UUID] = (), begun: Mapping[str, float] | None = None) -> tuple[bool, list[UUID]]:
    """Renew every lease of this worker. `running`: the jobs whose handlers run; `begun`: by queue, the latest announcement (Unix seconds)
    that it has begun.

    Returns whether the worker is still known, and those of `running` whose cancellation was asked for.
    """
    text = orjson.dumps(begun).decode() if begun else None
    row = tx.execute(HEARTBEAT, {"id": worker_id, "running": list(running), "begun": text, "asleep": None}).fetchone()
    assert row is not None
    return row[0] == 1, row[1]


def set_asleep(tx: Tx, worker_id: UUID, asleep: bool) -> None:
    """A relay with nothing to do wants to be woken (and a busy one does not)."""
    tx.execute("update haulier.workers set asleep = %s, seen_at = now() where id = %s", (asleep, worker_id))


WAKE = """
select pg_notify('haulier_relay', (array_agg(id))[1]::text) from haulier.workers
 where kind = 'relay' and stopped_at is null and seen_at > now() - interval '10 seconds'
having bool_and(asleep)
"""


def wake(tx: Tx) -> bool:
    """Notify a relay if all of them sleep. Not in a transaction that others write with, too: those which notify commit one after the other."""
    return tx.execute(WAKE).fetchone() is not None


def stop(tx: Tx, worker_id: UUID) -> None:
    """A process leaves in order: it holds nothing any more."""
    tx.execute("update haulier.workers set stopped_at = now(), asleep = false where id = %s", (worker_id,))


@dataclass(frozen=True, slots=True)
class Crew:
    """What the live workers can do: the commands that at least one knows, and by queue the latest announcement that has begun."""

    commands: frozenset[str]
    begun: dict[str, datetime]


CREW = """
select array(select distinct c from haulier.workers w, unnest(w.commands) c
              where w.kind = 'worker' and w.stopped_at is null and w.seen_at > now() - make_interval(secs => %(lease)s))
"""
BEGUN = """
select b.key, to_timestamp(max(b.value::float8)) from haulier.workers w, jsonb_each_text(w.begun) b
 where w.kind = 'worker' and w.seen_at > now() - interval '1 hour' group by 1
"""


def crew(tx: Tx, lease: float) -> Crew:
    """Read once a second by a relay."""
    row = tx.execute(CREW, {"lease": lease}).fetchone()
    assert row is not None
    return Crew(frozenset(row[0]), dict(tx.execute(BEGUN).fetchall()))


@dataclass(frozen=True, slots=True)
class Lapsed:
    """A running job whose worker is gone, or whose deadline is past. `solo`: it was already running alone when it happened."""

    job_id: UUID
    attempt: int
    worker_id: UUID
    solo: bool
    failures: int
    max_failures: int
    command: str
    late: bool
    root_id: UUID
    tenant_id: int


LAPSED = """
select l.job_id, l.attempt, l.worker_id, j.solo, j.failures, j.max_failures, j.command,
       w.seen_at >= now() - make_interval(secs => %(lease)s) and w.stopped_at is null as late, j.root_id, j.tenant_id
  from haulier.leases l
  join haulier.jobs j on j.id = l.job_id
  left join haulier.workers w on w.id = l.worker_id
 where w.id is null or w.stopped_at is not null
    or w.seen_at < now() - make_interval(secs => %(lease)s)
    or l.deadline_at < now() - make_interval(secs => %(grace)s)
 order by l.job_id limit %(limit)s
   for update of l skip locked
"""


def lapsed(tx: Tx, lease: float, grace: float, limit: int = 500) -> list[Lapsed]:
    """Leases to be taken back: `lease` seconds without a heartbeat, or `grace` seconds past the attempt's deadline."""
    return [Lapsed(*row) for row in tx.execute(LAPSED, {"lease": lease, "grace": grace, "limit": limit})]


LOST_OF_LATE = """
select exists (select from haulier.workers
                where kind = 'worker' and coalesce(stopped_at, seen_at + make_interval(secs => %(lease)s)) between now() - interval '5 minutes' and now())
"""


def lost_of_late(tx: Tx, lease: float) -> bool:
    """Whether a worker has stopped or fallen silent within the last five minutes, so that leases of its may be left. Reads no lease."""
    row = tx.execute(LOST_OF_LATE, {"lease": lease}).fetchone()
    assert row is not None
    return row[0]


HELD_BY = """
select l.job_id, l.attempt, l.worker_id, j.solo, j.failures, j.max_failures, j.command, false, j.root_id, j.tenant_id
  from haulier.leases l join haulier.jobs j on j.id = l.job_id
 where l.worker_id = %s
"""


def held_by(tx: Tx, worker_id: UUID) -> list[Lapsed]:
    """All that one worker holds: read by its runner after it died."""
    return [Lapsed(*row) for row in tx.execute(HELD_BY, (worker_id,))]


def forget_old(tx: Tx) -> int:
    """Drop the rows of processes that were last seen a day ago."""
    return tx.execute("delete from haulier.workers where seen_at < now() - interval '1 day'").rowcount


def remember_commands(tx: Tx, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write down what this release knows of its commands (name, queue, max_failures, fields, on_rejected, on_dead)."""
    tx.execute(REMEMBER, (orjson.dumps(list(rows)).decode(),))


REMEMBER = """
insert into haulier.commands (name, queue, max_failures, fields, on_rejected, on_dead)
select c.* from jsonb_to_recordset(%s::jsonb)
    as c(name text, queue text, max_failures smallint, fields text[], on_rejected text, on_dead text)
 order by c.name
on conflict (name) do update set queue = excluded.queue, max_failures = excluded.max_failures, fields = excluded.fields,
    on_rejected = excluded.on_rejected, on_dead = excluded.on_dead, updated_at = now()
 where (commands.queue, commands.max_failures, commands.fields, commands.on_rejected, commands.on_dead)
       is distinct from (excluded.queue, excluded.max_failures, excluded.fields, excluded.on_rejected, excluded.on_dead)
"""


def measure(tx: Tx, means: Mapping[str, float]) -> None:
    """Remember how long commands run here (mean milliseconds): short ones may share a message."""
    tx.execute(MEASURE, (orjson.dumps([{"name": name, "ms": ms} for name, ms in sorted(means.items())]).decode(),))


MEASURE = """
update haulier.commands c set mean_ms = coalesce(c.mean_ms * 0.5 + m.ms * 0.5, m.ms)
  from jsonb_to_recordset(%s::jsonb) as m(name text, ms real) where c.name = m.name
"""


def run_times(tx: Tx) -> dict[str, float]:
    """By command, how many milliseconds it takes to run, where that has been measured."""
    return dict(tx.execute("select name, mean_ms from haulier.commands where mean_ms is not null").fetchall())


def queues(tx: Tx) -> dict[str, str]:
    """By command, its queue."""
    return dict(tx.execute("select name, queue from haulier.commands order by name").fetchall())
