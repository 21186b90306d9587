"""The ledger's tables: see 0001_ledger.sql beside this folder."""

from __future__ import annotations

from ledger.migrations.files import run_file

revision = "0001"
down_revision = None


def upgrade() -> None:
    run_file("0001_ledger.sql")
