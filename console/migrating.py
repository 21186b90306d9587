"""`haulier migrate`: bring the database to this release. Safe to run twice, and from two places at once."""

from __future__ import annotations

import psycopg
from sqlalchemy import create_engine

from config import logs
from console.failing import FailedError
from console.starting import AWAY, introduce, load_handlers, read_settings
from ledger.connection import sqlalchemy_url
from ledger.migrate import migrate as migrate_ledger
from pipelines.orders.schema import create_tables


def migrate() -> None:
    """Create or update the tables of the ledger and of the commands."""
    settings = read_settings()
    logs.configure(settings.log_format)
    handlers = load_handlers(settings)
    url = settings.need_database()
    try:
        create_everything(url)
        introduce(url, handlers)
    except psycopg.errors.InsufficientPrivilege as error:
        raise FailedError("; ".join(part for part in (error.diag.message_primary, error.diag.message_hint) if part)) from None
    except AWAY as error:
        raise FailedError(f"the database cannot be reached: {str(error).strip()}") from None
    print("the database is ready for this release")


def create_everything(url: str) -> None:
    migrate_ledger(url)
    engine = create_engine(sqlalchemy_url(url))
    with engine.begin() as connection:
        create_tables(connection)
    engine.dispose()
