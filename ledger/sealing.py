"""Seals of the audit: a chain of hashes for each tenant, which upkeep makes longer and whoever doubts the audit walks along (decision 0016).

A seal is SHA-256 over the seal before it and the record. So whoever changes, removes or adds a record must make every later seal anew, and then the
chain no longer ends as its head says, or as an anchor says that was kept elsewhere.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, LiteralString
from uuid import UUID

import orjson
from psycopg import Connection

Tx = Connection[Any]

#: The chain of what is the platform's own.
PLATFORM = 0
#: What the first seal of a chain follows.
START = bytes(32)


@dataclass(frozen=True, slots=True)
class Head:
    """Where a chain ends: how many seals it has, and the last one."""

    seq: int
    hash: bytes


_RECORD: LiteralString = "a.id, a.at, coalesce(a.tenant_id, 0), a.who, a.origin, a.action, a.target, a.reason, a.data::text"
_NAMES = ("id", "at", "tenant", "who", "origin", "action", "target", "reason", "data")


def seal_of(before: bytes, record: Sequence[Any]) -> bytes:
    """SHA-256 of the seal before and the record as JSON in canonical form (RFC 8785: sorted names, no space; only texts and one whole number).

    `record` is a row of id, at, tenant, who, origin, action, target, reason, and data as the text that Postgres makes of it.
    """
    facts = dict(zip(_NAMES, record, strict=True))
    facts["at"] = facts["at"].astimezone(UTC).isoformat(timespec="microseconds")
    return hashlib.sha256(before + orjson.dumps(facts, option=orjson.OPT_SORT_KEYS)).digest()


UNSEALED: LiteralString = f"""
select {_RECORD} from haulier.audit a where a.id = any(array(select audit_id from haulier.audit_unsealed order by audit_id limit %s)) order by a.id
"""
HEADS = "select tenant_id, seq, hash from haulier.audit_heads where tenant_id = any(%s) for update"
ADD_SEALS = """
insert into haulier.audit_seals (tenant_id, seq, audit_id, hash) select * from unnest(%s::integer[], %s::bigint[], %s::uuid[], %s::bytea[])
"""
MOVE_HEADS = """
insert into haulier.audit_heads (tenant_id, seq, hash) select * from unnest(%s::integer[], %s::bigint[], %s::bytea[])
on conflict (tenant_id) do update set seq = excluded.seq, hash = excluded.hash
"""
SEALED = "delete from haulier.audit_unsealed where audit_id = any(%s)"


def seal(tx: Tx, limit: int = 500) -> dict[int, Head]:
    """Seal what was committed since, the oldest first. Returns the new heads, by tenant. One at a time: the caller holds upkeep's lock.

    A record that is committed late is sealed late, behind newer ones: a chain is in the order of sealing.
    """
    rows = tx.execute(UNSEALED, (limit,)).fetchall()
    if not rows:
        return {}
    heads = {row[0]: Head(row[1], row[2]) for row in tx.execute(HEADS, (list({record[2] for record in rows}),))}
    moved: dict[int, Head] = {}
    seals: list[tuple[int, int, UUID, bytes]] = []
    for record in rows:
        tenant = record[2]
        before = moved.get(tenant) or heads.get(tenant) or Head(0, START)
        head = moved[tenant] = Head(before.seq + 1, seal_of(before.hash, record))
        seals.append((tenant, head.seq, record[0], head.hash))
    tx.execute(ADD_SEALS, [list(column) for column in zip(*seals, strict=True)])
    tx.execute(MOVE_HEADS, (list(moved), [head.seq for head in moved.values()], [head.hash for head in moved.values()]))
    tx.execute(SEALED, ([each[2] for each in seals],))
    return moved


@dataclass(frozen=True, slots=True)
class Flaw:
    """What does not hold: `tenant` whose chain, at which place of it, which record."""

    tenant: int
    seq: int | None
    audit_id: UUID | None
    what: str


@dataclass
class Walk:
    """What a walk along the chains found: their heads as they are, what waits for its seal, and what was sealed long after it was made."""

    heads: dict[int, Head]
    flaws: list[Flaw]
    unsealed: int = 0
    late: int = 0


CHAINS: LiteralString = f"""
select s.tenant_id, s.seq, s.hash, s.audit_id, s.sealed_at, {_RECORD}
  from haulier.audit_seals s left join haulier.audit a on a.id = s.audit_id order by s.tenant_id, s.seq
"""
KEPT_HEADS = "select tenant_id, seq, hash from haulier.audit_heads"
# What the trigger has not seen, or somebody has taken out of the queue.
UNKNOWN = """
select coalesce(a.tenant_id, 0), a.id from haulier.audit a
 where not exists (select from haulier.audit_seals s where s.audit_id = a.id)
   and not exists (select from haulier.audit_unsealed u where u.audit_id = a.id)
 order by 1, 2
"""
GONE_BEFORE = """
select u.tenant_id, u.audit_id from haulier.audit_unsealed u where not exists (select from haulier.audit a where a.id = u.audit_id) order by 1, 2
"""
WAITING = "select count(*) from haulier.audit_unsealed u where exists (select from haulier.audit a where a.id = u.audit_id)"

#: Seconds after which a seal is late: upkeep was away, or the record was put in later than it says.
LATE = 3600


def verify(tx: Tx, anchors: Mapping[int, Head] | None = None) -> Walk:
    """Walk along all chains, as one snapshot shows them (`tx` is in a transaction of isolation repeatable read).

    `anchors` are heads of an earlier day, kept where nobody who can write here can write: each chain must still pass through its own.
    """
    walk = Walk({}, [])
    for tenant, seq, stored, audit_id, sealed_at, *record in _rows(tx, CHAINS):
        before = walk.heads.get(tenant, Head(0, START))
        walk.heads[tenant] = Head(seq, stored)
        if seq != before.seq + 1:
            walk.flaws.append(Flaw(tenant, before.seq + 1, None, f"the seals {before.seq + 1} to {seq - 1} were removed"))
        elif record[0] is None:
            walk.flaws.append(Flaw(tenant, seq, audit_id, "the record was removed"))
        elif record[2] != tenant:
            walk.flaws.append(Flaw(tenant, seq, audit_id, f"the record was moved to tenant {record[2]}"))
        elif seal_of(before.hash, record) != stored:
            walk.flaws.append(Flaw(tenant, seq, audit_id, "the record or its seal was changed, or put in or moved to here"))
        elif _is_late(record[1], sealed_at):
            walk.late += 1
        anchor = (anchors or {}).get(tenant)
        if anchor and anchor.seq == seq and anchor.hash != stored:
            walk.flaws.append(Flaw(tenant, seq, None, "the chain was made anew up to here: it does not pass through the anchor"))
    walk.flaws += _ends(walk.heads, {row[0]: Head(row[1], row[2]) for row in tx.execute(KEPT_HEADS)}, "head")
    walk.flaws += _ends(walk.heads, anchors or {}, "anchor", exact=False)
    walk.flaws += [
        Flaw(row[0], None, row[1], "the record was put in by a way of its own: nothing waits to seal it") for row in tx.execute(UNKNOWN)
    ]
    walk.flaws += [Flaw(row[0], None, row[1], "the record was removed before it was sealed") for row in tx.execute(GONE_BEFORE)]
    row = tx.execute(WAITING).fetchone()
    assert row is not None
    walk.unsealed = row[0]
    return walk


def _ends(found: Mapping[int, Head], told: Mapping[int, Head], by: str, *, exact: bool = True) -> Iterator[Flaw]:
    """Chains that end before what `told` says, or (`exact`) otherwise than it says."""
    for tenant in sorted(found.keys() | told.keys()):
        end, head = found.get(tenant, Head(0, START)), told.get(tenant, Head(0, START))
        if end.seq < head.seq:
            yield Flaw(tenant, end.seq + 1, None, f"the end was removed: there are {end.seq} seals, {head.seq} by its {by}")
        elif exact and end != head:
            yield Flaw(tenant, head.seq, None, f"the chain does not end as its {by} says")


def _is_late(made: datetime, sealed: datetime) -> bool:
    return (sealed - made).total_seconds() > LATE


def _rows(tx: Tx, statement: LiteralString) -> Iterator[tuple[Any, ...]]:
    """A few thousand at a time: the audit may be long."""
    with tx.cursor("walk") as cursor:
        cursor.itersize = 5000
        cursor.execute(statement)
        yield from cursor
