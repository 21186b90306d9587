"""Webhooks, their deliveries, and the dispatcher's cursor: see 0008_webhooks.sql beside this folder."""

from __future__ import annotations

from ledger.migrations.files import run_file

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    run_file("0008_webhooks.sql")
