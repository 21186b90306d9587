"""Who may read the ids of processes: see 0018_who_sleeps.sql beside this folder."""

from __future__ import annotations

from ledger.migrations.files import run_file

revision = "0018"
down_revision = "0017"


def upgrade() -> None:
    run_file("0018_who_sleeps.sql")
