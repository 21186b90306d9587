"""Batches: what was submitted together, found again by its id or its idempotency key. A row for each set of items is its identity and its progress."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from psycopg import Connection

Tx = Connection[Any]


class BatchReusedError(Exception):
    """The batch's idempotency key names another body; nothing of this set is written."""


@dataclass(frozen=True, slots=True)
class Batch:
    """A batch that is being submitted. `id` is its own unless the key names one that is there already."""

    tenant_id: int
    id: UUID
    key: str | None
    atomic: bool
    who: str | None


@dataclass(frozen=True, slots=True)
class Known:
    """A batch that is there already: how many items it has (None until its body was read to the end), and for its sets, by their start, how
    many items and how many jobs.
    """

    id: UUID
    atomic: bool
    items: int | None
    sets: Mapping[int, tuple[int, int]] = field(default_factory=dict[int, tuple[int, int]])


FIND = "select id, atomic, items from haulier.batches where tenant_id = %s and key = %s"
SETS = """
select start, cardinality(ids), cardinality(array_remove(ids, null)) from haulier.batch_sets where tenant_id = %s and batch_id = %s
"""


def find(tx: Tx, tenant_id: int, key: str) -> Known | None:
    """The batch that an idempotency key names."""
    row = tx.execute(FIND, (tenant_id, key)).fetchone()
    if row is None:
        return None
    return Known(row[0], row[1], row[2], {start: (items, jobs) for start, items, jobs in tx.execute(SETS, (tenant_id, row[0]))})


OPEN = """
insert into haulier.batches (tenant_id, id, key, atomic, who) values (%s, %s, %s, %s, %s) on conflict (tenant_id, id) do nothing
"""
OPEN_NAMED = """
insert into haulier.batches as b (tenant_id, id, key, atomic, who) values (%s, %s, %s, %s, %s)
on conflict (tenant_id, key) do update set key = b.key
returning id, atomic
"""


def open_batch(tx: Tx, batch: Batch) -> UUID:
    """See to it that the batch is there. Returns its id, which is another one if its key names one. Raises BatchReusedError."""
    values = (batch.tenant_id, batch.id, batch.key, batch.atomic, batch.who)
    if batch.key is None:
        tx.execute(OPEN, values)
        return batch.id
    row = tx.execute(OPEN_NAMED, values).fetchone()
    assert row is not None
    if row[1] != batch.atomic:
        raise BatchReusedError
    return row[0]


ADD_SET = """
insert into haulier.batch_sets (tenant_id, batch_id, start, digest, ids) values (%s, %s, %s, %s, array_fill(null::uuid, array[%s::integer]))
on conflict do nothing
returning true
"""
LOCK_SET = "select digest, ids from haulier.batch_sets where tenant_id = %s and batch_id = %s and start = %s for update"


def lock_set(tx: Tx, batch: Batch, start: int, items: int, digest: bytes) -> list[UUID | None]:
    """Take the set that begins at this item: only one transaction at a time writes it. Returns the jobs it has already.

    Raises BatchReusedError if it was written for other items.
    """
    place = (batch.tenant_id, batch.id, start)
    if tx.execute(ADD_SET, (*place, digest, items)).fetchone():
        return [None] * items
    row = tx.execute(LOCK_SET, place).fetchone()
    if row is None or row[0] != digest or len(row[1]) != items:
        raise BatchReusedError
    return row[1]


FILL_SET = "update haulier.batch_sets set ids = %s::uuid[] where tenant_id = %s and batch_id = %s and start = %s"


def fill_set(tx: Tx, batch: Batch, start: int, ids: Sequence[UUID | None]) -> None:
    # As text: the driver's own way with an array costs a call of Python for each value.
    text = "{" + ",".join("null" if each is None else each.hex for each in ids) + "}"
    tx.execute(FILL_SET, (text, batch.tenant_id, batch.id, start))


END = "update haulier.batches set items = %s where tenant_id = %s and id = %s and (items is null or items = %s) returning true"


def end_batch(tx: Tx, batch: Batch, items: int) -> None:
    """Its body was read to the end. Raises BatchReusedError if it had another number of items before."""
    if tx.execute(END, (items, batch.tenant_id, batch.id, items)).fetchone() is None:
        raise BatchReusedError


@dataclass(frozen=True, slots=True)
class Standing:
    """A batch as it stands: `counts` are its jobs by state, those past their retention left out."""

    id: UUID
    created_at: datetime
    items: int | None
    accepted: int
    refused: int
    counts: Mapping[str, int]


READ = "select tenant_id, id, created_at, items from haulier.batches where id = %s and (%s::integer[] is null or tenant_id = any(%s))"
READ_IDS = "select ids from haulier.batch_sets where tenant_id = %s and batch_id = %s"
COUNT_LIVE = "select id, state::text from haulier.jobs where id = any(%s)"
COUNT_ARCHIVED = "select id, state::text from haulier.archive where id = any(%s)"


def read(tx: Tx, batch_id: UUID, tenants: Sequence[int] | None) -> Standing | None:
    """How a batch stands, or None if it is not there (for this caller). At most two look-ups by key for each of its jobs."""
    wanted = None if tenants is None else list(tenants)
    row = tx.execute(READ, (batch_id, wanted, wanted)).fetchone()
    if row is None:
        return None
    places = [job for (ids,) in tx.execute(READ_IDS, row[:2]) for job in ids]
    jobs = {job for job in places if job is not None}
    states = dict(tx.execute(COUNT_LIVE, (list(jobs),)).fetchall())
    rest = jobs - states.keys()
    if rest:
        states |= dict(tx.execute(COUNT_ARCHIVED, (list(rest),)).fetchall())
    counts: dict[str, int] = {}
    for state in states.values():
        counts[state] = counts.get(state, 0) + 1
    accepted = sum(job is not None for job in places)
    return Standing(row[1], row[2], row[3], accepted, len(places) - accepted, counts)


FORGET = """
with old as (
    select tenant_id, id from haulier.batches where created_at < now() - %s order by created_at limit %s for update skip locked),
sets as (
    delete from haulier.batch_sets s using old where s.tenant_id = old.tenant_id and s.batch_id = old.id)
delete from haulier.batches b using old where b.tenant_id = old.tenant_id and b.id = old.id
"""


def forget(tx: Tx, age: timedelta, limit: int = 100) -> int:
    """Batches past their retention. Returns how many."""
    return tx.execute(FORGET, (age, limit)).rowcount
