"""Final jobs kept in Redis: what can never change any more need not be asked of Postgres again (decision 0019). Without Redis, it is.

Kept is the ledger's row and never an answer: whose it is, what of it this key may see, masking and times to live are decided at each reading.
"""

from __future__ import annotations

import functools
import hashlib
from dataclasses import fields
from datetime import UTC, datetime
from uuid import UUID

import orjson
import redis.asyncio
from pydantic import TypeAdapter, ValidationError

from config.settings import RELEASE
from ledger.reading import Job
from producers.intake import metrics
from producers.intake.auth import Access
from producers.intake.parts import Parts

#: Seconds for which a job is kept at most, and the most bytes that one may have.
KEEP = 3600
MOST_BYTES = 64 << 10
#: Ends that nothing leaves: a dead letter can be replayed.
FOR_EVER = frozenset({"succeeded", "rejected", "cancelled"})

_JOB = TypeAdapter(Job)


async def find(parts: Parts, access: Access, job_id: UUID) -> Job | None:
    """The job, if it is kept and of this caller's own tenant. Platform keys, who name tenants, ask the ledger, and so do watch tokens:
    whether a job is of the family that they may see is a question of its own.
    """
    tenant_id = access.key.tenant_id
    if parts.redis is None or tenant_id is None or access.watches is not None or access.wanted not in {None, access.key.tenant}:
        return None
    name = _name(tenant_id, job_id)

    async def get(client: redis.asyncio.Redis) -> tuple[bytes | str | None]:
        return (await client.get(name),)

    answer = await parts.redis.run(get)
    if answer is None:
        metrics.FINAL_JOBS.labels("away").inc()
        return None
    job = _read(answer[0])
    if job is None or (job.id, job.tenant_id) != (job_id, tenant_id):
        metrics.FINAL_JOBS.labels("miss").inc()
        return None
    metrics.FINAL_JOBS.labels("hit").inc()
    return job


async def keep(parts: Parts, job: Job) -> None:
    """Keep a job that has just been read, if neither it nor its family can ever change: no member is open, and none is dead."""
    if parts.redis is None or job.state not in FOR_EVER or not job.family.keys() <= FOR_EVER:
        return
    seconds = int(_seconds(parts, job))
    value = orjson.dumps(job)
    if seconds < 1 or len(value) > MOST_BYTES:
        return

    async def put(client: redis.asyncio.Redis) -> bool:
        await client.set(_name(job.tenant_id, job.id), value, ex=seconds)
        return True

    await parts.redis.run(put)


def _seconds(parts: Parts, job: Job) -> float:
    """For which it is kept: not beyond its result's time."""
    ends_at = parts.results.ends_at(job.command, job.state, job.finished_at)
    return KEEP if ends_at is None else min(KEEP, (ends_at - datetime.now(UTC)).total_seconds())


def _name(tenant_id: int, job_id: UUID) -> str:
    return f"haulier:job:{_shape()}:{tenant_id}:{job_id.hex}"


@functools.cache
def _shape() -> str:
    """Another release, or another set of fields, reads nothing that this one has written."""
    names = ",".join(field.name for field in fields(Job))
    return hashlib.blake2b(f"{RELEASE} {names}".encode(), digest_size=6).hexdigest()


def _read(value: bytes | str | None) -> Job | None:
    if value is None:
        return None
    try:
        return _JOB.validate_json(value)
    except ValidationError:
        return None
