"""The first tenant and keys of a `haulier dev`: made once, and kept for as long as the database knows them."""

from __future__ import annotations

from typing import Any

import psycopg

from console.auditing import note
from console.dev.directory import DevDirectory
from ledger import keys
from ledger.connection import Database
from ledger.keys import Tenant
from ledger.roles import Role

TENANT = "dev"
ROLES = ("platform", "admin", "operator", "submitter")


def first_keys(url: str, directory: DevDirectory) -> dict[str, str]:
    """By role. Those that are kept and still good, the others new."""
    database = Database(url, Role.OPERATOR, size=1, name="haulier dev")
    kept = directory.kept_keys()
    with database.plumbing() as tx, tx.transaction():
        made = keys.add_tenant(tx, TENANT, "Development")
        if made is not None:
            note(tx, made.id, "tenant.create", made.slug)
        tenant = made or keys.find_tenant(tx, TENANT)
        assert tenant is not None
        found = {role: _still_good(tx, kept.get(role), role, tenant) or _make(tx, role, tenant) for role in ROLES}
    database.close()
    directory.keep_keys(found)
    return found


def _still_good(tx: psycopg.Connection[Any], text: str | None, role: str, tenant: Tenant) -> str | None:
    key = keys.find_key(tx, text) if text else None
    owner = None if role == "platform" else tenant.id
    return text if key is not None and (key.role, key.tenant_id) == (role, owner) else None


def _make(tx: psycopg.Connection[Any], role: str, tenant: Tenant) -> str:
    owner = None if role == "platform" else tenant.id
    name = f"haulier dev's {role}"
    key = keys.add_key(tx, owner, role, name, payloads=True)[1]
    note(tx, owner, "key.create", keys.read_prefix(key), role=role, payloads=True, name=name)
    return key
