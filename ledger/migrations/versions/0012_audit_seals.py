"""Seals of the audit: see 0012_audit_seals.sql beside this folder."""

from __future__ import annotations

from ledger.migrations.files import run_file

revision = "0012"
down_revision = "0011"


def upgrade() -> None:
    run_file("0012_audit_seals.sql")
