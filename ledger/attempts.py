"""Begin and settle: an attempt's lease is taken before its command runs, and its end is written only if the lease still holds.

Every write on behalf of an attempt says `state = 'running' and attempt = … and worker_id = …`. What is not returned was lost:
another attempt has the job, or somebody settled it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, LiteralString, NamedTuple
from uuid import UUID

import orjson
import psycopg
from psycopg import Connection
from psycopg.pq import Escaping

from ledger.connection import JsonText, ask, opening, send

Tx = Connection[Any]


class LeaseLostError(Exception):
    """Another attempt holds the job, or it was settled by somebody else: whatever this attempt wrote must be rolled back."""

    def __init__(self, job_id: UUID, attempt: int) -> None:
        super().__init__(f"attempt {attempt} no longer holds job {job_id}; its result is dropped")


class Lease(NamedTuple):
    """An attempt's right to run a job."""

    job_id: UUID
    attempt: int
    worker_id: UUID


class Begun(NamedTuple):
    """A job whose lease has been taken. `payload` is JSON text."""

    job_id: UUID
    attempt: int
    command: str
    payload: str
    tenant_id: int
    root_id: UUID
    failures: int
    max_failures: int
    generation: int
    priority: int
    solo: bool
    traceparent: str | None


# Throughout, `= any(…)` and no join, or beside it: a plan that was made while the tables were tiny and that is kept joins them by reading an index
# from end to end, and by comparing each of a set with each. So what belongs to one job of a set is looked up by its id in a JSON object (decision
# 0026). Rows are locked in the index's order: two that share jobs do not wait for each other.
# Ids; attempts by id; timeouts by command; the worker.
BEGIN = """
with begun as (
    update haulier.jobs j
       set state = 'running', attempt = j.attempt + 1, worker_id = $4::uuid, started_at = statement_timestamp(), progress = null,
           seq = j.seq + 1
     where j.id = any($1::uuid[]) and j.state = 'queued' and j.attempt + 1 = ($2::jsonb ->> j.id::text)::integer
       and $3::jsonb ? j.command
       and (j.expires_at is null or j.expires_at > now())
    returning j.id, j.attempt, j.command, j.payload::text, j.tenant_id, j.root_id, j.failures, j.max_failures, j.generation, j.priority,
              j.solo, j.traceparent, j.seq, j.queue),
taken as (
    delete from haulier.outbox where job_id = any(array(select id from begun)) returning announced_at),
leased as (
    insert into haulier.leases (job_id, tenant_id, queue, attempt, worker_id, deadline_at)
    select id, tenant_id, queue, attempt, $4,
           now() + make_interval(secs => sum(($3::jsonb ->> command)::float8) over ())
      from begun),
told as (
    insert into haulier.events (job_id, seq, tenant_id, kind, state, attempt)
    select id, seq, tenant_id, 'started', 'running', attempt from begun)
select id, attempt, command, payload, tenant_id, root_id, failures, max_failures, generation, priority, solo, traceparent,
       (select extract(epoch from max(announced_at))::float8 from taken)
  from begun
"""


def begin(tx: Tx, worker_id: UUID, expected: Sequence[tuple[UUID, int]], timeouts: Mapping[str, float]) -> tuple[list[Begun], float | None]:
    """Take the leases of those that are queued, expected at this very attempt, and known here (`timeouts`: seconds by command).

    Returns them and the latest time (Unix seconds) at which one of them was announced.
    """
    if not expected:
        return [], None
    rows = ask(tx, BEGIN, _array(job_id for job_id, _ in expected), _by_id(expected), orjson.dumps(timeouts).decode(), worker_id)
    return [Begun._make(row[:12]) for row in rows], rows[0][12] if rows else None


def _array(ids: Iterable[UUID]) -> str:
    """An array as Postgres reads it; the driver's own way costs a Python call for each value."""
    return "{" + ",".join([job_id.hex for job_id in ids]) + "}"


def _by_id(facts: Iterable[tuple[UUID, Any]]) -> str:
    """A JSON object."""
    return orjson.dumps(dict(facts), option=orjson.OPT_NON_STR_KEYS).decode()


HELD = """
select j.id, j.attempt, j.command, j.payload, j.tenant_id, j.root_id, j.failures, j.max_failures, j.generation, j.priority, j.solo,
       j.traceparent
  from unnest(%(ids)s::uuid[], %(attempts)s::integer[]) as w(id, attempt)
  join haulier.jobs j on j.id = w.id and j.state = 'running' and j.attempt = w.attempt and j.worker_id = %(worker)s
 where j.id = any(%(ids)s::uuid[])
"""


def held(tx: Tx, worker_id: UUID, expected: Sequence[tuple[UUID, int]]) -> list[Begun]:
    """Those of these attempts that this worker holds: for a process that is handed one already begun, and after a begin whose
    commit had an unknown outcome.
    """
    with tx.cursor() as cursor:
        cursor.adapters.register_loader("jsonb", JsonText)
        rows = cursor.execute(HELD, {"ids": [e[0] for e in expected], "attempts": [e[1] for e in expected], "worker": worker_id})
        return [Begun._make(row) for row in rows]


DECLINE = """
update haulier.outbox set announced_at = null, due_at = now() + interval '2 seconds'
 where job_id = any(%s) and announced_at is not null and not (command = any(%s))
"""


def decline(tx: Tx, ids: Sequence[UUID], commands: Sequence[str]) -> int:
    """Of what could not be begun, let the relay announce again (to a worker that knows it) what is unknown here. Returns how many;
    the rest were duplicates, or have expired, which upkeep sees to.
    """
    return tx.execute(DECLINE, (list(ids), list(commands))).rowcount


# The function is in migrations/0005_roles.sql. It raises for a lost lease, so that the commit sent along with it cannot happen.
COMPLETE = b"select haulier.complete('%s', %d, '%s', %s, %s); %s"

LEASE_LOST = "LL001"

# Ids; attempts, results and logs by id; the worker. Null for all of them, the usual: a row for each would cost the client as much as its writing.
COMPLETE_MANY = """
with settled as (
    update haulier.jobs j
       set state = 'succeeded', result = $3::jsonb -> j.id::text, finished_at = clock_timestamp(), worker_id = null, seq = j.seq + 1
     where j.id = any($1::uuid[]) and j.state = 'running' and j.attempt = ($2::jsonb ->> j.id::text)::integer
       and j.worker_id = $5::uuid
    returning j.id, j.tenant_id, j.seq, j.attempt, j.started_at, j.finished_at),
released as (
    delete from haulier.leases where job_id = any(array(select id from settled))),
recorded as (
    insert into haulier.attempts (job_id, number, tenant_id, worker_id, started_at, finished_at, outcome, log)
    select id, attempt, tenant_id, $5, started_at, finished_at, 'succeeded', $4::jsonb -> id::text from settled),
told as (
    insert into haulier.events (job_id, seq, tenant_id, kind, state, attempt)
    select id, seq, tenant_id, 'succeeded', 'succeeded', attempt from settled)
select case when count(*) < cardinality($1::uuid[]) then coalesce(array_agg(id), '{}') end from settled
"""


def complete(tx: Tx, lease: Lease, result: str | None, log: str | None = None, *, chain: int | None = None) -> None:
    """Write one success and commit the transaction that holds its effects, in one round trip. Result and log are JSON text.
    `chain` opens the next transaction with it, for the tenant of that number. Raises LeaseLostError: nothing is committed, and the
    caller rolls back.

    A statement of its own: for one job it costs two thirds of the one for sets.
    """
    job, worker = lease.job_id.hex.encode(), lease.worker_id.hex.encode()
    ends = COMPLETE % (job, lease.attempt, worker, _literal(tx, result), _literal(tx, log), _closing(chain))
    _commit(tx, ends, lease.job_id, lease.attempt)


def _literal(tx: Tx, text: str | None) -> bytes:
    return b"null" if text is None else Escaping(tx.pgconn).escape_literal(text.encode())


COMPLETE_TOGETHER = b"select haulier.complete_together('%s', %s); %s"


def complete_together(tx: Tx, worker_id: UUID, successes: Sequence[Success], *, chain: int | None = None) -> None:
    """The same for jobs whose effects are in one transaction: all of them, or none. Raises LeaseLostError if one is no longer held."""
    ends = [
        {"id": end.job_id, "attempt": end.attempt, "result": _fragment(end.result), "log": _fragment(end.log)}
        for end in sorted(successes, key=lambda success: success.job_id)
    ]
    text = _literal(tx, orjson.dumps(ends).decode())
    _commit(tx, COMPLETE_TOGETHER % (worker_id.hex.encode(), text, _closing(chain)), successes[0].job_id, successes[0].attempt)


def _fragment(text: str | None) -> orjson.Fragment | None:
    return None if text is None else orjson.Fragment(text)


def _closing(chain: int | None) -> bytes:
    return b"commit" if chain is None else b"commit; " + opening(chain)


def _commit(tx: Tx, commands: bytes, job_id: UUID, attempt: int) -> None:
    try:
        send(tx, commands)
    except psycopg.DatabaseError as error:
        if error.sqlstate == LEASE_LOST:
            raise LeaseLostError(job_id, attempt) from None
        raise


class Success(NamedTuple):
    """A success to be written: result and log are JSON text."""

    job_id: UUID
    attempt: int
    result: str | None = None
    log: str | None = None


def complete_many(tx: Tx, worker_id: UUID, successes: Sequence[Success]) -> set[UUID]:
    """Write a set of successes. Returns the jobs that were still held; the others' results are dropped."""
    ids = [success.job_id for success in successes]
    [(found,)] = ask(
        tx,
        COMPLETE_MANY,
        _array(ids),
        _by_id((success.job_id, success.attempt) for success in successes),
        _by_id((success.job_id, _fragment(success.result)) for success in successes if success.result is not None),
        _by_id((success.job_id, _fragment(success.log)) for success in successes if success.log is not None),
        worker_id,
    )
    return set(ids if found is None else found)


@dataclass(frozen=True, slots=True)
class End:
    """How an attempt ended, other than by success. `state` is where the job goes, `kind` the event's name.

    blame: whether it counts as a failure; wait: seconds until the next attempt (states scheduled and queued).
    error: JSON text with code, type, message, traceback. A job whose cancellation was asked for goes to `cancelled` instead of on.
    """

    job_id: UUID
    attempt: int
    worker_id: UUID
    state: str
    kind: str
    reason: str | None = None
    blame: bool = False
    wait: float = 0
    solo: bool = False
    error: str | None = None
    log: str | None = None


#: Written together: the job's new state, the lease given back, the attempt's record, the event, the way on (outbox), the dead
#: letter, and the follow-up that the command names for this end, with its own outbox row and event.
SETTLE = """
with ends as materialized (
    select e.*, e.state in ('scheduled', 'queued') as goes_on from jsonb_to_recordset(%s::jsonb)
        as e(job_id uuid, attempt integer, worker_id uuid, state text, kind text, reason text, blame boolean, wait float8, solo boolean,
             error jsonb, log jsonb)),
settled as (
    update haulier.jobs j
       set state = case when e.goes_on and j.cancel_requested_at is not null then 'cancelled' else e.state end::haulier.job_state,
           reason = case when e.goes_on and j.cancel_requested_at is not null then 'requested' else e.reason end,
           finished_at = case when not e.goes_on or j.cancel_requested_at is not null then clock_timestamp() end,
           failures = j.failures + e.blame::integer,
           due_at = case when e.goes_on then now() + make_interval(secs => e.wait) else j.due_at end,
           error = case when e.error is null then j.error
                        else jsonb_build_object('code', e.error->'code', 'message', e.error->'message', 'attempt', j.attempt) end,
           solo = e.solo, worker_id = null, seq = j.seq + 1
      from ends e
     where j.id = any(array(select job_id from ends)) and j.id = e.job_id and j.state = 'running' and j.attempt = e.attempt and j.worker_id = e.worker_id
    returning j.id, j.tenant_id, j.root_id, j.command, j.queue, j.priority, j.state, j.reason, j.seq, j.attempt, j.solo, j.started_at,
              j.due_at, j.expires_at, j.payload, j.traceparent, e.worker_id, e.kind, e.error, e.log, e.wait),
released as (
    delete from haulier.leases where job_id = any(array(select id from settled)) returning job_id, log),
recorded as (
    insert into haulier.attempts (job_id, number, tenant_id, worker_id, started_at, finished_at, outcome, error, log)
    select s.id, s.attempt, s.tenant_id, s.worker_id, s.started_at, clock_timestamp(), s.kind, s.error, coalesce(s.log, r.log)
      from settled s left join released r on r.job_id = s.id),
told as (
    insert into haulier.events (job_id, seq, tenant_id, kind, state, attempt, data)
    select id, seq, tenant_id, case when state = 'cancelled' then 'cancelled' else kind end, state, attempt,
           case when reason is not null or error is not null
                then jsonb_strip_nulls(jsonb_build_object('reason', reason, 'code', error->'code', 'message', error->'message')) end
      from settled),
again as (
    insert into haulier.outbox (job_id, tenant_id, queue, command, priority, attempt, solo, scheduled, due_at, expires_at, traceparent)
    select id, tenant_id, queue, command, priority, attempt + 1, solo, state = 'scheduled', due_at, expires_at, traceparent
      from settled where state in ('scheduled', 'queued')),
buried as (
    insert into haulier.dead_letters (job_id, tenant_id, command, reason, code, message)
    select id, tenant_id, command, reason, error->>'code', error->>'message' from settled where state = 'dead'),
followed as (
    insert into haulier.jobs (id, tenant_id, root_id, parent_id, command, queue, state, priority, max_failures, due_at, payload, traceparent)
    select haulier.uuid7(), s.tenant_id, s.root_id, s.id, f.name, f.queue, 'queued', s.priority, f.max_failures, now(),
           coalesce((select jsonb_object_agg(p.key, p.value) from jsonb_each(s.payload) p where p.key = any(f.fields)), '{}'), s.traceparent
      from settled s
      join haulier.commands c on c.name = s.command
      join haulier.commands f on f.name = case s.state when 'rejected' then c.on_rejected when 'dead' then c.on_dead end
    returning id, tenant_id, queue, command, priority, due_at, traceparent),
followed_waits as (
    insert into haulier.outbox (job_id, tenant_id, queue, command, priority, attempt, due_at, traceparent)
    select id, tenant_id, queue, command, priority, 1, due_at, traceparent from followed),
followed_told as (
    insert into haulier.events (job_id, seq, tenant_id, kind, state, attempt)
    select id, 1, tenant_id, 'accepted', 'queued', 0 from followed)
select id, state from settled
"""


def settle(tx: Tx, ends: Sequence[End]) -> dict[UUID, str]:
    """Write the ends of a set. Returns, by job, the state it went to; what is missing was no longer held, and nothing was written."""
    if not ends:
        return {}
    rows = orjson.dumps([_row(end) for end in sorted(ends, key=lambda end: end.job_id)])
    return {row[0]: row[1] for row in tx.execute(SETTLE, (rows.decode(),))}


def _row(end: End) -> dict[str, Any]:
    return {
        "job_id": end.job_id,
        "attempt": end.attempt,
        "worker_id": end.worker_id,
        "state": end.state,
        "kind": end.kind,
        "reason": end.reason,
        "blame": end.blame,
        "wait": end.wait,
        "solo": end.solo,
        "error": _fragment(end.error),
        "log": _fragment(end.log),
    }


_HELD: LiteralString = "where id = %(id)s and state = 'running' and attempt = %(attempt)s and worker_id = %(worker)s"

PROGRESS: LiteralString = "update haulier.jobs set progress = %(value)s::jsonb, seq = seq " + _HELD
LINES: LiteralString = (
    "update haulier.leases set log = %(value)s::jsonb where job_id = %(id)s and attempt = %(attempt)s and worker_id = %(worker)s"
)
CHECKPOINT: LiteralString = "update haulier.jobs set checkpoint = %(value)s::jsonb " + _HELD


def keep_progress(tx: Tx, lease: Lease, value: str) -> None:
    """Show a running attempt's progress. Raises LeaseLostError."""
    _keep(tx, PROGRESS, lease, value)


def keep_lines(tx: Tx, lease: Lease, value: str) -> None:
    """Show a running attempt's log lines, and have them if its process dies. Raises LeaseLostError."""
    _keep(tx, LINES, lease, value)


def keep_checkpoint(tx: Tx, lease: Lease, value: str) -> None:
    """Keep a value for the next attempt. Raises LeaseLostError."""
    _keep(tx, CHECKPOINT, lease, value)


def _keep(tx: Tx, statement: LiteralString, lease: Lease, value: str) -> None:
    held = tx.execute(statement, {"id": lease.job_id, "attempt": lease.attempt, "worker": lease.worker_id, "value": value})
    if held.rowcount != 1:
        raise LeaseLostError(lease.job_id, lease.attempt)


def restored(tx: Tx, job_id: UUID) -> Any:
    """The checkpoint that an earlier attempt kept, or None."""
    row = tx.execute("select checkpoint from haulier.jobs where id = %s", (job_id,)).fetchone()
    return row[0] if row else None
