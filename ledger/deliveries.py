"""Deliveries: which webhook is told of which event, read from the ledger's own stream of events, and how that went.

A delivery is carried out by a job (`pipelines.webhooks.deliver`), so that it is durable, retried, and a dead letter in the end.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import orjson
from psycopg import Connection
from psycopg.rows import class_row

from config.ids import uuid7
from ledger import dead_letters, jobs
from ledger.connection import fetch_list, planned_anew, send
from ledger.jobs import Submission

Tx = Connection[Any]

#: Transactions that one step looks at: what happened in about a second of a very busy system.
SPAN = 16_384

CURSOR = """
select c.xact, (select min(since) from haulier.webhooks where enabled), (pg_snapshot_xmin(pg_current_snapshot())::text)::bigint,
       array(select distinct tenant_id from haulier.webhooks where enabled)
  from haulier.webhook_cursor c
"""


@dataclass(frozen=True, slots=True)
class Stretch:
    """The events to look at next: of transactions from `after` up to, not including, `before`; `horizon` is as far as can be seen now."""

    after: int
    before: int
    horizon: int
    tenants: list[int]


def stretch(tx: Tx) -> Stretch | None:
    """What has not been looked at; None while no webhook is enabled: then this is all that a look costs."""
    row = tx.execute(CURSOR).fetchone()
    assert row is not None
    cursor, since, horizon, tenants = row
    if since is None:
        if cursor is not None:
            move_cursor(tx, None)
        return None
    after = since if cursor is None else cursor
    return Stretch(after, min(horizon, after + SPAN), horizon, tenants)


def move_cursor(tx: Tx, xact: int | None) -> None:
    """All events of transactions before this one have been looked at. In the transaction that submits what came of them."""
    tx.execute("update haulier.webhook_cursor set xact = %s", (xact,))


def unseen_from(tx: Tx) -> int | None:
    """Events of this transaction and later ones are still to be looked at, and must stay where they are. None: nobody looks."""
    row = tx.execute(CURSOR).fetchone()
    assert row is not None
    cursor, since, _, _ = row
    return None if since is None else since if cursor is None else cursor


@dataclass(frozen=True, slots=True)
class Ended:
    """A job that came to its end, with the webhooks that want to know."""

    xact: int
    job_id: UUID
    seq: int
    at: datetime
    tenant_id: int
    state: str
    data: dict[str, Any] | None
    root_id: UUID
    command: str
    attempt: int
    labels: dict[str, str] | None
    submitted_at: datetime
    webhooks: list[UUID]


# By the index on transactions, which is only ever read as a bitmap; everything else goes by its key, as it does everywhere in upkeep.
BY_TRANSACTION = b"set local enable_bitmapscan = on; set local enable_indexscan = off; set local enable_indexonlyscan = off"
BY_KEY = b"set local enable_bitmapscan = off; set local enable_indexscan = on; set local enable_indexonlyscan = on"

# An end is an event that leads into a final state: one that tells more of a dead letter (`resolved`) does not.
ENDS = """
select e.xact, e.job_id, e.seq
  from haulier.events e
 where e.xact >= %(after)s and e.xact < %(before)s and e.state >= 'succeeded' and e.tenant_id = any(%(tenants)s)
 order by e.xact, e.job_id, e.seq limit %(limit)s
"""
ENDED = """
with ends as materialized (select * from unnest(%(ids)s::uuid[], %(seqs)s::integer[]) as w(job_id, seq))
select e.xact, e.job_id, e.seq, e.at, e.tenant_id, e.state::text, e.data, j.root_id, j.command, e.attempt, j.labels, j.submitted_at,
       array(select w.id from haulier.webhooks w
              where w.tenant_id = e.tenant_id and w.enabled and w.since <= e.xact
                and ((('job.' || e.state::text) = any(w.events) and (w.commands is null or j.command = any(w.commands)))
                     or w.id = (select c.webhook_id from haulier.callbacks c where c.job_id = e.job_id))
              order by w.id) as webhooks
  from ends w
  join haulier.events e on e.job_id = w.job_id and e.seq = w.seq
  join haulier.jobs j on j.id = e.job_id
 where not (j.command = any(%(own)s))
   and not exists (select from haulier.events p where p.job_id = e.job_id and p.seq = e.seq - 1 and p.state >= 'succeeded')
 order by e.xact, e.job_id, e.seq
"""


def ended(tx: Tx, look: Stretch, own: Sequence[str], limit: int) -> tuple[list[Ended], int]:
    """The jobs that ended in this stretch, about `limit` at most and whole transactions always; and how far that goes.

    `own`: the commands of webhooks themselves, whose ends nobody is told of.
    """
    parameters = {"after": look.after, "before": look.before, "tenants": look.tenants}
    send(tx, BY_TRANSACTION)
    ends = tx.execute(ENDS, {**parameters, "limit": limit + 1}).fetchall()
    before = look.before
    if len(ends) > limit:
        before = ends[-1][0]
        if before == look.after or ends[0][0] == before:  # one transaction alone has more than that
            before = ends[0][0] + 1
            ends = tx.execute(ENDS, {**parameters, "before": before, "limit": None}).fetchall()
        ends = [end for end in ends if end[0] < before]
    send(tx, BY_KEY)
    if not ends:
        return [], before
    with tx.cursor(row_factory=class_row(Ended)) as cursor:
        found = cursor.execute(ENDED, {"ids": [end[1] for end in ends], "seqs": [end[2] for end in ends], "own": list(own)}).fetchall()
    return found, before


@dataclass(frozen=True, slots=True)
class Family:
    """A job and all that came of it, as it stands. `version` grows with every event of any of them."""

    root_id: UUID
    counts: dict[str, int]
    version: int


FAMILIES = """
with recursive family(root, id, state, seq) as (
    select id, id, state, seq from haulier.jobs where id = any(%s)
    union all
    select family.root, child.id, child.state, child.seq from family join haulier.jobs child on child.parent_id = family.id),
counted as (
    select root, state, count(*) as n, sum(seq) as seqs from family group by root, state)
select root as root_id, jsonb_object_agg(state, n) as counts, sum(seqs)::bigint as version from counted group by root
"""


def families(tx: Tx, ids: Sequence[UUID]) -> dict[UUID, Family]:
    """By the job that they begin with."""
    with tx.cursor(row_factory=class_row(Family)) as cursor:
        return {family.root_id: family for family in cursor.execute(FAMILIES, (list(ids),))}


FAMILY_WATCHERS = """
select w.id, w.tenant_id, w.since, w.commands from haulier.webhooks w
 where w.enabled and w.tenant_id = any(%s) and 'family.ended' = any(w.events) order by w.id
"""


@dataclass(frozen=True, slots=True)
class Watcher:
    """A webhook that wants to know when whole families have ended."""

    id: UUID
    tenant_id: int
    since: int
    commands: list[str] | None


def family_watchers(tx: Tx, tenants: Sequence[int]) -> list[Watcher]:
    with tx.cursor(row_factory=class_row(Watcher)) as cursor:
        return cursor.execute(FAMILY_WATCHERS, (list(tenants),)).fetchall()


ROOTS = "select id, command, labels from haulier.jobs where id = any(%s)"


def roots(tx: Tx, ids: Sequence[UUID]) -> dict[UUID, tuple[str, dict[str, str] | None]]:
    """Command and labels of these jobs."""
    return {row[0]: (row[1], row[2]) for row in tx.execute(ROOTS, (list(ids),))}


@dataclass(frozen=True, slots=True)
class Delivery:
    """A message for one webhook. `id` is also the message's own, for the receiver: the same however often it is sent.

    `subject_id`, `subject_seq`: whose event it is, and which; both None for a test.
    """

    id: UUID
    tenant_id: int
    webhook_id: UUID
    job_id: UUID
    event: str
    body: str
    subject_id: UUID | None = None
    subject_seq: int | None = None


ADD = """
insert into haulier.webhook_deliveries (id, tenant_id, webhook_id, event, subject_id, subject_seq, body, job_ids)
select d.id, d.tenant_id, d.webhook_id, d.event, d.subject_id, d.subject_seq, d.body, array[d.job_id]
  from jsonb_to_recordset(%s::jsonb)
    as d(id uuid, tenant_id integer, webhook_id uuid, event text, subject_id uuid, subject_seq bigint, body text, job_id uuid)
 order by d.id
on conflict do nothing
returning id
"""


@dataclass(frozen=True, slots=True)
class Carrier:
    """The command that carries deliveries out, as the table of handlers has it."""

    command: str
    queue: str
    max_failures: int


def submit(tx: Tx, deliveries: Sequence[Delivery], carrier: Carrier) -> set[UUID]:
    """Write them and their jobs. Returns the ids of those that are new: of the others' events their webhook was told before."""
    if not deliveries:
        return set()
    new = {row[0] for row in tx.execute(ADD, (orjson.dumps(list(deliveries)).decode(),))}
    jobs.submit(tx, [_job(each.id, each.job_id, each.tenant_id, carrier) for each in deliveries if each.id in new])
    return new


def _job(delivery_id: UUID, job_id: UUID, tenant_id: int, carrier: Carrier, who: str | None = None) -> Submission:
    return Submission(
        id=job_id,
        tenant_id=tenant_id,
        command=carrier.command,
        queue=carrier.queue,
        payload=orjson.dumps({"delivery_id": delivery_id}),
        max_failures=carrier.max_failures,
        who=who,
    )


@dataclass(frozen=True, slots=True)
class Shown:
    """A delivery as it stands: `state` is pending, delivered, rejected, failed or cancelled; `next_at` when it is tried again."""

    id: UUID
    webhook_id: UUID
    tenant_id: int
    event: str
    subject_id: UUID | None
    job_id: UUID
    job_state: str
    state: str
    reason: str | None
    next_at: datetime | None
    created_at: datetime
    attempts: list[dict[str, Any]]


# How an attempt went is in its record: an error's code and message, and the line that the handler logged, with status and seconds.
STATE = """
case when d.state <> 'pending' then d.state
     when j.state = 'rejected' then 'rejected' when j.state = 'dead' then 'failed' when j.state = 'cancelled' then 'cancelled'
     else 'pending' end
"""
# Its job's id apart, so that it is a plain value where the two are joined: under row-level security an expression that might fail, as a
# subscript might, finds no index (trap 16). The job by itself (limit), so that it is looked up for each delivery of the page: joined, all jobs
# there are would be read for fifty. It was made with the delivery or later, and by our own clocks.
FROM = """
  from haulier.webhook_deliveries d
  cross join lateral (select d.job_ids[cardinality(d.job_ids)] as job_id, (d.created_at - interval '2 days')::date as since offset 0) last
  left join lateral (
      select * from haulier.every_job every
       where every.id = last.job_id and (every.archived_on is null or every.archived_on >= last.since)
       limit 1) j on true
"""
SHOW = f"""
select d.id, d.webhook_id, d.tenant_id, d.event, d.subject_id, last.job_id, j.state::text as job_state,
       {STATE} as state, coalesce(d.reason, case when j.state in ('rejected', 'dead') then j.error->>'code' else j.reason end) as reason,
       case when d.state = 'pending' and j.state in ('scheduled', 'queued') then j.due_at end as next_at, d.created_at,
       coalesce((select jsonb_agg(jsonb_build_object('at', a.started_at, 'outcome', a.outcome, 'log', a.log,
                                                     'code', a.error->'code', 'message', a.error->'message') order by a.started_at)
                   from haulier.every_attempt a
                  where a.job_id = any(d.job_ids) and (a.archived_on is null or a.archived_on >= last.since)), '[]') as attempts
{FROM}
"""
LIST = (
    SHOW
    + f"""
 where d.tenant_id = %(tenant)s and d.webhook_id = %(webhook)s and (%(before)s::uuid is null or d.id < %(before)s)
   and (%(states)s::text[] is null or {STATE} = any(%(states)s))
 order by d.id desc limit %(limit)s
"""
)
FIND = SHOW + " where d.tenant_id = %(tenant)s and d.webhook_id = %(webhook)s and d.id = %(id)s"


def list_deliveries(tx: Tx, tenant_id: int, webhook_id: UUID, states: Sequence[str] | None, before: UUID | None, limit: int) -> list[Shown]:
    """One page, the newest first."""
    wanted = {"tenant": tenant_id, "webhook": webhook_id, "states": list(states) if states else None, "before": before, "limit": limit}
    return fetch_list(tx, Shown, LIST, wanted)


def find(tx: Tx, tenant_id: int, webhook_id: UUID, delivery_id: UUID) -> Shown | None:
    with tx.cursor(row_factory=class_row(Shown)) as cursor:
        return cursor.execute(FIND, {"tenant": tenant_id, "webhook": webhook_id, "id": delivery_id}).fetchone()


RANGE = f"""
select d.id, d.created_at
{FROM}
 where d.tenant_id = %(tenant)s and d.webhook_id = %(webhook)s and d.id >= %(after)s and d.created_at >= %(since)s
   and (%(until)s::timestamptz is null or d.created_at < %(until)s) and {STATE} = any(%(states)s)
 order by d.id limit %(limit)s
"""


def in_range(
    tx: Tx, tenant_id: int, webhook_id: UUID, after: UUID, since: datetime, until: datetime | None, states: Sequence[str], limit: int
) -> tuple[list[UUID], datetime | None]:
    """Deliveries of a stretch of time in these states, the oldest first, and where to go on: about `limit`, and always all that were made at
    one moment, for whoever goes on names a moment. `after`: no id of that time is lower.
    """
    wanted = {
        "tenant": tenant_id, "webhook": webhook_id, "after": after, "since": since, "until": until, "states": list(states), "limit": limit + 1,
    }  # fmt: skip
    with planned_anew(tx):
        found: list[tuple[UUID, datetime]] = tx.execute(RANGE, wanted).fetchall()
        if len(found) <= limit:
            return [delivery_id for delivery_id, _ in found], None
        go_on = found[limit][1]
        page = [delivery_id for delivery_id, made_at in found[:limit] if made_at < go_on]
        if not page:  # one moment alone has more than that
            moment, go_on = go_on, go_on + timedelta(microseconds=1)
            page = [row[0] for row in tx.execute(RANGE, wanted | {"since": moment, "until": go_on, "limit": None})]
        return page, go_on


AGAIN = """
update haulier.webhook_deliveries set job_ids = job_ids || %(job)s::uuid, state = 'pending', reason = null
 where id = %(id)s and job_ids[cardinality(job_ids)] = %(last)s
"""


def deliver_again(tx: Tx, delivery: Shown, carrier: Carrier, who: str) -> bool:
    """Have it delivered once more, from the beginning of the schedule, by a job of its own: a dead letter rises instead.

    False while it is being sent right now, or if somebody else has just done this.
    """
    tenants = [delivery.tenant_id]
    if delivery.job_state == "dead":
        try:
            dead_letters.replay(tx, delivery.job_id, tenants, who, "redelivered")
        except dead_letters.NotDeadError:
            return False
        return True
    if delivery.job_state in {"scheduled", "queued", "waiting"} and not jobs.cancel(tx, delivery.job_id, tenants, who):
        return False
    job_id = uuid7()
    if delivery.job_state == "running" or tx.execute(AGAIN, {"id": delivery.id, "job": job_id, "last": delivery.job_id}).rowcount == 0:
        return False
    jobs.submit(tx, [_job(delivery.id, job_id, delivery.tenant_id, carrier, who)])
    return True


def forget_old(tx: Tx, before: UUID, limit: int = 1000) -> int:
    """Drop deliveries made before the time that this id stands for. Returns how many."""
    return tx.execute(FORGET, (before, limit)).rowcount


FORGET = """
delete from haulier.webhook_deliveries
 where id = any(array(select id from haulier.webhook_deliveries where id < %s order by id limit %s for update skip locked))
"""
