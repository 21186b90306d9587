"""`haulier tenants` and `haulier keys`: on the database itself, for the first key of an installation comes from nowhere else."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Annotated, Any

import psycopg
import typer

from console.failing import FailedError, WrongUseError
from console.printing import Json, print_facts, print_json, print_table
from console.starting import AWAY, read_settings
from ledger import audit, roles
from ledger import keys as ledger_keys
from ledger.connection import Database
from ledger.keys import ROLES, Key, Tenant
from ledger.roles import Role

tenants = typer.Typer(help="Tenants: whose jobs are whose.", no_args_is_help=True)
keys = typer.Typer(help="API keys.", no_args_is_help=True)


@tenants.command("create")
def create_tenant(
    slug: Annotated[str, typer.Argument(help="its short name: lower-case letters, digits and hyphens")],
    name: Annotated[str | None, typer.Option(help="its name for people; the slug by default")] = None,
    as_json: Json = False,
) -> None:
    """Make a tenant."""
    with ledger() as tx:
        try:
            tenant = ledger_keys.add_tenant(tx, slug, name or slug)
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
    with ledger() as tx:
        owner = _find_tenant(tx, tenant) if tenant else None
        key_id, key = ledger_keys.add_key(tx, owner.id if owner else None, role, name or role, payloads=payloads, expires_at=until)
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
    columns = ["prefix", "role", "tenant", "name", "payloads", "created", "expires", "revoked"]
    facts = [(key.prefix, key.role, key.tenant, key.name, key.payloads, key.created_at, key.expires_at, key.revoked_at) for key in found]
    print_table(columns, facts)


@keys.command("revoke")
def revoke_key(prefix: Annotated[str, typer.Argument(help="what stands between hl_ and the next underscore")]) -> None:
    """Revoke a key. An intake that has just seen it may take it for some seconds more."""
    with ledger() as tx:
        if not ledger_keys.revoke_key(tx, prefix):
            raise FailedError(f"there is no live key {prefix!r}; nothing changed")
    print(f"key {prefix} revoked")


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
    names = ("id", "prefix", "role", "payloads", "name", "tenant", "created_at", "expires_at", "revoked_at")
    return {name: getattr(key, name) for name in names}
