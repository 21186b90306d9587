"""What upkeep may write: see 0017_upkeep_by_column.sql beside this folder."""

from __future__ import annotations

from ledger.migrations.files import run_file

revision = "0017"
down_revision = "0016"


def upgrade() -> None:
    run_file("0017_upkeep_by_column.sql")
