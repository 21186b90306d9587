"""One job settled for less: see 0002_cheaper_settling.sql beside this folder."""

from __future__ import annotations

from ledger.migrations.files import run_file

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    run_file("0002_cheaper_settling.sql")
