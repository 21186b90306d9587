"""Bring a database to the schema that this release needs: what `haulier migrate` runs. Safe to run twice, and from two places at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import psycopg
from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, NullPool, create_engine, text

from ledger.connection import sqlalchemy_url

#: Any number that nothing else in the database takes an advisory lock on: "haul" in ASCII.
LOCK = 0x6861756C


def migrate(url: str) -> None:
    """Apply what is missing, in one transaction. A second one at the same time waits for the first, then finds nothing to do."""
    engine = create_engine(sqlalchemy_url(url), poolclass=NullPool)
    with engine.begin() as connection:
        connection.execute(text("select pg_advisory_xact_lock(:lock)"), {"lock": LOCK})
        # Rows that row-level security would hide from an owner are an error here, and not silently left out of a migration.
        connection.execute(text("set local row_security = off"))
        connection.execute(text("create schema if not exists haulier"))
        command.upgrade(_config(connection), "head")


FOUND = "select version_num from haulier.migrations"


def problem(tx: psycopg.Connection[Any]) -> str | None:
    """Why this release cannot work on the schema as it is, or None. A schema that a later release has brought further will do.
    Takes a connection in autocommit.
    """
    scripts = ScriptDirectory.from_config(_config(None))
    wanted = scripts.get_current_head()
    try:
        row = tx.execute(FOUND).fetchone()
    except (psycopg.errors.UndefinedTable, psycopg.errors.InsufficientPrivilege):  # the second: made by a release that had no roles
        row = None
    found = row[0] if row else None
    known = {script.revision for script in scripts.walk_revisions()}
    if found == wanted or (found is not None and found not in known):
        return None
    return f"the schema is at {found or 'nothing'}, this release needs {wanted}; run `haulier migrate`"


def _config(connection: Connection | None) -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    return config
