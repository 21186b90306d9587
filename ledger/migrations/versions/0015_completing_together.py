"""Jobs that share a transaction: see 0015_completing_together.sql beside this folder."""

from __future__ import annotations

from ledger.migrations.files import run_file

revision = "0015"
down_revision = "0014"


def upgrade() -> None:
    run_file("0015_completing_together.sql")
