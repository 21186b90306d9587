"""Roles, and whose rows they see: see 0005_roles.sql beside this folder."""

from __future__ import annotations

from ledger.migrations.files import run_file

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    run_file("0005_roles.sql")
