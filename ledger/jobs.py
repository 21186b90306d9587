"""Submit: write a job, its outbox row and its first event, in one statement for a set of any size; and cancel what is not running.

First step of a job's way: `producers` come here from HTTP, from a caller's own transaction, or from a running handler.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, LiteralString, NamedTuple
from uuid import UUID

import orjson
from psycopg import Connection

from ledger import notices
from ledger.connection import ask
from ledger.reading import archived_since

Tx = Connection[Any]


@dataclass(frozen=True, slots=True)
class Unique:
    """One job at a time has this key (see `ledger.unique`): for `seconds`, math.inf for ever; None until it is final."""

    key: str
    seconds: float | None = None
    on_conflict: Literal["return", "reject", "replace"] = "return"


@dataclass(frozen=True, slots=True)
class Submission:
    """A wish to be written. `payload` is JSON text that its command's schema has accepted; `key` the caller's idempotency key;
    `callback` the webhook to be told when it ends.
    """

    id: UUID
    tenant_id: int
    command: str
    queue: str
    payload: bytes
    max_failures: int
    priority: int = 0
    run_at: datetime | None = None
    delay: float = 0
    expires_at: datetime | None = None
    labels: dict[str, str] | None = None
    parent_id: UUID | None = None
    root_id: UUID | None = None
    key: str | None = None
    fingerprint: bytes = b""
    who: str | None = None
    traceparent: str | None = None
    unique: Unique | None = None
    callback: UUID | None = None


# Rows; what wakes a relay, or null; for a set, how many.
# "(… in …) is true" keeps the planner from making a join of it, which on connections that go by index compares each with each.
_WRITE: LiteralString = """
with wishes as materialized (
    select w.*, coalesce(w.run_at, now() + make_interval(secs => w.delay)) as due_at,
           (coalesce(w.run_at > now(), false) or w.delay > 0) as scheduled
      from jsonb_to_recordset($1::jsonb)
        as w(id uuid, tenant_id integer, root_id uuid, parent_id uuid, command text, queue text, payload jsonb, max_failures smallint,
             priority smallint, run_at timestamptz, delay float8, expires_at timestamptz, labels jsonb, key text, fingerprint text,
             who text, traceparent text, callback uuid)),
named as (
    insert into haulier.idempotency_keys (tenant_id, key, job_id, fingerprint)
    select tenant_id, key, id, decode(fingerprint, 'hex') from wishes where key is not null order by tenant_id, key
    on conflict do nothing
    returning job_id),
accepted as (
    insert into haulier.jobs (id, tenant_id, root_id, parent_id, command, queue, state, priority, max_failures, due_at, expires_at,
                              labels, payload, traceparent)
    select id, tenant_id, coalesce(root_id, id), parent_id, command, queue,
           case when scheduled then 'scheduled' else 'queued' end::haulier.job_state, priority, max_failures, due_at, expires_at,
           labels, payload, traceparent
      from wishes where key is null or id in (select job_id from named)
    on conflict (id) do nothing
    returning id, submitted_at, due_at),
waiting as (
    insert into haulier.outbox (job_id, tenant_id, queue, command, priority, attempt, scheduled, due_at, expires_at, traceparent)
    select w.id, w.tenant_id, w.queue, w.command, w.priority, 1, w.scheduled, w.due_at, w.expires_at, w.traceparent
      from wishes w where (w.id in (select id from accepted)) is true),
told as (
    insert into haulier.events (job_id, seq, tenant_id, kind, state, attempt, who)
    select w.id, 1, w.tenant_id, 'accepted', case when w.scheduled then 'scheduled' else 'queued' end::haulier.job_state, 0, w.who
      from wishes w where (w.id in (select id from accepted)) is true)
"""
_WAKE: LiteralString = """
       (select pg_notify('haulier_relay', (array_agg(id))[1] || ' ' || $2) from haulier.workers
         where $2::text is not null and kind = 'relay' and stopped_at is null and seen_at > now() - interval '10 seconds'
        having bool_and(asleep))
  from accepted
"""
_ANSWER: LiteralString = "select id, submitted_at, due_at," + _WAKE
SUBMIT = _WRITE + _ANSWER
# Few sets have one that wants to be called back; the others shall not pay for it.
SUBMIT_WITH_CALLBACKS = (
    _WRITE
    + """,
called_back as (
    insert into haulier.callbacks (job_id, tenant_id, webhook_id)
    select w.id, w.tenant_id, w.callback
      from wishes w where w.callback is not null and (w.id in (select id from accepted)) is true)
"""
    + _ANSWER
)
# Null for all of them, the usual: a set's rows would cost the client as much as its writing.
SUBMIT_SET = _WRITE + "select case when count(*) < $3::integer then coalesce(array_agg(id), '{}') end," + _WAKE


class Times(NamedTuple):
    """When a job was accepted, and when it may begin."""

    submitted_at: datetime
    due_at: datetime


def submit(tx: Tx, submissions: Sequence[Submission], *, wake: bool = False) -> dict[UUID, Times]:
    """Write all of them. Returns those that are new, by id: the others' idempotency key is taken, or (a COMMIT of unknown outcome
    repeated) the very same id is there already; `find_key` and `exists` tell which. Does not look at `unique`: see `ledger.unique`.

    `wake` notifies a relay with the commit if all of them sleep. Only for a transaction that does nothing else and that few write at a time: those
    which notify commit one after the other. While there is a stream of submissions no relay sleeps, and nobody notifies.
    """
    rows = orjson.dumps([_row(wish) for wish in submissions])
    statement = SUBMIT_WITH_CALLBACKS if any(wish.callback for wish in submissions) else SUBMIT
    found = ask(tx, statement, rows.decode(), _notice(submissions) if wake else None)
    return {row[0]: Times(row[1], row[2]) for row in found}


def submit_set(tx: Tx, submissions: Sequence[Submission], *, wake: bool = False) -> set[UUID]:
    """The same for whoever does not ask for the times of each."""
    if any(wish.callback for wish in submissions):
        return set(submit(tx, submissions, wake=wake))
    rows = orjson.dumps([_row(wish) for wish in submissions])
    [(found, _)] = ask(tx, SUBMIT_SET, rows.decode(), "" if wake else None, len(submissions))
    return {wish.id for wish in submissions} if found is None else set(found)


def _notice(submissions: Sequence[Submission]) -> str:
    """Of a job that comes alone and may begin at once; else nothing."""
    match submissions:
        case [wish] if wish.run_at is None and not wish.delay:
            return notices.write(notices.NewJob(wish.id, wish.queue, wish.command, wish.traceparent))
        case _:
            return ""


def _row(wish: Submission) -> dict[str, Any]:
    called_back = {} if wish.callback is None else {"callback": wish.callback}
    return {
        "id": wish.id,
        "tenant_id": wish.tenant_id,
        "root_id": wish.root_id,
        "parent_id": wish.parent_id,
        "command": wish.command,
        "queue": wish.queue,
        "payload": orjson.Fragment(wish.payload),
        "max_failures": wish.max_failures,
        "priority": wish.priority,
        "run_at": wish.run_at,
        "delay": wish.delay,
        "expires_at": wish.expires_at,
        "labels": wish.labels,
        "key": wish.key,
        "fingerprint": wish.fingerprint.hex(),
        "who": wish.who,
        "traceparent": wish.traceparent,
        **called_back,
    }


FIND_KEY = "select job_id, fingerprint from haulier.idempotency_keys where tenant_id = %s and key = %s"


def find_key(tx: Tx, tenant_id: int, key: str) -> tuple[UUID, bytes] | None:
    """The job that an idempotency key names, and the fingerprint of the request that named it."""
    return tx.execute(FIND_KEY, (tenant_id, key)).fetchone()


FIND_KEYS = """
select k.tenant_id, k.key, k.job_id, k.fingerprint
  from unnest(%s::integer[], %s::text[]) as w(tenant_id, key) join haulier.idempotency_keys k using (tenant_id, key)
"""


def find_keys(tx: Tx, names: Sequence[tuple[int, str]]) -> dict[tuple[int, str], tuple[UUID, bytes]]:
    """The same for many keys, each with its tenant."""
    rows = tx.execute(FIND_KEYS, ([tenant for tenant, _ in names], [key for _, key in names]))
    return {(row[0], row[1]): (row[2], row[3]) for row in rows}


EXISTS = "select id from haulier.every_job where id = any(%s) and (archived_on is null or archived_on >= %s)"


def exists(tx: Tx, ids: Sequence[UUID]) -> set[UUID]:
    return {row[0] for row in tx.execute(EXISTS, (list(ids), archived_since(ids)))}


CANCEL = """
with cancelled as (
    update haulier.jobs
       set state = 'cancelled', reason = 'requested', cancel_requested_at = now(), finished_at = statement_timestamp(), seq = seq + 1
     where id = %(id)s and tenant_id = any(%(tenants)s) and state in ('scheduled', 'waiting', 'queued')
    returning id, tenant_id, seq, attempt),
taken as (
    delete from haulier.outbox using cancelled where job_id = id),
told as (
    insert into haulier.events (job_id, seq, tenant_id, kind, state, attempt, who)
    select id, seq, tenant_id, 'cancelled', 'cancelled', attempt, %(who)s from cancelled)
select true from cancelled
"""

REQUEST_CANCEL = """
with asked as (
    update haulier.jobs set cancel_requested_at = now(), seq = seq + 1
     where id = %(id)s and tenant_id = any(%(tenants)s) and state = 'running' and cancel_requested_at is null
    returning id, tenant_id, seq, attempt),
told as (
    insert into haulier.events (job_id, seq, tenant_id, kind, state, attempt, who)
    select id, seq, tenant_id, 'cancel_requested', 'running', attempt, %(who)s from asked)
select true from asked
"""


def cancel(tx: Tx, job_id: UUID, tenants: Sequence[int], who: str) -> bool:
    """Cancel what has not begun, at once. False if it is running, final, or not there."""
    return tx.execute(CANCEL, {"id": job_id, "tenants": list(tenants), "who": who}).fetchone() is not None


def request_cancel(tx: Tx, job_id: UUID, tenants: Sequence[int], who: str) -> bool:
    """Ask a running job to stop: its handler sees it, and no further attempt follows. False if it is not running or was asked before."""
    return tx.execute(REQUEST_CANCEL, {"id": job_id, "tenants": list(tenants), "who": who}).fetchone() is not None
