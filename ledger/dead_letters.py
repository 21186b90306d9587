"""Dead letters: jobs that need a person. Listed, replayed (same job, history kept), or resolved when a call's outcome was unknown."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from psycopg import Connection

from ledger import calls, unique

Tx = Connection[Any]


class NotDeadError(Exception):
    """The job is not dead; nothing changed."""


class OutcomeUnknownError(Exception):
    """A call to the outside may or may not have happened: resolve it first; nothing changed."""

    def __init__(self, steps: Sequence[str]) -> None:
        super().__init__(f"the outcome of {', '.join(steps)} is unknown; resolve it before the job can run again")
        self.steps = list(steps)


# The generation rises (and with it the keys of run.once) only after a recorded refusal: else a rerun must meet its own earlier call.
REPLAY = """
with replayed as (
    update haulier.jobs j
       set state = 'queued', reason = null, failures = 0, finished_at = null, due_at = now(), expires_at = null, solo = false,
           cancel_requested_at = null,
           original_payload = case when %(payload)s::jsonb is null then original_payload else coalesce(original_payload, payload) end,
           payload = coalesce(%(payload)s::jsonb, payload), generation = generation + %(new_keys)s::integer, seq = seq + 1
     where id = %(id)s and tenant_id = any(%(tenants)s) and state = 'dead'
    returning id, tenant_id, queue, command, priority, attempt, seq, due_at, traceparent),
carried as (
    insert into haulier.external_calls (job_id, step, generation, tenant_id, attempt, honours_key, state, result, intended_at, ended_at)
    select c.job_id, c.step, c.generation + 1, c.tenant_id, c.attempt, c.honours_key, c.state, c.result, c.intended_at, c.ended_at
      from haulier.external_calls c join haulier.jobs j on j.id = c.job_id and c.generation = j.generation, replayed r
     where c.job_id = r.id and c.state = 'done' and %(new_keys)s),
risen as (
    delete from haulier.dead_letters d using replayed r where d.job_id = r.id),
waiting as (
    insert into haulier.outbox (job_id, tenant_id, queue, command, priority, attempt, due_at, traceparent)
    select id, tenant_id, queue, command, priority, attempt + 1, due_at, traceparent from replayed),
told as (
    insert into haulier.events (job_id, seq, tenant_id, kind, state, attempt, who, data)
    select id, seq, tenant_id, 'replayed', 'queued', attempt, %(who)s,
           jsonb_strip_nulls(jsonb_build_object('reason', %(reason)s::text, 'edited', nullif(%(payload)s::jsonb is not null, false)))
      from replayed)
select true from replayed
"""


def replay(tx: Tx, job_id: UUID, tenants: Sequence[int], who: str, reason: str | None, payload: str | None = None) -> None:
    """Queue a dead letter again, with an edited payload (JSON text) if given; the original is kept.

    Raises NotDeadError, OutcomeUnknownError while a call's outcome is unknown, or unique.HeldError while another job has its unique key.
    Takes an open transaction.
    """
    steps = calls.unknown(tx, job_id)
    if steps:
        raise OutcomeUnknownError(steps)
    unique.reclaim(tx, job_id, tenants)
    new_keys = calls.was_refused(tx, job_id)
    found = tx.execute(
        REPLAY, {"id": job_id, "tenants": list(tenants), "who": who, "reason": reason, "payload": payload, "new_keys": new_keys}
    )
    if found.fetchone() is None:
        raise NotDeadError(f"job {job_id} is not dead; nothing changed")


RESOLVE = """
with resolved as (
    update haulier.external_calls c
       set state = case when %(happened)s then 'done' else 'refused' end, result = %(result)s::jsonb, ended_at = statement_timestamp()
      from haulier.jobs j
     where c.job_id = %(id)s and c.step = %(step)s and c.state = 'intended'
       and j.id = c.job_id and j.generation = c.generation and j.state = 'dead' and j.tenant_id = any(%(tenants)s)
    returning j.id, j.tenant_id, j.attempt),
counted as (
    update haulier.jobs j set seq = j.seq + 1 from resolved r where j.id = r.id returning j.id, j.tenant_id, j.seq, j.attempt),
told as (
    insert into haulier.events (job_id, seq, tenant_id, kind, state, attempt, who, data)
    select id, seq, tenant_id, 'resolved', 'dead', attempt, %(who)s,
           jsonb_build_object('step', %(step)s::text, 'happened', %(happened)s, 'reason', %(reason)s::text) from counted)
select true from counted
"""


def resolve(tx: Tx, job_id: UUID, tenants: Sequence[int], who: str, step: str, *, happened: bool, result: str | None, reason: str) -> bool:
    """A person found out how a call of unknown outcome ended. False if that job has no such call. The caller then replays."""
    found = tx.execute(
        RESOLVE,
        {"id": job_id, "tenants": list(tenants), "who": who, "step": step, "happened": happened, "result": result, "reason": reason},
    )
    return found.fetchone() is not None
