"""Hints for whoever waits for a job that a caller's own transaction has replaced: kept until the caller has committed, and calls `wake`."""

from __future__ import annotations

import atexit
from collections import deque
from functools import cache
from typing import Any
from uuid import UUID
from weakref import WeakKeyDictionary

import psycopg

from config import changes
from config.changes import Changes
from config.settings import Settings

#: Jobs that a connection is kept for; of those before them, whoever waits finds out by looking, a moment later.
MOST = 1000

_kept: WeakKeyDictionary[psycopg.Connection[Any], deque[tuple[UUID, int]]] = WeakKeyDictionary()


def keep(tx: psycopg.Connection[Any], job_id: UUID, tenant_id: int) -> None:
    """This transaction, if it is committed, changes this job, the first of its family."""
    _kept.setdefault(tx, deque(maxlen=MOST)).append((job_id, tenant_id))


def tell(tx: psycopg.Connection[Any]) -> None:
    """Its transactions have ended. Of what was rolled back it is told for nothing, and no harm is done."""
    kept = _kept.pop(tx, None)
    bus = _bus() if kept else None
    if bus is not None:
        for job_id, tenant_id in kept or ():
            bus.tell(job_id, job_id, tenant_id)


@cache
def _bus() -> Changes | None:
    """The process's, where Redis is configured: else nobody would hear it."""
    url = Settings().redis_url  # pyright: ignore[reportCallIssue]
    if url is None:
        return None
    bus = changes.connect(url)
    atexit.register(bus.close)
    return bus
