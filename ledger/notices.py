"""What wakes a relay that sleeps: a notification that names it, and a lone new job, so that this job can be announced before it is claimed."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

CHANNEL = "haulier_relay"


@dataclass(frozen=True, slots=True)
class NewJob:
    """Enough to announce its first attempt."""

    job_id: UUID
    queue: str
    command: str
    traceparent: str | None


def write(job: NewJob) -> str:
    """What follows the relay's id. No part has a space in it."""
    return f"{job.job_id} {job.queue} {job.command} {job.traceparent or ''}"


def read(payload: str) -> tuple[UUID | None, NewJob | None]:
    """The relay that is meant, None if it is all of them; and the job, if there is one.

    Whoever may connect may notify, so what cannot be read wakes all and names nothing.
    """
    relay, _, rest = payload.partition(" ")
    try:
        meant = UUID(relay)
        if not rest:
            return meant, None
        job_id, queue, command, traceparent = rest.split(" ")
        return meant, NewJob(UUID(job_id), queue, command, traceparent or None)
    except ValueError:
        return None, None
