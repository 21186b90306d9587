"""Take jobs back from workers that are gone: at once by the runner that saw its process die, or by upkeep when a heartbeat stopped."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any
from uuid import UUID

import structlog
from psycopg import Connection

from config.changes import Teller
from ledger import attempts, workers
from ledger.workers import Lapsed
from pipelines.command import Handler, Retry
from workers import metrics, outcome
from workers.slots import ANY

log = structlog.get_logger()

#: For a command that this release does not know any more.
UNKNOWN = Retry()


def take_back(tx: Connection[Any], lapsed: Sequence[Lapsed], handlers: Mapping[str, Handler], innocent: Collection[UUID] = ()) -> int:
    """Queue (or fail) these jobs, fenced by their lease. `innocent`: known not to have started. Returns how many were written."""
    ends = [
        outcome.lapse(job, handlers[job.command].retry if job.command in handlers else UNKNOWN, guilty=job.job_id not in innocent)
        for job in lapsed
    ]
    written = attempts.settle(tx, ends)
    metrics.RESCUED.inc(len(written))
    if written:
        log.warning("jobs taken back", jobs=len(written), first=str(next(iter(written))))
    return len(written)


def recover(tx: Connection[Any], worker_id: UUID, suspects: set[UUID], handlers: Mapping[str, Handler]) -> list[Lapsed]:
    """After the death of a worker process that its runner saw: what its threads were running is suspect, the rest innocent. So is what ran
    alone, in a process of its own. Returns what it held.
    """
    held = workers.held_by(tx, worker_id)
    workers.stop(tx, worker_id)
    innocent = {job.job_id for job in held if job.solo or ANY not in suspects}
    take_back(tx, held, handlers, innocent=innocent - suspects)
    return held


def tell(changes: Teller, jobs: Sequence[Lapsed]) -> None:
    """After the commit."""
    for job in jobs:
        changes.tell(job.job_id, job.root_id, job.tenant_id)
