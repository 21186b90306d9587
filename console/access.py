"""`haulier tenants` and `haulier keys`: on the database itself, for the first key of an installation comes from nowhere else."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Annotated, Any

import psycopg
import typer

from console.auditing import note
from console.failing import FailedError, WrongUseError
from console.printing import Json, print_facts, print_json, print_table
from console.scanning import scan_keys
from console.starting import AWAY, read_settings
from ledger import audit, roles
from ledger import keys as ledger_keys
from ledger.connection import Database
from ledger.keys import ROLES, Key, Tenant
from ledger.roles import Role

tenants = typer.Typer(help="Tenants: whose jobs are whose.", no_args_is_help=True)
keys = typer.Typer(help="API keys.", no_args_is_help=True)

Prefix = Annotated[str, typer.Argument(help="what stands between hl_ and the next underscore")]
Reason = Annotated[str | None, typer.Option(help="why, for the audit")]


@tenants.command("create")
def create_tenant(
    slug: Annotated[str, typer.Argument(help="its short name: lower-case letters, digits and hyphens")],
    name: Annotated[str | None, typer.Option(help="its name for people; the slug by default")] = None,
    as_json: Json = False,
) -> None:
    """Make a tenant."""
    with ledger() as tx:
        try:
            with tx.transaction():
                tenant = ledger_keys.add_tenant(tx, slug, name or slug)
                if tenant is not None:
                    note(tx, tenant.id, "tenant.create", slug)
        except psycopg.errors.CheckViolation:
            raise WrongUseError(f"a slug is lower-case letters, digits and hyphens, got {slug!r}; nothing was made") from None
    if tenant is None:
        raise FailedError(f"there is a tenant {slug!r} already; nothing was made")
    print_json(_tenant(tenant)) if as_json else print(f"tenant {slug} made; give it a key with `haulier keys create --tenant {slug}`")


@tenants.command("list")
def list_tenants(as_json: Json = False) -> None:
    """All tenants."""
    with ledger() as tx:
        found = ledger_keys.list_tenants(tx)
    if as_json:
        print_json({"items": [_tenant(tenant) for tenant in found], "next_cursor": None})
    else:
        print_table(["slug", "name", "created"], [(tenant.slug, tenant.name, tenant.created_at) for tenant in found])


Account = Annotated[str, typer.Option("--role", help="an account, or a role, of the database")]


@tenants.command("grant")
def grant_tenant(slug: str, account: Account) -> None:
    """Let an account of the database submit for a tenant, by haulier.submit in SQL. For producers.submit in Python it must be a member
    of haulier_producer besides.
    """
    with ledger() as tx, tx.transaction():
        tenant = _find_tenant(tx, slug)
        try:
            is_new = roles.grant_tenant(tx, tenant.id, account)
        except LookupError as error:
            raise FailedError(f"{error}; nothing changed") from None
        if is_new:
            audit.record(tx, tenant.id, _who(tx), "tenant.grant", account)
    print(f"{account} may submit for {slug}" if is_new else f"{account} may submit for {slug} already; nothing changed")


@tenants.command("revoke")
def revoke_tenant(slug: str, account: Account) -> None:
    """Take that back."""
    with ledger() as tx, tx.transaction():
        tenant = _find_tenant(tx, slug)
        if not roles.revoke_tenant(tx, tenant.id, account):
            raise FailedError(f"{account} was not granted {slug}; nothing changed")
        audit.record(tx, tenant.id, _who(tx), "tenant.revoke", account)
    print(f"{account} may not submit for {slug} any more")


def _who(tx: psycopg.Connection[Any]) -> str:
    """The account that logged in, as the audit names it."""
    row = tx.execute("select session_user").fetchone()
    assert row is not None
    return f"console:{row[0]}"


@keys.command("create")
def create_key(
    role: Annotated[str, typer.Option(help=", ".join(ROLES))] = "submitter",
    name: Annotated[str, typer.Option(help="what it is for")] = "",
    tenant: Annotated[str | None, typer.Option(help="a tenant's slug; none for a platform key")] = None,
    payloads: Annotated[bool, typer.Option("--payloads", help="it may also see payloads, results and tracebacks")] = False,
    expires_at: Annotated[datetime | None, typer.Option(help="UTC; never by default")] = None,
    as_json: Json = False,
) -> None:
    """Make a key and show it, this once."""
    if role not in ROLES:
        raise WrongUseError(f"--role is one of {', '.join(ROLES)}, got {role!r}")
    if (role == "platform") != (tenant is None):
        raise WrongUseError("a platform key belongs to no tenant, and every other key to one: add or drop --tenant")
    until = expires_at.replace(tzinfo=UTC) if expires_at else None
    facts: dict[str, Any] = {"role": role, "payloads": payloads, "name": name or role}
    with ledger() as tx, tx.transaction():
        owner = _find_tenant(tx, tenant).id if tenant else None
        key_id, key = ledger_keys.add_key(tx, owner, role, name or role, payloads=payloads, expires_at=until)
        note(tx, owner, "key.create", ledger_keys.read_prefix(key), expires_at=until, **facts)
    made = {"id": key_id, "key": key, "prefix": ledger_keys.read_prefix(key), "role": role, "tenant": tenant, "name": name or role}
    if as_json:
        print_json(made | {"payloads": payloads, "expires_at": until})
    else:
        print_facts(made)
        print("It is shown only this once.")


@keys.command("list")
def list_keys(tenant: Annotated[str | None, typer.Option(help="only this tenant's")] = None, as_json: Json = False) -> None:
    """Keys, without their secrets."""
    with ledger() as tx:
        found = ledger_keys.list_keys(tx, [_find_tenant(tx, tenant).id] if tenant else None)
    if as_json:
        print_json({"items": [_key(key) for key in found], "next_cursor": None})
        return
    columns = ["prefix", "role", "tenant", "name", "payloads", "created", "last used", "expires", "revoked"]
    names = ("prefix", "role", "tenant", "name", "payloads", "created_at", "last_used_at", "expires_at", "revoked_at")
    print_table(columns, [[getattr(key, name) for name in names] for key in found])


@keys.command("revoke")
def revoke_key(prefix: Prefix, reason: Reason = None) -> None:
    """Revoke a key. An intake that has just seen it may take it for some seconds more."""
    with ledger() as tx, tx.transaction():
        key = _find_key(tx, prefix)
        if not ledger_keys.revoke_key(tx, prefix):
            raise _no_live_key(prefix)
        note(tx, key.tenant_id, "key.revoke", prefix, reason=reason, name=key.name, role=key.role)
    print(f"key {prefix} revoked")


@keys.command("rotate")
def rotate_key(
    prefix: Prefix,
    overlap: Annotated[float, typer.Option(min=0, max=30 * 86400, help="seconds for which the old key is still good")] = 3600,
    expires_at: Annotated[
        datetime | None, typer.Option(help="of the new key, UTC; it lives as long as the old one was to by default")
    ] = None,
    reason: Reason = None,
    as_json: Json = False,
) -> None:
    """Make a key that may do the same, and let the old one run out. Shows the new key, this once."""
    with ledger() as tx, tx.transaction():
        old = _find_key(tx, prefix)
        made = ledger_keys.rotate_key(tx, prefix, overlap, expires_at.replace(tzinfo=UTC) if expires_at else None)
        if made is None:
            raise _no_live_key(prefix)
        key_id, key, until = made
        new_prefix = ledger_keys.read_prefix(key)
        note(tx, old.tenant_id, "key.rotate", prefix, reason=reason, new=new_prefix, overlap=overlap)
    shown = {"id": key_id, "key": key, "prefix": new_prefix, "role": old.role, "tenant": old.tenant, "name": old.name}
    if as_json:
        print_json(shown | {"payloads": old.payloads, "expires_at": until})
    else:
        print_facts(shown)
        print(f"It is shown only this once. The key {prefix} is good for {overlap:g} s more.")


keys.command("scan")(scan_keys)


def _find_key(tx: psycopg.Connection[Any], prefix: str) -> Key:
    found = next((key for key in ledger_keys.list_keys(tx, None) if key.prefix == prefix), None)
    if found is None:
        raise _no_live_key(prefix)
    return found


def _no_live_key(prefix: str) -> FailedError:
    return FailedError(f"there is no live key {prefix!r}; nothing changed")


@contextmanager
def ledger() -> Iterator[psycopg.Connection[Any]]:
    """A connection to the database of the settings, as an operator."""
    with connected(Role.OPERATOR) as tx:
        yield tx


@contextmanager
def connected(role: Role | None) -> Iterator[psycopg.Connection[Any]]:
    """The same in another role, or as the account itself."""
    database = Database(read_settings().need_database(), role, size=1, name="haulier console")
    try:
        with database.plumbing() as tx:
            yield tx
    except psycopg.errors.InvalidParameterValue as error:  # a role that is not there, or not to be assumed
        raise FailedError(
            f"{str(error).strip()}; work as the owner of the database, or with a login for console (`haulier logins`)"
        ) from None
    except AWAY as error:
        raise FailedError(f"the database cannot be reached: {str(error).strip()}") from None
    except (psycopg.errors.UndefinedTable, psycopg.errors.InvalidSchemaName):
        raise FailedError("the database has no tables of Haulier's; run `haulier migrate`") from None
    finally:
        database.close()


def _find_tenant(tx: psycopg.Connection[Any], slug: str) -> Tenant:
    tenant = ledger_keys.find_tenant(tx, slug)
    if tenant is None:
        raise FailedError(f"there is no tenant {slug!r}; make it with `haulier tenants create {slug}`")
    return tenant


def _tenant(tenant: Tenant) -> dict[str, Any]:
    return {"slug": tenant.slug, "name": tenant.name, "created_at": tenant.created_at}


def _key(key: Key) -> dict[str, Any]:
    names = ("id", "prefix", "role", "payloads", "name", "tenant", "created_at", "expires_at", "revoked_at", "last_used_at")
    return {name: getattr(key, name) for name in names}
