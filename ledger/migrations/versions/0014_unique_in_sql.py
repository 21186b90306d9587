"""`unique` in SQL's haulier.submit: see 0014_unique_in_sql.sql beside this folder."""

from __future__ import annotations

from ledger.migrations.files import run_file

revision = "0014"
down_revision = "0013"


def upgrade() -> None:
    run_file("0014_unique_in_sql.sql")
