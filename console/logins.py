"""`haulier logins`: the accounts that services log in to the database with, made by whoever owns the database."""

from __future__ import annotations

import os
import secrets
from typing import Annotated
from urllib.parse import quote, urlsplit, urlunsplit

import psycopg
import typer

from console.access import connected
from console.failing import FailedError, WrongUseError
from console.printing import Json, print_facts, print_json, print_table
from console.starting import read_settings
from ledger import roles

logins = typer.Typer(help="Accounts of the services in the database.", no_args_is_help=True)

PASSWORD = "HAULIER_LOGIN_PASSWORD"  # noqa: S105


@logins.command("create")
def create_login(
    name: Annotated[str, typer.Argument(help="of the account, as haulier_serve")],
    service: Annotated[str, typer.Option("--for", help=", ".join(roles.SERVICES))],
    as_json: Json = False,
) -> None:
    """Make an account for a service, with the password of HAULIER_LOGIN_PASSWORD, else a new one. Again: set both anew.

    Run it as whoever owns the database, after `haulier migrate`.
    """
    if service not in roles.SERVICES:
        raise WrongUseError(f"--for is one of {', '.join(roles.SERVICES)}, got {service!r}; nothing was made")
    url = read_settings().need_database()
    given = os.environ.get(PASSWORD)
    password = given or secrets.token_urlsafe(24)
    with connected(None) as tx, tx.transaction():
        try:
            roles.add_account(tx, name, password, service)
        except ValueError as error:
            raise WrongUseError(f"{error}; nothing was made") from None
        except (psycopg.errors.InsufficientPrivilege, psycopg.errors.ReservedName) as error:
            raise FailedError(f"the account {name} was not made: {error.diag.message_primary}") from None
    made = {"name": name, "service": service, "database_url": log_in_as(url, name, "***" if given else password)}
    if as_json:
        print_json(made)
    else:
        print_facts(made)


@logins.command("list")
def list_logins(as_json: Json = False) -> None:
    """Every account that may work here, and the services that it can run."""
    with connected(None) as tx:
        found = roles.list_accounts(tx)
    if as_json:
        print_json({"items": [{"name": name, "services": services} for name, services in found], "next_cursor": None})
    else:
        print_table(["name", "services"], [(name, ", ".join(services)) for name, services in found])


def log_in_as(url: str, name: str, password: str) -> str:
    """The same database by another account."""
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    return urlunsplit(parts._replace(netloc=f"{quote(name, safe='')}:{quote(password, safe='*')}@{host}"))
