"""Events in the order of their transactions, and the audit's table: see 0003_groundwork.sql beside this folder."""

from __future__ import annotations

from ledger.migrations.files import run_file

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    run_file("0003_groundwork.sql")
