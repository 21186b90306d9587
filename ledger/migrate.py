"""Bring a database to the schema that this release needs: what `haulier migrate` runs. Safe to run twice, and from two places at once."""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
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
        connection.execute(text("create schema if not exists haulier"))
        command.upgrade(_config(connection), "head")


def problem(connection: Connection) -> str | None:
    """Why this release cannot work on the schema as it is, or None. A schema that a later release has brought further will do."""
    scripts = ScriptDirectory.from_config(_config(None))
    wanted = scripts.get_current_head()
    context = MigrationContext.configure(connection, opts={"version_table": "migrations", "version_table_schema": "haulier"})
    found = context.get_current_revision()
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
