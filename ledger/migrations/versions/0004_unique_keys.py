"""Unique keys and their holders: see 0004_unique_keys.sql beside this folder."""

from __future__ import annotations

from ledger.migrations.files import run_file

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    run_file("0004_unique_keys.sql")
