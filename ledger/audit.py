"""The audit: who changed what, when, from where and why, written in the transaction of the change itself."""

from __future__ import annotations

from typing import Any

import orjson
from psycopg import Connection

from config.ids import uuid7

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
