"""Calls to the outside world, written down before and after: the ledger's half of `run.once` (invariant 10)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from uuid import UUID

from psycopg import Connection

from ledger.attempts import Lease, LeaseLostError

Tx = Connection[Any]


@dataclass(frozen=True, slots=True)
class Call:
    """One step's call in one generation. state: intended (outcome unknown), done (result recorded), refused (nothing happened)."""

    state: str
    result: Any
    honours_key: bool
    attempt: int


FIND = "select state, result, honours_key, attempt from haulier.external_calls where job_id = %s and step = %s and generation = %s"


def find(tx: Tx, job_id: UUID, step: str, generation: int) -> Call | None:
    row = tx.execute(FIND, (job_id, step, generation)).fetchone()
    return Call(*row) if row else None


# The lease's row is locked for the moment of writing, so that a slow worker whose job was taken over cannot declare an intent.
INTEND = """
with held as (
    select id, tenant_id from haulier.jobs
     where id = %(id)s and state = 'running' and attempt = %(attempt)s and worker_id = %(worker)s for key share)
insert into haulier.external_calls as c (job_id, step, generation, tenant_id, attempt, honours_key, state)
select id, %(step)s, %(generation)s, tenant_id, %(attempt)s, %(honours_key)s, 'intended' from held
on conflict (job_id, step, generation) do update set attempt = excluded.attempt, state = 'intended', intended_at = statement_timestamp()
 where c.state <> 'done'
"""


def intend(tx: Tx, lease: Lease, step: str, generation: int, *, honours_key: bool) -> None:
    """Commit the intent to call, before calling. Raises LeaseLostError."""
    written = tx.execute(
        INTEND,
        {
            "id": lease.job_id,
            "attempt": lease.attempt,
            "worker": lease.worker_id,
            "step": step,
            "generation": generation,
            "honours_key": honours_key,
        },
    )
    if written.rowcount != 1:
        raise LeaseLostError(lease.job_id, lease.attempt)


# Not fenced: what happened outside has happened, whoever holds the job by now; but a recorded result is never overwritten.
RECORD = """
update haulier.external_calls set state = %s, result = %s::jsonb, ended_at = statement_timestamp()
 where job_id = %s and step = %s and generation = %s and state <> 'done'
"""


def record(tx: Tx, job_id: UUID, step: str, generation: int, state: str, result: str | None) -> None:
    """Write down how a call ended: `done` with its result (JSON text), or `refused`."""
    tx.execute(RECORD, (state, result, job_id, step, generation))


UNKNOWN = """
select step from haulier.external_calls c join haulier.jobs j on j.id = c.job_id and c.generation = j.generation
 where c.job_id = %s and c.state = 'intended' and not c.honours_key order by step
"""


def unknown(tx: Tx, job_id: UUID) -> list[str]:
    """Steps whose outcome nobody knows and that must not be called again blindly."""
    return [row[0] for row in tx.execute(UNKNOWN, (job_id,))]


REFUSED = """
select exists (select from haulier.external_calls c join haulier.jobs j on j.id = c.job_id and c.generation = j.generation
                where c.job_id = %s and c.state = 'refused')
"""


def was_refused(tx: Tx, job_id: UUID) -> bool:
    """Whether a call of the current generation ended in a definite refusal: only then may a replay use new keys."""
    row = tx.execute(REFUSED, (job_id,)).fetchone()
    assert row is not None
    return row[0]
