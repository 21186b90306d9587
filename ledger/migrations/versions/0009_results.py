"""Upkeep may take results away: see 0009_results.sql beside this folder."""

from __future__ import annotations

from ledger.migrations.files import run_file

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    run_file("0009_results.sql")
