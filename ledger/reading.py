"""The read side: what clients and operators see of jobs, over the live tables and the archive alike. Plain SQL, no locks.

`tenants` restricts every query to what the caller may see: a list of tenant ids, or None for the platform's own keys.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any, LiteralString
from uuid import UUID

import orjson
from psycopg import Connection
from psycopg.rows import class_row

from config.ids import first_id_at, made_at
from ledger.connection import fetch_list

Tx = Connection[Any]

FINAL = frozenset({"succeeded", "rejected", "dead", "cancelled"})
STATES = ("scheduled", "waiting", "queued", "running", "succeeded", "rejected", "dead", "cancelled")


@dataclass(frozen=True, slots=True)
class Job:
    """One job as it stands. `seq` is its version: it grows with every event. `family`: number of jobs by state, itself included."""

    id: UUID
    tenant_id: int
    root_id: UUID
    parent_id: UUID | None
    command: str
    queue: str
    state: str
    reason: str | None
    priority: int
    attempt: int
    failures: int
    max_failures: int
    seq: int
    labels: dict[str, str] | None
    submitted_at: datetime
    due_at: datetime
    expires_at: datetime | None
    started_at: datetime | None
    finished_at: datetime | None
    cancel_requested_at: datetime | None
    progress: dict[str, Any] | None
    payload: dict[str, Any]
    original_payload: dict[str, Any] | None
    result: Any
    error: dict[str, Any] | None
    traceparent: str | None
    family: dict[str, int]


def family_from(head: LiteralString) -> LiteralString:
    """A `with` clause: `family (id, state, day)`, beginning with a row of `head`, walked by parent. A family is archived whole, on one day,
    so a look-up is one in the live tables and one in that day's partition, however many days are kept.
    """
    return f"""
with recursive family(id, state, day) as (
    {head}
    union all
    select child.id, child.state, family.day
      from family
     cross join lateral (
         select live.id, live.state from haulier.jobs live where live.parent_id = family.id
         union all
         select old.id, old.state from haulier.archive old where old.parent_id = family.id and old.archived_on = family.day) child)
"""


#: Of a row `j` of every_job: number of jobs by state.
FAMILY_COUNTS: LiteralString = f"""
({family_from("select j.id, j.state, j.archived_on")}
 select jsonb_object_agg(state, n) from (select state, count(*) as n from family group by state) counted)
"""


def shown_of(jobs: LiteralString) -> LiteralString:
    """Rows of every_job, or of a part of it, as `Job` has them."""
    return f"""
select j.id, j.tenant_id, j.root_id, j.parent_id, j.command, j.queue, j.state::text, j.reason, j.priority, j.attempt, j.failures,
       j.max_failures, j.seq, j.labels, j.submitted_at, j.due_at, j.expires_at, j.started_at, j.finished_at, j.cancel_requested_at,
       j.progress, j.payload, j.original_payload, j.result, j.error, j.traceparent, {FAMILY_COUNTS} as family
  from {jobs} j
"""


JOB = shown_of("haulier.every_job")

#: Clocks may differ, and so do days, by their time zones.
SLACK = timedelta(days=2)


def archived_since(ids: Iterable[UUID]) -> date:
    """The first day on which one of these jobs can have been archived: ids say when jobs were made, and partitions of earlier days need no look
    (`and (archived_on is null or archived_on >= …)`). What is not a UUID of version 7, or was made by a clock that runs ahead, may be in any.
    """
    now = time.time()
    moments = [made_at(each) for each in ids]
    known = [moment for moment in moments if moment is not None and moment <= now]
    return datetime.fromtimestamp(min(known), UTC).date() - SLACK if known and len(known) == len(moments) else date.min


# One row is enough, so that what is found in the live tables is not looked for in the archive.
READ = (
    JOB
    + """
 where j.id = %(id)s and (%(tenants)s::integer[] is null or j.tenant_id = any(%(tenants)s))
   and (j.archived_on is null or j.archived_on >= %(since)s)
 limit 1
"""
)
READ_MANY = (
    JOB
    + """
 where j.id = any(%(ids)s) and (%(tenants)s::integer[] is null or j.tenant_id = any(%(tenants)s))
   and (j.archived_on is null or j.archived_on >= %(since)s)
 order by j.id
"""
)


def job(tx: Tx, job_id: UUID, tenants: Sequence[int] | None) -> Job | None:
    """The job, or None if it is not there (for this caller)."""
    with tx.cursor(row_factory=class_row(Job)) as cursor:
        return cursor.execute(READ, {"id": job_id, "tenants": _list(tenants), "since": archived_since([job_id])}).fetchone()


def jobs(tx: Tx, ids: Sequence[UUID], tenants: Sequence[int] | None) -> list[Job]:
    with tx.cursor(row_factory=class_row(Job)) as cursor:
        return cursor.execute(READ_MANY, {"ids": list(ids), "tenants": _list(tenants), "since": archived_since(ids)}).fetchall()


@dataclass(frozen=True, slots=True)
class Filter:
    """What a list shall hold; None means any. `before` is the last id of the page before (lists run from new to old)."""

    states: Sequence[str] | None = None
    command: str | None = None
    labels: dict[str, str] | None = None
    submitted_after: datetime | None = None
    submitted_before: datetime | None = None
    code: str | None = None
    message: str | None = None
    died_after: datetime | None = None
    before: UUID | None = None
    #: For how long a handler may run at the most: it makes the ids of its follow-ups, which are submitted when it has ended.
    longest_run: timedelta = timedelta(0)


#: An id is made by the clock of who submits, and `submitted_at` is the database's: when the submitter's transaction began.
APART = timedelta(hours=1)

# A stretch of time is one of ids, so that not all that came before or after is read. What did not succeed has an index in the archive, which is
# used where the condition is there word for word (`rare`). The page comes first, by itself: beside what the planner takes the families to cost, it
# would not matter how that is found. What few jobs are by their state is found through small tables, and not looked for in the archive.
LIST = (
    """
with page as materialized (
    select j.* from haulier.every_job j
     where (%(tenants)s::integer[] is null or j.tenant_id = any(%(tenants)s))
       and (%(before)s::uuid is null or j.id < %(before)s)
       and (%(states)s::haulier.job_state[] is null or j.state = any(%(states)s::haulier.job_state[]))
       and (not %(rare)s or j.state <> 'succeeded')
       and (%(command)s::text is null or j.command = %(command)s)
       and (%(labels)s::jsonb is null or j.labels @> %(labels)s)
       and (%(after)s::timestamptz is null or (j.submitted_at > %(after)s and j.id >= %(first)s and (j.archived_on is null or j.archived_on >= %(since)s)))
       and (%(until)s::timestamptz is null or (j.submitted_at < %(until)s and j.id < %(last)s))
     order by j.id desc limit %(limit)s)
"""
    + shown_of("page")
    + " order by j.id desc"
)
LIST_OPEN = (
    JOB
    + """
 where j.id = any(array(
           select job_id from haulier.outbox where %(tenants)s::integer[] is null or tenant_id = any(%(tenants)s)
           union all
           select job_id from haulier.leases where %(tenants)s::integer[] is null or tenant_id = any(%(tenants)s)))
   and j.archived_on is null
   and (%(before)s::uuid is null or j.id < %(before)s)
   and j.state = any(%(states)s::haulier.job_state[])
   and (%(command)s::text is null or j.command = %(command)s)
   and (%(labels)s::jsonb is null or j.labels @> %(labels)s)
   and (%(after)s::timestamptz is null or j.submitted_at > %(after)s)
   and (%(until)s::timestamptz is null or j.submitted_at < %(until)s)
 order by j.id desc limit %(limit)s
"""
)
LIST_DEAD = (
    JOB
    + """
  join haulier.dead_letters d on d.job_id = j.id
 where j.archived_on is null
   and (%(tenants)s::integer[] is null or d.tenant_id = any(%(tenants)s))
   and (%(before)s::uuid is null or d.job_id < %(before)s)
   and (%(command)s::text is null or d.command = %(command)s)
   and (%(code)s::text is null or d.code = %(code)s)
   and (%(message)s::text is null or position(lower(%(message)s) in lower(d.message)) > 0)
   and (%(died_after)s::timestamptz is null or d.died_at > %(died_after)s)
   and (%(labels)s::jsonb is null or j.labels @> %(labels)s)
   and (%(after)s::timestamptz is null or j.submitted_at > %(after)s)
   and (%(until)s::timestamptz is null or j.submitted_at < %(until)s)
 order by d.job_id desc limit %(limit)s
"""
)


def list_jobs(tx: Tx, tenants: Sequence[int] | None, wanted: Filter, limit: int) -> list[Job]:
    """One page, the newest first."""
    states = frozenset(wanted.states) if wanted.states is not None else None
    statement = LIST
    if states is not None and states <= {"dead"}:
        statement = LIST_DEAD
    elif states is not None and states <= {"scheduled", "queued", "running"}:
        statement = LIST_OPEN
    first = _id_at(wanted.submitted_after, -APART - wanted.longest_run)
    parameters = {
        "tenants": _list(tenants),
        "before": wanted.before,
        "rare": states is not None and "succeeded" not in states,
        "states": f"{{{','.join(states)}}}" if states is not None else None,  # of the type that it is cast to, so that the planner knows it
        "command": wanted.command,
        "labels": orjson.dumps(wanted.labels).decode() if wanted.labels else None,
        "after": wanted.submitted_after,
        "first": first,
        "since": archived_since([first]) if first else None,
        "until": wanted.submitted_before,
        "last": _id_at(wanted.submitted_before, +APART),
        "code": wanted.code,
        "message": wanted.message,
        "died_after": wanted.died_after,
        "limit": limit,
    }
    return fetch_list(tx, Job, statement, parameters)


def _id_at(moment: datetime | None, apart: timedelta) -> UUID | None:
    return first_id_at((moment + apart).timestamp()) if moment else None


@dataclass(frozen=True, slots=True)
class Attempt:
    number: int
    worker_id: UUID
    started_at: datetime
    finished_at: datetime | None
    outcome: str
    error: dict[str, Any] | None
    log: list[Any] | None


ATTEMPTS = """
select number, worker_id, started_at, finished_at, outcome, error, log from haulier.every_attempt
 where job_id = %(id)s and (archived_on is null or archived_on >= %(since)s)
union all
select attempt, worker_id, started_at, null, 'running', null, (select log from haulier.leases where job_id = %(id)s)
  from haulier.jobs where id = %(id)s and state = 'running'
 order by 1
"""


def attempts(tx: Tx, job_id: UUID) -> list[Attempt]:
    """Every attempt, in order; the one that runs now comes last, without an end."""
    return [Attempt(*row) for row in tx.execute(ATTEMPTS, {"id": job_id, "since": archived_since([job_id])})]


@dataclass(frozen=True, slots=True)
class Event:
    seq: int
    at: datetime
    kind: str
    state: str
    attempt: int
    who: str | None
    data: dict[str, Any] | None


TIMELINE = """
select seq, at, kind, state::text, attempt, who, data from haulier.every_event
 where job_id = %s and (archived_on is null or archived_on >= %s)
 order by seq
"""


def timeline(tx: Tx, job_id: UUID) -> list[Event]:
    """Every change of state, gapless: seq runs from 1 to the job's own."""
    return [Event(*row) for row in tx.execute(TIMELINE, (job_id, archived_since([job_id])))]


#: The family of one job: `%(id)s`, which can be archived `%(since)s` that day.
FAMILY_OF: LiteralString = family_from(
    """
    select id, state, archived_on from haulier.every_job
     where id = %(id)s and (archived_on is null or archived_on >= %(since)s)"""
)
FAMILY: LiteralString = FAMILY_OF + "select id from family order by id limit %(limit)s"


def family(tx: Tx, job_id: UUID, tenants: Sequence[int] | None, limit: int = 500) -> list[Job]:
    """The job and all that it and its follow-ups submitted, oldest first."""
    return jobs(tx, [row[0] for row in tx.execute(FAMILY, {"id": job_id, "since": archived_since([job_id]), "limit": limit})], tenants)


DESCENDS = """
with recursive up(id, parent_id, day) as (
    select id, parent_id, archived_on from haulier.every_job where id = %(id)s and (archived_on is null or archived_on >= %(since)s)
    union all
    select above.id, above.parent_id, up.day
      from up
     cross join lateral (
         select live.id, live.parent_id from haulier.jobs live where live.id = up.parent_id
         union all
         select old.id, old.parent_id from haulier.archive old where old.id = up.parent_id and old.archived_on = up.day) above)
select exists(select from up where id = %(head)s)
"""


def descends(tx: Tx, job_id: UUID, head: UUID) -> bool:
    """Whether a job is `head`, or was submitted by it or by one of its follow-ups."""
    row = tx.execute(DESCENDS, {"id": job_id, "since": archived_since([job_id]), "head": head}).fetchone()
    return row is not None and row[0]


def family_state(counts: dict[str, int]) -> str:
    """What a family amounts to: active while any of it is open, else the worst of its ends."""
    if any(state not in FINAL for state in counts):
        return "active"
    return next(state for state in ("dead", "rejected", "cancelled", "succeeded") if state in counts)


def _list(tenants: Sequence[int] | None) -> list[int] | None:
    return None if tenants is None else list(tenants)
