"""Alembic's entry: run the migrations on the connection that `ledger.migrate` opened, in its transaction."""

from __future__ import annotations

from alembic import context

connection = context.config.attributes["connection"]
context.configure(connection=connection, version_table="migrations", version_table_schema="haulier", transactional_ddl=True)
with context.begin_transaction():
    context.run_migrations()
