"""Log lines of running attempts: see 0016_lines_of_what_runs.sql beside this folder."""

from __future__ import annotations

from ledger.migrations.files import run_file

revision = "0016"
down_revision = "0015"


def upgrade() -> None:
    run_file("0016_lines_of_what_runs.sql")
