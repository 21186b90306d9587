"""Limits of tenants: see 0011_limits.sql beside this folder."""

from __future__ import annotations

from ledger.migrations.files import run_file

revision = "0011"
down_revision = "0010"


def upgrade() -> None:
    run_file("0011_limits.sql")
