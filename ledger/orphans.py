"""Orphan messages: deliveries that name no readable job, kept raw for the platform's operators."""

from __future__ import annotations

import hashlib
from datetime import datetime
from typing import Any
from uuid import UUID

import orjson
from psycopg import Connection

from config.ids import uuid7

Tx = Connection[Any]

#: More of a body than this is not kept: enough to see what it was.
KEPT_BYTES = 65_536

KEEP = """
insert into haulier.orphan_messages (id, queue, body, headers, reason, digest) values (%s, %s, %s, %s::jsonb, %s, %s)
on conflict (digest) do update set times = orphan_messages.times + 1, last_at = now()
"""


def keep(tx: Tx, queue: str, body: bytes, reason: str, headers: dict[str, Any] | None = None) -> None:
    """Keep an unreadable message; the same one again is counted, not kept twice."""
    digest = hashlib.sha256(queue.encode() + b"\0" + body).digest()
    text = orjson.dumps({_storable(name): _storable(value) for name, value in headers.items()}).decode() if headers else None
    tx.execute(KEEP, (uuid7(), queue, body[:KEPT_BYTES], text, reason, digest))


def _storable(value: object) -> str:
    """As text without what Postgres refuses in jsonb: a forged message may have anything in its headers."""
    return str(value).replace("\0", "\\0").encode("utf-8", "backslashreplace").decode()


LIST = """
select id, queue, body, headers, reason, times, received_at, last_at from haulier.orphan_messages
 where %(before)s::uuid is null or id < %(before)s order by id desc limit %(limit)s
"""

Orphan = tuple[UUID, str, bytes, Any, str, int, datetime, datetime]


def newest(tx: Tx, before: UUID | None, limit: int) -> list[Orphan]:
    return tx.execute(LIST, {"before": before, "limit": limit}).fetchall()
