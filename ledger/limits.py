"""What tenants may take: submissions a second, and jobs that are open at a time. Intakes read all of it every few seconds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import orjson
from psycopg import Connection

Tx = Connection[Any]

Limits = dict[str, Any]


class Kept(NamedTuple):
    """What the platform granted and what the tenant set for itself, as JSON objects. Version 0: neither has said anything."""

    granted: Limits
    own: Limits
    version: int


NONE = Kept({}, {}, 0)


def read_all(tx: Tx) -> dict[int, Kept]:
    """Of every tenant that has limits."""
    return {row[0]: Kept(*row[1:]) for row in tx.execute("select tenant_id, granted, own, version from haulier.limits")}


def find(tx: Tx, tenant_id: int) -> Kept:
    row = tx.execute("select granted, own, version from haulier.limits where tenant_id = %s", (tenant_id,)).fetchone()
    return Kept(*row) if row else NONE


ADD = "insert into haulier.limits (tenant_id, granted, own) values (%s, %s::jsonb, %s::jsonb) on conflict do nothing"
CHANGE = """
update haulier.limits set granted = %s::jsonb, own = %s::jsonb, version = version + 1 where tenant_id = %s and version = %s
"""


def put(tx: Tx, tenant_id: int, kept: Kept) -> bool:
    """Write them in place of those of `kept.version`. False if that is not the version any more: nothing changed."""
    granted, own = (orjson.dumps(each).decode() for each in (kept.granted, kept.own))
    if kept.version == 0:
        return tx.execute(ADD, (tenant_id, granted, own)).rowcount == 1
    return tx.execute(CHANGE, (granted, own, tenant_id, kept.version)).rowcount == 1


COUNT_OPEN = """
select tenant_id, count(*) from (
    select tenant_id from haulier.outbox where tenant_id = any(%(tenants)s)
    union all
    select tenant_id from haulier.leases where tenant_id = any(%(tenants)s)) as open group by tenant_id
"""


def count_open(tx: Tx, tenants: Sequence[int]) -> dict[int, int]:
    """Jobs that wait, for their time or for a worker, or run. Reads the tables of open work once, whatever the number of tenants."""
    return dict(tx.execute(COUNT_OPEN, {"tenants": list(tenants)}).fetchall())
