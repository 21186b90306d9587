"""The outbox: what RabbitMQ does not know yet. The relay stages what has become due, claims, and marks; begin deletes the row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from psycopg import Connection

Tx = Connection[Any]
#: What the changes bus is told of a job: its id, its family's root, its tenant.
Changed = tuple[UUID, UUID, int]

# Throughout: `= any(array(…))`, not a join. The planner guesses a tenth of the table for a limit that is a parameter, and would
# read all of it; through the array it goes by the primary key.
STAGE = """
with due as materialized (
    select job_id from haulier.outbox where scheduled and due_at between %s and now() order by due_at limit %s for update skip locked),
staged as (
    update haulier.jobs set state = 'queued', seq = seq + 1
     where id = any(array(select job_id from due)) and state = 'scheduled'
    returning id, root_id, tenant_id, seq, attempt),
ready as (
    update haulier.outbox set scheduled = false where job_id = any(array(select job_id from due))),
told as (
    insert into haulier.events (job_id, seq, tenant_id, kind, state, attempt)
    select id, seq, tenant_id, 'queued', 'queued', attempt from staged)
select id, root_id, tenant_id from staged
"""


def stage(tx: Tx, limit: int, since: datetime | None = None) -> list[Changed]:
    """Queue what has become due (since then). Returns those jobs."""
    return tx.execute(STAGE, (_text(since), limit)).fetchall()


def _text(since: datetime | None) -> str:
    """As Postgres reads it: from the beginning, if there is none."""
    return "-infinity" if since is None else since.isoformat()


EXPIRE = """
with gone as materialized (
    select job_id from haulier.outbox where expires_at <= now() order by expires_at limit %s for update skip locked),
expired as (
    update haulier.jobs
       set state = 'cancelled', reason = 'expired', finished_at = statement_timestamp(), seq = seq + 1
     where id = any(array(select job_id from gone)) and state in ('scheduled', 'queued')
    returning id, root_id, tenant_id, seq, attempt),
taken as (
    delete from haulier.outbox where job_id = any(array(select job_id from gone))),
told as (
    insert into haulier.events (job_id, seq, tenant_id, kind, state, attempt)
    select id, seq, tenant_id, 'expired', 'cancelled', attempt from expired)
select id, root_id, tenant_id from expired
"""


def expire(tx: Tx, limit: int) -> list[Changed]:
    """Cancel what was not begun by its time. Returns those jobs."""
    return tx.execute(EXPIRE, (limit,)).fetchall()


@dataclass(frozen=True, slots=True)
class Claimed:
    """An outbox row that this relay shall announce now."""

    job_id: UUID
    attempt: int
    traceparent: str | None
    solo: bool
    command: str


#: Of the priorities from the first down to the second, what is due since then (None: all of it).
Stretch = tuple[int, int, datetime | None]
EVERYTHING: tuple[Stretch, ...] = ((100, -100, None),)


@dataclass(frozen=True, slots=True)
class Start:
    """Where a claim begins to look (decision 0023). `stuck`: how many were announced before `announced_since` and have not begun."""

    stretches: Sequence[Stretch] = EVERYTHING
    announced_since: datetime | None = None
    stuck: int = 0


@dataclass(frozen=True, slots=True)
class Claim:
    """What was claimed, the most urgent first, and how far this went. `at`: by the database's clock; `is_all`: nothing due was left behind;
    `reached`: by priority, when the last that was claimed was due; `stuck`, `first_announced`: of what was announced since the start and has
    not begun, how many more than five seconds ago, and when the first of the others.
    """

    rows: list[Claimed]
    at: datetime
    is_all: bool
    reached: dict[int, datetime]
    stuck: int
    first_announced: datetime | None


# Only what some live worker knows: a release that nobody runs yet would bounce from worker to worker.
# And only as much as keeps the queue in RabbitMQ shallow: `window` less what is announced and not begun; not before a quarter of it
# is free, or each refill would be a job or two, and so would be the messages and every set behind them.
CLAIM = """
with announced as (
    select announced_at from haulier.outbox
     where queue = %(queue)s and announced_at >= %(announced_since)s::timestamptz order by announced_at limit %(window)s),
counted as (
    select count(*) + %(stuck)s as number, count(*) filter (where announced_at < now() - interval '5 seconds') as stuck,
           min(announced_at) filter (where announced_at >= now() - interval '5 seconds') as first
      from announced),
room as (
    select case when number <= %(window)s * 3 / 4 then least(%(limit)s, %(window)s - number) else 0 end as rows, stuck, first from counted),
next as (
    select due.job_id
      from unnest(%(highs)s::smallint[], %(lows)s::smallint[], %(sinces)s::timestamptz[]) as s(high, low, since)
     cross join lateral (
         select o.job_id from haulier.outbox o
          where o.queue = %(queue)s and o.announced_at is null and not o.scheduled and o.priority between s.low and s.high
            and o.due_at between s.since and now() and o.command = any(%(known)s)
          order by o.priority desc, o.due_at limit (select rows from room) for update skip locked) due
     limit (select rows from room)),
claimed as (
    update haulier.outbox o
       set announced_at = clock_timestamp(), announcements = o.announcements + 1
     where o.job_id = any(array(select job_id from next))
    returning o.job_id, o.attempt, o.traceparent, o.solo, o.command, o.priority, o.due_at)
select now(), room.rows, room.stuck, room.first, claimed.* from room left join claimed on true
"""
START = Start()


def claim(tx: Tx, queue: str, known: Sequence[str], *, window: int, limit: int, start: Start = START) -> Claim:
    """Mark up to `limit` due rows of a queue as announced, the most urgent first, keeping at most `window` announced and not begun."""
    highs, lows, sinces = zip(*start.stretches, strict=True)
    found = tx.execute(
        CLAIM,
        {
            "queue": queue,
            "known": list(known),
            "window": window,
            "limit": limit,
            "highs": list(highs),
            "lows": list(lows),
            "sinces": [_text(since) for since in sinces],
            "announced_since": _text(start.announced_since),
            "stuck": start.stuck,
        },
    ).fetchall()
    at, room, stuck, first_announced = found[0][:4]
    rows = sorted((row[4:] for row in found if row[4] is not None), key=_urgency)
    reached: dict[int, datetime] = {}
    for *_, priority, due_at in rows:
        reached[priority] = max(due_at, reached.get(priority, due_at))
    return Claim([Claimed(*row[:5]) for row in rows], at, len(rows) < room, reached, stuck, first_announced)


def _urgency(row: tuple[UUID, int, str | None, bool, str, int, datetime]) -> tuple[int, UUID]:
    return -row[5], row[0]


UNMARK = "update haulier.outbox set announced_at = null where job_id = any(%s) and announced_at is not null"


def unmark(tx: Tx, ids: Sequence[UUID]) -> int:
    """RabbitMQ did not take these: they are to be announced again, at once. Returns how many are still in the outbox."""
    return tx.execute(UNMARK, (list(ids),)).rowcount


UNMARK_SINCE = "update haulier.outbox set announced_at = null where announced_at >= coalesce(%s::timestamptz, '-infinity')"


def unmark_since(tx: Tx, since: datetime | None) -> int:
    """What was announced since then is announced again, by whomever it was: a message too many finds nothing to begin. Returns how many."""
    return tx.execute(UNMARK_SINCE, (since,)).rowcount


def unmark_all(tx: Tx) -> int:
    """The broker was reset (or never kept anything): everything announced and not begun is announced again."""
    return tx.execute("update haulier.outbox set announced_at = null where announced_at is not null").rowcount


# A relay that dies leaves jobs marked that it may never have published. It says once a second that it lives, later when it waits for
# confirms; what it announced is not much younger than that. Of the rest, what lies in RabbitMQ is announced twice, which finds nothing to begin.
UNMARK_OF_LOST_RELAYS = """
with lost as (
    update haulier.workers set stopped_at = now()
     where kind = 'relay' and stopped_at is null and seen_at < now() - make_interval(secs => %(lease)s)
    returning seen_at)
update haulier.outbox set announced_at = null where announced_at <= (select max(seen_at) from lost) + make_interval(secs => %(lease)s)
"""


def unmark_of_lost_relays(tx: Tx, lease: float) -> int:
    """What relays that were not seen for `lease` seconds had announced is to be announced again. Returns how many jobs."""
    return tx.execute(UNMARK_OF_LOST_RELAYS, {"lease": lease}).rowcount


# Three signs that a message is lost: jobs of its queue announced 10 s after it have begun; its queue was seen empty and it is older than
# 30 s; or ten minutes have passed, doubling with each announcement (invariant 12: announcing again cannot flood).
ANNOUNCE_AGAIN = """
with lost as (
    select job_id from haulier.outbox
     where queue = %(queue)s and announced_at is not null
       and announced_at < greatest(%(begun)s::timestamptz - interval '10 seconds',
                                   case when %(empty)s then now() - interval '30 seconds' end,
                                   now() - interval '10 minutes' * power(2, least(announcements - 1, 10)))
     order by announced_at limit %(limit)s for update skip locked)
update haulier.outbox set announced_at = null where job_id = any(array(select job_id from lost))
"""


def announce_again(tx: Tx, queue: str, *, begun: datetime | None, empty: bool, limit: int = 1000) -> int:
    """Clear the mark of what was announced and seems lost. `begun`: the latest announcement of this queue that is known to have begun;
    `empty`: whether its RabbitMQ queue was seen empty twice. Returns how many rows.
    """
    return tx.execute(ANNOUNCE_AGAIN, {"queue": queue, "begun": begun, "empty": empty, "limit": limit}).rowcount


@dataclass(frozen=True, slots=True)
class Backlog:
    """One queue's waiting work. `oldest` is the age in seconds of the oldest due row that nobody has announced."""

    queue: str
    due: int
    announced: int
    scheduled: int
    oldest: float


BACKLOG = """
select queue, count(*) filter (where announced_at is null and not scheduled), count(*) filter (where announced_at is not null),
       count(*) filter (where scheduled),
       coalesce(extract(epoch from now() - min(due_at) filter (where announced_at is null and not scheduled)), 0)::float8
  from haulier.outbox group by queue order by queue
"""


def backlog(tx: Tx) -> list[Backlog]:
    """What waits, by queue. Reads the whole outbox: for metrics every few seconds, not for the hot path."""
    return [Backlog(*row) for row in tx.execute(BACKLOG)]


# By priority, since that is how the index lies: a look at the first due row of each, not at the whole backlog.
OLDEST = """
with recursive first as (
    (select priority, due_at from haulier.outbox where queue = %(queue)s and announced_at is null and not scheduled
      order by priority desc, due_at limit 1)
    union all
    select next.* from first cross join lateral (
        select o.priority, o.due_at from haulier.outbox o
         where o.queue = %(queue)s and o.announced_at is null and not o.scheduled and o.priority < first.priority
         order by o.priority desc, o.due_at limit 1) next)
select coalesce(extract(epoch from now() - min(due_at)), 0)::float8 from first where due_at <= now()
"""


def oldest(tx: Tx, queue: str) -> float:
    """Relay lag: for how many seconds the oldest due row of a queue has waited to be announced."""
    row = tx.execute(OLDEST, {"queue": queue}).fetchone()
    assert row is not None
    return row[0]
