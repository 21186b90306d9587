"""Submit what must not be there twice: a unique key has one holder, and whether it holds is decided when the next one asks.

Nothing here is paid for by submissions without `unique`, nor by begin and settle. In one transaction: lock the keys' rows; then, in a new
statement, read how their holders stand (a snapshot taken before the lock would miss a holder that was just committed); decide; write.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, LiteralString
from uuid import UUID

import orjson
import psycopg
from psycopg import Connection

from ledger import jobs
from ledger.jobs import Submission, Times, Unique

Tx = Connection[Any]

#: Tenant, command without its version, key.
Name = tuple[int, str, str]
WAITING = frozenset({"scheduled", "waiting", "queued"})
OVER = frozenset({"succeeded", "rejected", "dead", "cancelled"})


class HeldError(Exception):
    """Another job holds the unique key; nothing changed."""

    def __init__(self, key: str, holder: UUID) -> None:
        super().__init__(f"the unique key {key!r} is held by job {holder}; nothing changed")
        self.holder = holder


@dataclass(frozen=True, slots=True)
class Held:
    """A wish that was not written, for another job holds its key: `refused`, or answered with that job."""

    holder: UUID
    refused: bool


@dataclass(slots=True)
class Outcome:
    """By the wish's id: those that are new, those that met a holder, and the jobs that were cancelled for one. The others were there before,
    by their id or idempotency key. Of the new ones, the times, if they were asked for.
    """

    new: Mapping[UUID, Times | None] = field(default_factory=dict[UUID, Times | None])
    held: dict[UUID, Held] = field(default_factory=dict[UUID, Held])
    replaced: dict[UUID, UUID] = field(default_factory=dict[UUID, UUID])


@dataclass(frozen=True, slots=True)
class Holder:
    """Who has a key. `holds`: True or False by the time it was given, None if the job's state decides, which is None for a job long gone."""

    job_id: UUID
    holds: bool | None
    state: str | None

    @property
    def is_over(self) -> bool:
        return (self.state is None or self.state in OVER) if self.holds is None else not self.holds


def name_of(wish: Submission) -> Name:
    assert wish.unique is not None
    return wish.tenant_id, wish.command.partition("@")[0], wish.unique.key


LOCK = """
insert into haulier.unique_keys as u (tenant_id, command, key, job_id, held_until)
select tenant_id, command, key, job_id, case when forever then 'infinity' else now() + make_interval(secs => seconds) end
  from jsonb_to_recordset(%(rows)s::jsonb)
    as w(tenant_id integer, command text, key text, job_id uuid, seconds float8, forever boolean)
 order by tenant_id, command, key
on conflict (tenant_id, command, key) do update set job_id = u.job_id
returning tenant_id, command, key, job_id, held_until > clock_timestamp()
"""

# Not haulier.every_job: who writes submissions may not read all that this view holds.
STATES = """
select id, state::text from haulier.jobs where id = any(%(ids)s)
union all
select id, state::text from haulier.archive where id = any(%(ids)s)
"""

NAMED = """
select tenant_id, key from haulier.idempotency_keys
 where (tenant_id, key) in (select * from unnest(%s::integer[], %s::text[]))
"""

# In one order with begin, which locks by id too.
DISPLACED = "select id, state::text from haulier.jobs where id = any(%s) order by id for update"

REPLACE = """
with replaced as materialized (
    select * from jsonb_to_recordset(%(rows)s::jsonb) as w(id uuid, replaced_by uuid, who text)),
cancelled as (
    update haulier.jobs set state = 'cancelled', reason = 'replaced', finished_at = statement_timestamp(), seq = seq + 1
     where id = any(array(select id from replaced)) and state in ('scheduled', 'waiting', 'queued')
    returning id, tenant_id, seq, attempt),
taken as (
    delete from haulier.outbox where job_id = any(array(select id from cancelled))),
told as (
    insert into haulier.events (job_id, seq, tenant_id, kind, state, attempt, who, data)
    select c.id, c.seq, c.tenant_id, 'cancelled', 'cancelled', c.attempt, r.who, jsonb_build_object('replaced_by', r.replaced_by)
      from cancelled c join replaced r using (id))
select r.replaced_by, c.id from cancelled c join replaced r using (id)
"""

LOSE = """
insert into haulier.lost_unique_keys (tenant_id, job_id, command, key)
select tenant_id, job_id, command, key
  from jsonb_to_recordset(%(rows)s::jsonb) as w(tenant_id integer, job_id uuid, command text, key text)
on conflict do nothing
"""

TAKE = """
update haulier.unique_keys u
   set job_id = w.job_id, held_until = case when w.forever then 'infinity' else now() + make_interval(secs => w.seconds) end
  from jsonb_to_recordset(%(rows)s::jsonb)
    as w(tenant_id integer, command text, key text, job_id uuid, seconds float8, forever boolean)
 where u.tenant_id = w.tenant_id and u.command = w.command and u.key = w.key
"""

GIVE_BACK = """
delete from haulier.unique_keys u
 using jsonb_to_recordset(%(rows)s::jsonb) as w(tenant_id integer, command text, key text)
 where u.tenant_id = w.tenant_id and u.command = w.command and u.key = w.key
"""

# The answer was a job: the same idempotency key is that job from now on.
NAME = """
insert into haulier.idempotency_keys (tenant_id, key, job_id, fingerprint)
select tenant_id, key, job_id, decode(fingerprint, 'hex')
  from jsonb_to_recordset(%(rows)s::jsonb) as w(tenant_id integer, key text, job_id uuid, fingerprint text)
 order by tenant_id, key
on conflict do nothing
"""


def submit(tx: Tx, wishes: Sequence[Submission], *, wake: bool = False) -> Outcome:
    """Write a set of which some are unique, in an open transaction that the caller commits. Those that share a key are decided in their
    order, each against the one before. Raises psycopg.errors.SerializationFailure where another transaction came between: then roll back
    and repeat.
    """
    made, holders = _lock(tx, wishes)
    decided = _Decision(holders, _known(tx, wishes))
    for wish in wishes:
        decided.decide(wish)
    waiting = _displace(tx, [(name, holder) for name, holder, _ in decided.displaced])
    replaced = [_replacing(holder.job_id, wish) for _, holder, wish in decided.displaced if holder.job_id in waiting]
    new = jobs.submit(tx, decided.accepted, wake=wake)
    if any(wish.unique and wish.id not in new for wish in decided.accepted):
        raise psycopg.errors.SerializationFailure("the idempotency key of a unique submission was accepted elsewhere just now")
    cancelled = _replace(tx, replaced + decided.replaced)
    _run(tx, TAKE, [_row(name, wish.id, wish.unique) for name, wish in decided.taken.items() if made.get(name) != wish.id])
    _run(tx, GIVE_BACK, [_row(name) for name in made if name not in decided.taken])
    _run(tx, NAME, decided.named)
    return Outcome(new, decided.held, cancelled)


class _Decision:
    """What becomes of each wish, given who holds the keys. `known`: ids and idempotency keys that are there already."""

    def __init__(self, holders: Mapping[Name, Holder], known: set[object]) -> None:
        self._holders = dict(holders)
        self._known = known
        self.accepted: list[Submission] = []
        self.taken: dict[Name, Submission] = {}
        self.held: dict[UUID, Held] = {}
        self.named: list[dict[str, Any]] = []
        #: Holders that lose their key to a wish of this set; and wishes of this set that do.
        self.displaced: list[tuple[Name, Holder, Submission]] = []
        self.replaced: list[dict[str, Any]] = []

    def decide(self, wish: Submission) -> None:
        if wish.unique is None:
            self.accepted.append(wish)
            return
        if wish.id in self._known or (wish.key is not None and (wish.tenant_id, wish.key) in self._known):
            return
        name = name_of(wish)
        holder = self._holders.get(name)
        if holder is not None and not holder.is_over and wish.unique.on_conflict != "replace":
            self._meet(wish, holder, refused=wish.unique.on_conflict == "reject")
            return
        if name in self.taken:
            self.replaced.append(_replacing(self.taken[name].id, wish))
        elif holder is not None:
            self.displaced.append((name, holder, wish))
        self._holders[name] = Holder(wish.id, None if wish.unique.seconds is None else True, "queued")
        self.taken[name] = wish
        self.accepted.append(wish)
        self._remember_key(wish)

    def _meet(self, wish: Submission, holder: Holder, *, refused: bool) -> None:
        self.held[wish.id] = Held(holder.job_id, refused)
        if wish.key is not None and not refused:
            named = {"tenant_id": wish.tenant_id, "key": wish.key, "job_id": holder.job_id, "fingerprint": wish.fingerprint.hex()}
            self.named.append(named)
            self._remember_key(wish)

    def _remember_key(self, wish: Submission) -> None:
        if wish.key is not None:
            self._known.add((wish.tenant_id, wish.key))


def _lock(tx: Tx, wishes: Sequence[Submission]) -> tuple[dict[Name, UUID], dict[Name, Holder]]:
    """Lock the keys of these wishes. Returns the rows that had to be made for it, with the wish that they name; and the holders of the others."""
    first: dict[Name, Submission] = {}
    for wish in wishes:
        if wish.unique is not None:
            first.setdefault(name_of(wish), wish)
    holders = _holders(tx, [_row(name, wish.id, wish.unique) for name, wish in first.items()])
    made = {name: holder.job_id for name, holder in holders.items() if holder.job_id == first[name].id and holder.state is None}
    return made, {name: holder for name, holder in holders.items() if name not in made}


def _holders(tx: Tx, rows: Sequence[dict[str, Any]]) -> dict[Name, Holder]:
    found = tx.execute(LOCK, {"rows": orjson.dumps(rows).decode()}).fetchall()
    states = dict(tx.execute(STATES, {"ids": [row[3] for row in found]}).fetchall())
    return {(tenant, command, key): Holder(job_id, holds, states.get(job_id)) for tenant, command, key, job_id, holds in found}


def _known(tx: Tx, wishes: Sequence[Submission]) -> set[object]:
    """The ids and idempotency keys of unique wishes that are there already."""
    ours = [wish for wish in wishes if wish.unique is not None]
    keyed = [wish for wish in ours if wish.key is not None]
    known: set[object] = {row[0] for row in tx.execute(STATES, {"ids": [wish.id for wish in ours]})}
    if keyed:
        known |= set(tx.execute(NAMED, ([wish.tenant_id for wish in keyed], [wish.key for wish in keyed])))
    return known


def _displace(tx: Tx, displaced: Sequence[tuple[Name, Holder]]) -> set[UUID]:
    """Lock the jobs that lose their key, see how they stand now, and note who may come back for it. Returns those that still wait."""
    if not displaced:
        return set()
    states = dict(tx.execute(DISPLACED, ([holder.job_id for _, holder in displaced],)).fetchall())
    waiting: set[UUID] = set()
    lost: list[dict[str, Any]] = []
    for name, holder in displaced:
        state = states.get(holder.job_id)
        if holder.holds is False:
            continue
        if state in WAITING and holder.is_over:
            raise psycopg.errors.SerializationFailure("the dead holder of a unique key was replayed just now")
        if state in WAITING:
            waiting.add(holder.job_id)
        elif state in {"running", "dead"}:
            lost.append(_row(name, holder.job_id))
    _run(tx, LOSE, lost)
    return waiting


def _replace(tx: Tx, rows: Sequence[dict[str, Any]]) -> dict[UUID, UUID]:
    """Cancel these. Returns, by the id of the wish that took its place, each job that was."""
    return dict(tx.execute(REPLACE, {"rows": orjson.dumps(rows).decode()}).fetchall()) if rows else {}


def _replacing(job_id: UUID, wish: Submission) -> dict[str, Any]:
    return {"id": job_id, "replaced_by": wish.id, "who": wish.who}


def _row(name: Name, job_id: UUID | None = None, unique: Unique | None = None) -> dict[str, Any]:
    seconds = None if unique is None else unique.seconds
    forever = seconds is not None and math.isinf(seconds)
    named = {"tenant_id": name[0], "command": name[1], "key": name[2], "job_id": job_id}
    return {**named, "seconds": None if forever else seconds, "forever": forever}


def _run(tx: Tx, statement: LiteralString, rows: Sequence[dict[str, Any]]) -> None:
    if rows:
        tx.execute(statement, {"rows": orjson.dumps(rows).decode()})


LOCK_JOB = "select state::text from haulier.jobs where id = %s and tenant_id = any(%s) for update"
LOST = "select tenant_id, command, key from haulier.lost_unique_keys where job_id = %s"
FOUND = "delete from haulier.lost_unique_keys where job_id = %s"


def reclaim(tx: Tx, job_id: UUID, tenants: Sequence[int]) -> None:
    """Before a dead letter is replayed, in that transaction: win back the key that it has lost. Raises HeldError."""
    tx.execute(LOCK_JOB, (job_id, list(tenants)))  # whoever takes the key of a dead job locks it too: what they noted is seen from here on
    name: Name | None = tx.execute(LOST, (job_id,)).fetchone()
    if name is None:
        return
    [holder] = _holders(tx, [_row(name, job_id)]).values()
    if holder.job_id != job_id:
        if not holder.is_over:
            raise HeldError(name[2], holder.job_id)
        _displace(tx, [(name, holder)])
        _run(tx, TAKE, [_row(name, job_id)])
    tx.execute(FOUND, (job_id,))


FORGET = """
delete from haulier.unique_keys u
 using (select tenant_id, command, key from haulier.unique_keys where held_until < now() order by held_until limit %s for update skip locked) old
 where u.tenant_id = old.tenant_id and u.command = old.command and u.key = old.key
"""


def forget(tx: Tx, limit: int = 1000) -> int:
    """Keys that were held for a time which is over. (Those that a job's state holds leave with the job: see `archive`.) Returns how many."""
    return tx.execute(FORGET, (limit,)).rowcount
