"""What every process does before its own part: read the settings, and see that the ledger is one that can be worked on."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import psycopg
import sqlalchemy.exc
import structlog
from pydantic import ValidationError

from config import logs
from config.outage import ride_out
from config.settings import Settings
from console.failing import FailedError, WrongUseError
from ledger import workers
from ledger.connection import Database
from ledger.migrate import problem
from ledger.roles import SERVICES, Role
from ledger.roles import problems as role_problems
from pipelines.command import Handler
from pipelines.load import describe, load

log = structlog.get_logger()

#: What a database that cannot be reached raises, whichever way it is asked.
AWAY = (psycopg.OperationalError, psycopg.InterfaceError, sqlalchemy.exc.OperationalError, sqlalchemy.exc.TimeoutError)


def read_settings(**overrides: Any) -> Settings:
    """Those that are None are left to the environment. Raises WrongUseError that names every wrong one."""
    try:
        return Settings(**{name: value for name, value in overrides.items() if value is not None})
    except ValidationError as error:
        wrong = [
            f"HAULIER_{'_'.join(map(str, each['loc'])).upper()}: {each['msg'].removeprefix('Value error, ')}" for each in error.errors()
        ]
        raise WrongUseError("; ".join(wrong)) from None
    except ValueError as error:  # haulier.toml is not TOML
        raise WrongUseError(f"haulier.toml cannot be read: {error}") from None


def load_handlers(settings: Settings) -> Mapping[str, Handler]:
    try:
        handlers = load(settings.handlers)
        describe(handlers)
    except ValueError as error:
        raise WrongUseError(str(error)) from None
    return handlers


def begin(settings: Settings, service: str) -> Mapping[str, Handler]:
    """For a process that cannot work without the ledger: waits for one that is away. Raises FailedError for one that is unfit, or an
    account that must not work (see `ledger.roles`).
    """
    logs.configure(settings.log_format)
    handlers = load_handlers(settings)
    url = settings.need_database()
    ride_out("the database", lambda: introduce(url, handlers, SERVICES[service]), AWAY)
    return handlers


def begin_without_waiting(settings: Settings, service: str) -> Mapping[str, Handler]:
    """For an intake, which must answer (503) while the ledger is away."""
    logs.configure(settings.log_format)
    handlers = load_handlers(settings)
    url = settings.need_database()
    roles = SERVICES[service]
    try:
        introduce(url, handlers, roles)
    except AWAY as error:
        log.warning("the database is away; starting all the same", error=str(error).strip())
        threading.Thread(target=_introduce_later, args=(url, handlers, roles), daemon=True).start()
    return handlers


def _introduce_later(url: str, handlers: Mapping[str, Handler], roles: Sequence[Role]) -> None:
    try:
        ride_out("the database", lambda: introduce(url, handlers, roles), AWAY)
    except FailedError as error:
        log.error("the database is back, and must not be worked on; leaving", error=str(error))  # noqa: TRY400  (told as a sentence)
        os.kill(os.getpid(), signal.SIGTERM)


def introduce(url: str, handlers: Mapping[str, Handler], roles: Sequence[Role] = ()) -> None:
    """Tell the ledger which commands there are, in the first of the roles. Raises FailedError when it is not fit to be worked on, or when
    the account that logs in must not work in these roles. Without roles it is the account's own work (migrate, dev).
    """
    problems = problems_of(url) + (account_problems(url, roles) if roles else [])
    if problems:
        raise FailedError("; ".join(problems))
    with _connected(url, roles[0] if roles else None) as tx:
        workers.remember_commands(tx, describe(handlers))


NOT_DURABLE = """
select name from pg_settings where name in ('fsync', 'full_page_writes', 'synchronous_commit') and setting = 'off' order by name
"""


def problems_of(url: str) -> list[str]:
    """Why the ledger must not be worked on, a sentence each: an old schema, or a server that forgets what it has committed."""
    with _connected(url) as tx:
        schema = problem(tx)
        off = [row[0] for row in tx.execute(NOT_DURABLE)]
    forgetful = f"Postgres runs with {', '.join(off)} off and may forget what it has committed; turn it on" if off else None
    return [each for each in (schema, forgetful) if each]


def account_problems(url: str, roles: Sequence[Role]) -> list[str]:
    """Why the account that logs in must not work in these roles, a sentence each."""
    with _connected(url) as tx:
        return role_problems(tx, roles)


@contextlib.contextmanager
def _connected(url: str, role: Role | None = None) -> Iterator[psycopg.Connection[Any]]:
    database = Database(url, role, size=1, name="haulier start")
    try:
        with database.plumbing() as tx:
            yield tx
    finally:
        database.close()
