"""Tenants and API keys. Only a hash of a key is kept; the key itself is shown once, when it is made."""

from __future__ import annotations

import hashlib
import re
import secrets
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from psycopg import Connection

from config.ids import uuid7

Tx = Connection[Any]

ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
ROLES = ("viewer", "submitter", "operator", "admin", "platform")


@dataclass(frozen=True, slots=True)
class Tenant:
    id: int
    slug: str
    name: str
    created_at: datetime


@dataclass(frozen=True, slots=True)
class Key:
    """A key as the ledger knows it. tenant_id and tenant are None for platform keys."""

    id: UUID
    tenant_id: int | None
    tenant: str | None
    prefix: str
    role: str
    payloads: bool
    name: str
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None
    #: To the minute, and some seconds late: it is written aside.
    last_used_at: datetime | None


def add_tenant(tx: Tx, slug: str, name: str) -> Tenant | None:
    """None if the slug is taken. Raises psycopg.errors.CheckViolation for a slug that is none."""
    sql = "insert into haulier.tenants (slug, name) values (%s, %s) on conflict do nothing returning id, slug, name, created_at"
    row = tx.execute(sql, (slug, name)).fetchone()
    return Tenant(*row) if row else None


def list_tenants(tx: Tx) -> list[Tenant]:
    return [Tenant(*row) for row in tx.execute("select id, slug, name, created_at from haulier.tenants order by slug")]


def find_tenant(tx: Tx, slug: str) -> Tenant | None:
    row = tx.execute("select id, slug, name, created_at from haulier.tenants where slug = %s", (slug,)).fetchone()
    return Tenant(*row) if row else None


def make_key() -> tuple[str, str]:
    """A new key and its prefix: `hl_<prefix>_<secret><checksum>`, 238 bits of chance and six characters of CRC-32, so that a
    mistyped key is told from a wrong one without asking the database, and a leaked one is found by its pattern.
    """
    prefix = "".join(secrets.choice(ALPHABET) for _ in range(8))
    secret = "".join(secrets.choice(ALPHABET) for _ in range(40))
    body = f"hl_{prefix}_{secret}"
    return body + _checksum(body), prefix


def read_prefix(key: str) -> str | None:
    """The prefix of a well-formed key, or None for anything else (no database needed)."""
    parts = key.split("_")
    if len(parts) != 3 or parts[0] != "hl" or len(parts[1]) != 8 or len(parts[2]) != 46 or not key.isascii():
        return None
    return parts[1] if _checksum(key[:-6]) == key[-6:] else None


#: What a secret scanner looks for; the checksum then tells a key from what only looks like one.
PATTERN = re.compile(r"hl_([0-9A-Za-z]{8})_[0-9A-Za-z]{46}")


def find_in(text: str) -> Iterator[str]:
    """The prefixes of all keys that stand in a text: a leak."""
    return (found[1] for found in PATTERN.finditer(text) if read_prefix(found[0]) is not None)


def _checksum(text: str) -> str:
    number, digits = zlib.crc32(text.encode()), ""
    for _ in range(6):
        number, digit = divmod(number, 62)
        digits += ALPHABET[digit]
    return digits


def hash_key(key: str) -> bytes:
    """SHA-256: the secret has 238 bits of chance, so there is nothing that a slow hash would protect."""
    return hashlib.sha256(key.encode()).digest()


ADD = """
insert into haulier.api_keys (id, tenant_id, prefix, hash, role, payloads, name, expires_at) values (%s, %s, %s, %s, %s, %s, %s, %s)
"""


def add_key(
    tx: Tx, tenant_id: int | None, role: str, name: str, *, payloads: bool = False, expires_at: datetime | None = None
) -> tuple[UUID, str]:
    """Make a key. Returns its id and the key itself, which nobody can read again."""
    key, prefix = make_key()
    key_id = uuid7()
    tx.execute(ADD, (key_id, tenant_id, prefix, hash_key(key), role, payloads, name, expires_at))
    return key_id, key


FIND = """
select k.id, k.tenant_id, t.slug, k.prefix, k.role::text, k.payloads, k.name, k.created_at, k.expires_at, k.revoked_at, k.last_used_at, k.hash
  from haulier.api_keys k left join haulier.tenants t on t.id = k.tenant_id
 where k.prefix = %s and k.revoked_at is null and (k.expires_at is null or k.expires_at > now())
"""


def find_key(tx: Tx, key: str) -> Key | None:
    """The live key that this text is, or None: unknown, revoked, expired, or not well-formed."""
    prefix = read_prefix(key)
    row = tx.execute(FIND, (prefix,)).fetchone() if prefix else None
    if row is None or not secrets.compare_digest(row[11], hash_key(key)):
        return None
    return Key(*row[:11])


def find_prefix(tx: Tx, prefix: str) -> Key | None:
    """The live key of this prefix, whoever holds it: for what was signed in its name."""
    row = tx.execute(FIND, (prefix,)).fetchone()
    return Key(*row[:11]) if row else None


LIST = """
select k.id, k.tenant_id, t.slug, k.prefix, k.role::text, k.payloads, k.name, k.created_at, k.expires_at, k.revoked_at, k.last_used_at
  from haulier.api_keys k left join haulier.tenants t on t.id = k.tenant_id
 where %(all)s or k.tenant_id = any(%(tenants)s) order by k.id desc
"""


def list_keys(tx: Tx, tenants: Sequence[int] | None) -> list[Key]:
    """The keys of these tenants; of all, and the platform's own, for None."""
    return [Key(*row) for row in tx.execute(LIST, {"all": tenants is None, "tenants": list(tenants or ())})]


def revoke_key(tx: Tx, prefix: str) -> bool:
    """False if there is no live key of that prefix."""
    return tx.execute("update haulier.api_keys set revoked_at = now() where prefix = %s and revoked_at is null", (prefix,)).rowcount == 1


# The new one lives as long from now on as the old one was to live from its making, unless it is told otherwise.
ROTATE = """
with old as (
    select id, tenant_id, role, payloads, name, created_at, expires_at from haulier.api_keys
     where prefix = %(prefix)s and revoked_at is null and (expires_at is null or expires_at > now()) for update),
shortened as (
    update haulier.api_keys k set expires_at = least(old.expires_at, now() + make_interval(secs => %(overlap)s)) from old where k.id = old.id)
insert into haulier.api_keys (id, tenant_id, prefix, hash, role, payloads, name, expires_at)
select %(id)s, tenant_id, %(new_prefix)s, %(hash)s, role, payloads, name, coalesce(%(expires_at)s, now() + (expires_at - created_at)) from old
returning id, expires_at
"""


def rotate_key(tx: Tx, prefix: str, overlap: float, expires_at: datetime | None = None) -> tuple[UUID, str, datetime | None] | None:
    """Make a key that may do what this one may, which expires `overlap` seconds from now at the latest.

    Returns the new one's id, the new key itself, and when it expires; None if there is no live key of that prefix.
    """
    key, new_prefix = make_key()
    wanted = {
        "prefix": prefix,
        "overlap": overlap,
        "id": uuid7(),
        "new_prefix": new_prefix,
        "hash": hash_key(key),
        "expires_at": expires_at,
    }
    row = tx.execute(ROTATE, wanted).fetchone()
    return None if row is None else (row[0], key, row[1])


NOTE_USES = """
update haulier.api_keys k set last_used_at = u.at from unnest(%s::uuid[], %s::timestamptz[]) as u(id, at)
 where k.id = u.id and (k.last_used_at is null or k.last_used_at < u.at - interval '1 minute')
"""


def note_uses(tx: Tx, uses: Iterable[tuple[UUID, datetime]]) -> None:
    """When each of these keys was last seen. Of several intakes that tell of one key within a minute, the first one writes."""
    ids, times = zip(*sorted(uses), strict=True)
    tx.execute(NOTE_USES, (list(ids), list(times)))
