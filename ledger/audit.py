"""The audit: who changed what, when, from where and why, written in the transaction of the change itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import orjson
from psycopg import Connection

from config.ids import uuid7
from ledger.connection import fetch_list

Tx = Connection[Any]

RECORD = """
insert into haulier.audit (id, tenant_id, who, origin, action, target, reason, data) values (%s, %s, %s, %s, %s, %s, %s, %s::jsonb)
"""


def record(
    tx: Tx,
    tenant_id: int | None,
    who: str,
    action: str,
    target: object,
    *,
    origin: str | None = None,
    reason: str | None = None,
    **data: Any,
) -> None:
    """Write one record. `tenant_id` is whose it was, None for the platform's own; `who` is `key:<prefix>` or `console:<account>`;
    `origin` the caller's address; `action` names what was done as `<thing>.<verb>` (`job.cancel`); `data` what else tells what changed.
    """
    text = orjson.dumps(data, default=str).decode() if data else None
    tx.execute(RECORD, (uuid7(), tenant_id, who, origin, action, str(target), reason, text))


@dataclass(frozen=True, slots=True)
class Record:
    """One record, and its place in its tenant's chain of seals once it has one."""

    id: UUID
    at: datetime
    tenant_id: int | None
    who: str
    origin: str | None
    action: str
    target: str | None
    reason: str | None
    data: dict[str, Any] | None
    seq: int | None
    hash: bytes | None


@dataclass(frozen=True, slots=True)
class Filter:
    """What is None is not asked for. `before`: older than this record."""

    action: str | None = None
    who: str | None = None
    target: str | None = None
    made_after: datetime | None = None
    made_before: datetime | None = None
    before: UUID | None = None


LIST = """
select a.id, a.at, a.tenant_id, a.who, a.origin, a.action, a.target, a.reason, a.data, s.seq, s.hash
  from haulier.audit a left join haulier.audit_seals s on s.tenant_id = coalesce(a.tenant_id, 0) and s.audit_id = a.id
 where (%(tenants)s::integer[] is null or a.tenant_id = any(%(tenants)s))
   and (%(before)s::uuid is null or a.id < %(before)s)
   and (%(action)s::text is null or a.action = %(action)s)
   and (%(who)s::text is null or a.who = %(who)s)
   and (%(target)s::text is null or a.target = %(target)s)
   and (%(after)s::timestamptz is null or a.at > %(after)s)
   and (%(until)s::timestamptz is null or a.at < %(until)s)
 order by a.id desc limit %(limit)s
"""


def list_records(tx: Tx, tenants: Sequence[int] | None, wanted: Filter, limit: int) -> list[Record]:
    """One page, the newest first. `tenants` None: everybody's, the platform's own too."""
    parameters = {
        "tenants": None if tenants is None else list(tenants),
        "before": wanted.before,
        "action": wanted.action,
        "who": wanted.who,
        "target": wanted.target,
        "after": wanted.made_after,
        "until": wanted.made_before,
        "limit": limit,
    }
    return fetch_list(tx, Record, LIST, parameters)
