"""Webhooks: where a tenant's receivers are, and what they want to hear. Their secrets are written here and read only by what signs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from psycopg import Connection
from psycopg.rows import class_row

from config.ids import uuid7

Tx = Connection[Any]


@dataclass(frozen=True, slots=True)
class Webhook:
    """A receiver. `events`: the types it wants; `commands`: of which commands, None for all. `version` grows with every change."""

    id: UUID
    tenant_id: int
    name: str
    url: str
    events: list[str]
    commands: list[str] | None
    enabled: bool
    disabled_reason: str | None
    version: int
    created_at: datetime
    updated_at: datetime


_COLUMNS = "id, tenant_id, name, url, events, commands, enabled, disabled_reason, version, created_at, updated_at"

ADD = f"insert into haulier.webhooks (id, tenant_id, name, url, events, commands) values (%s, %s, %s, %s, %s, %s) returning {_COLUMNS}"
ADD_SECRET = "insert into haulier.webhook_secrets (id, tenant_id, webhook_id, secret) values (%s, %s, %s, %s)"  # noqa: S105


def add(tx: Tx, tenant_id: int, name: str, url: str, events: Sequence[str], commands: Sequence[str] | None, secret: str) -> Webhook:
    """It hears of everything that is committed after this is."""
    with tx.cursor(row_factory=class_row(Webhook)) as cursor:
        found = cursor.execute(ADD, (uuid7(), tenant_id, name, url, list(events), _list(commands))).fetchone()
    assert found is not None
    tx.execute(ADD_SECRET, (uuid7(), tenant_id, found.id, secret))
    return found


LIST = f"""
select {_COLUMNS} from haulier.webhooks
 where (%(tenants)s::integer[] is null or tenant_id = any(%(tenants)s)) and (%(before)s::uuid is null or id < %(before)s)
 order by id desc limit %(limit)s
"""


def list_webhooks(tx: Tx, tenants: Sequence[int] | None, before: UUID | None, limit: int) -> list[Webhook]:
    """One page, the newest first."""
    with tx.cursor(row_factory=class_row(Webhook)) as cursor:
        return cursor.execute(LIST, {"tenants": _list(tenants), "before": before, "limit": limit}).fetchall()


FIND = f"select {_COLUMNS} from haulier.webhooks where id = %(id)s and (%(tenants)s::integer[] is null or tenant_id = any(%(tenants)s))"


def find(tx: Tx, webhook_id: UUID, tenants: Sequence[int] | None) -> Webhook | None:
    """The webhook, or None if it is not there (for this caller)."""
    with tx.cursor(row_factory=class_row(Webhook)) as cursor:
        return cursor.execute(FIND, {"id": webhook_id, "tenants": _list(tenants)}).fetchone()


KNOWN = "select id from haulier.webhooks where tenant_id = %s and id = any(%s)"


def known(tx: Tx, tenant_id: int, ids: Sequence[UUID]) -> set[UUID]:
    """Those of these ids that are webhooks of the tenant."""
    return {row[0] for row in tx.execute(KNOWN, (tenant_id, list(ids)))}


# Enabled again, it is told what happens from now on; what it missed can be redelivered.
CHANGE = f"""
update haulier.webhooks
   set name = %(name)s, url = %(url)s, events = %(events)s, commands = %(commands)s, enabled = %(enabled)s,
       disabled_reason = case when %(enabled)s then null when enabled then %(reason)s else disabled_reason end,
       since = case when %(enabled)s and not enabled then (pg_snapshot_xmin(pg_current_snapshot())::text)::bigint else since end,
       succeeded_at = case when %(enabled)s and not enabled then null else succeeded_at end,
       version = version + 1, updated_at = now()
 where id = %(id)s and version = %(version)s
returning {_COLUMNS}
"""


def change(tx: Tx, changed: Webhook, reason: str) -> Webhook | None:
    """Write all that may change of it, if it is still at the version given: None if it is not. `reason` is why, should it be disabled."""
    with tx.cursor(row_factory=class_row(Webhook)) as cursor:
        return cursor.execute(
            CHANGE,
            {
                "id": changed.id,
                "version": changed.version,
                "name": changed.name,
                "url": changed.url,
                "events": changed.events,
                "commands": changed.commands,
                "enabled": changed.enabled,
                "reason": reason,
            },
        ).fetchone()


def remove(tx: Tx, webhook_id: UUID) -> bool:
    """Its secrets go with it; deliveries under way find nothing to send to, and end."""
    return tx.execute("delete from haulier.webhooks where id = %s", (webhook_id,)).rowcount == 1


# Two sign at most: an elder one that was still signing has had its time.
RETIRE = """
update haulier.webhook_secrets
   set expires_at = case when expires_at is null then now() + make_interval(secs => %(overlap)s) else least(expires_at, now()) end
 where webhook_id = %(id)s
"""
FORGET_SECRETS = "delete from haulier.webhook_secrets where webhook_id = %s and expires_at <= now()"


def rotate(tx: Tx, webhook: Webhook, secret: str, overlap: float) -> None:
    """From now on this secret signs, and for `overlap` seconds the one before as well."""
    tx.execute(RETIRE, {"id": webhook.id, "overlap": overlap})
    tx.execute(FORGET_SECRETS, (webhook.id,))
    tx.execute(ADD_SECRET, (uuid7(), webhook.tenant_id, webhook.id, secret))


def _list(values: Sequence[Any] | None) -> list[Any] | None:
    return None if values is None else list(values)
