"""The roles that processes assume in the database, and the accounts they log in with (decision 0011).

Group roles are made by the migration. An account of a service may assume the roles of its service, and has no right of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import Any

from psycopg import Connection, sql

Tx = Connection[Any]


class Role(StrEnum):
    """What it is for. `CLIENT` and `HANDLER` see the rows of the one tenant that their transaction is bound to."""

    INTAKE = "haulier_intake"
    RELAY = "haulier_relay"
    WORKER = "haulier_worker"
    UPKEEP = "haulier_upkeep"
    CLIENT = "haulier_client"
    OPERATOR = "haulier_operator"
    HANDLER = "haulier_handler"


#: What each service's account assumes; `console` is `haulier tenants` and `haulier keys`.
SERVICES: dict[str, tuple[Role, ...]] = {
    "serve": (Role.INTAKE, Role.CLIENT, Role.OPERATOR),
    "relay": (Role.RELAY,),
    "work": (Role.WORKER, Role.HANDLER),
    "upkeep": (Role.UPKEEP,),
    "console": (Role.OPERATOR,),
}

#: By major version, the first patch without CVE-2023-2455, CVE-2024-10976 (a reused plan shows other rows than it should) and CVE-2025-8713
#: (statistics show them).
SAFE_FROM = {15: 14, 16: 10, 17: 6}

ACCOUNT = """
select r.rolname, r.rolsuper, r.rolbypassrls, current_setting('server_version_num')::integer,
       exists (select from pg_class c join pg_namespace n on n.oid = c.relnamespace
                where n.nspname = 'haulier' and pg_has_role(r.oid, c.relowner, 'member')),
       array(select w from unnest(%s::text[]) w left join pg_roles g on g.rolname = w
              where g.oid is null or not pg_has_role(r.oid, g.oid, 'member'))
  from pg_roles r where r.rolname = session_user
"""


def problems(tx: Tx, roles: Sequence[Role]) -> list[str]:
    """Why the account that is logged in must not work with these roles, a sentence each."""
    row = tx.execute(ACCOUNT, ([str(role) for role in roles],)).fetchone()
    assert row is not None
    name, superuser, bypasses, version, owns, missing = row
    found: list[str] = []
    if superuser or bypasses or owns:
        what = "a superuser" if superuser else "exempt from row-level security" if bypasses else "the owner of the tables, or like it"
        found.append(
            f"the database account {name} is {what}, whom no rule holds back; work with an account of the service's own (`haulier logins`)"
        )
    elif missing:
        found.append(f"the database account {name} may not assume {', '.join(missing)}; make one for this service with `haulier logins`")
    major, minor = divmod(version, 10_000)
    if major < 15 or minor < SAFE_FROM.get(major, 0):
        wanted = ", ".join(f"{each}.{patch}" for each, patch in SAFE_FROM.items())
        found.append(f"Postgres {major}.{minor} may show rows of another tenant; take {wanted} or 18 at least")
    return found


#: By service, the most connections that its account may hold, and what ends a session that nobody minds any more: the net under the limits
#: that processes set for themselves. Handlers' statements may take as long as their attempts.
CONNECTIONS = {"serve": 200, "relay": 20, "work": 500, "upkeep": 20, "console": 10}
LIMITS = {"lock_timeout": "30s", "idle_in_transaction_session_timeout": "60s"}
STATEMENT = {"serve": "60s", "relay": "60s", "work": "0", "upkeep": "60s", "console": "60s"}


GROUPS = [*Role, "haulier_producer", "haulier_definer"]
TAKEN = "select 1 from pg_roles where rolname = %s and (rolname = any(%s::text[]) or rolsuper)"


def add_account(tx: Tx, name: str, password: str, service: str) -> None:
    """Make the account that a service logs in with; one that is there already gets this password, and the rights of this service only.

    Inside a transaction of the caller's. Raises psycopg.errors.InsufficientPrivilege when the caller may not make roles, ValueError for the
    name of a group role or a superuser.
    """
    if tx.execute(TAKEN, (name, [str(group) for group in GROUPS])).fetchone():
        raise ValueError(
            f"{name} is a role that works otherwise; an account of a service has a name of its own, such as haulier_{service}_login"
        )
    account = sql.Identifier(name)
    verifier = tx.pgconn.encrypt_password(password.encode(), name.encode(), b"scram-sha-256").decode()  # the server never sees the password
    known = tx.execute("select 1 from pg_roles where rolname = %s", (name,)).fetchone()
    made = sql.SQL("{} role {} login noinherit connection limit {} password {}").format(
        sql.SQL("alter" if known else "create"), account, sql.Literal(CONNECTIONS[service]), sql.Literal(verifier)
    )
    tx.execute(made)
    for setting, value in {**LIMITS, "statement_timeout": STATEMENT[service]}.items():
        tx.execute(sql.SQL("alter role {} set {} = {}").format(account, sql.Identifier(setting), sql.Literal(value)))
    wanted = SERVICES[service]
    held = {row[0] for row in tx.execute(HELD, (name,))}
    for role in (each for each in Role if each in held and each not in wanted):
        tx.execute(sql.SQL("revoke {} from {}").format(sql.Identifier(role), account))
    for role in wanted:
        tx.execute(sql.SQL("grant {} to {}").format(sql.Identifier(role), account))


HELD = (
    "select g.rolname from pg_auth_members m join pg_roles g on g.oid = m.roleid join pg_roles r on r.oid = m.member where r.rolname = %s"
)

ACCOUNTS = """
select r.rolname, array_agg(g.rolname::text) from pg_auth_members m join pg_roles g on g.oid = m.roleid join pg_roles r on r.oid = m.member
 where r.rolcanlogin and g.rolname = any(%s) group by 1 order by 1
"""


def list_accounts(tx: Tx) -> list[tuple[str, list[str]]]:
    """Every account that may log in and assume some of the roles, with the services that it can run."""
    rows = tx.execute(ACCOUNTS, ([str(role) for role in Role],)).fetchall()
    return [(name, [service for service, wanted in SERVICES.items() if set(wanted) <= set(held)]) for name, held in rows]


def grant_tenant(tx: Tx, tenant_id: int, account: str) -> bool:
    """Let an account of the database submit for a tenant (`haulier.submit`, `producers.submit`). False if it may already.
    Raises LookupError when there is no such account.
    """
    if tx.execute("select 1 from pg_roles where rolname = %s", (account,)).fetchone() is None:
        raise LookupError(f"the database has no account {account!r}")
    sql_ = "insert into haulier.submitters (tenant_id, role) values (%s, %s) on conflict do nothing"
    return tx.execute(sql_, (tenant_id, account)).rowcount == 1


def revoke_tenant(tx: Tx, tenant_id: int, account: str) -> bool:
    """False if it was not granted."""
    return tx.execute("delete from haulier.submitters where tenant_id = %s and role = %s", (tenant_id, account)).rowcount == 1
