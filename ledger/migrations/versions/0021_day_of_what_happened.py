"""The day on which events and attempts were archived: see 0021_day_of_what_happened.sql beside this folder."""

from __future__ import annotations

from ledger.migrations.files import run_file

revision = "0021"
down_revision = "0020"


def upgrade() -> None:
    run_file("0021_day_of_what_happened.sql")
