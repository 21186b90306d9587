"""The day on which a job was archived: see 0019_day_of_a_family.sql beside this folder."""

from __future__ import annotations

from ledger.migrations.files import run_file

revision = "0019"
down_revision = "0018"


def upgrade() -> None:
    run_file("0019_day_of_a_family.sql")
