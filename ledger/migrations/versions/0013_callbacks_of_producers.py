"""Callbacks of upstream services that submit in transactions of their own: see 0013_callbacks_of_producers.sql beside this folder."""

from __future__ import annotations

from ledger.migrations.files import run_file

revision = "0013"
down_revision = "0012"


def upgrade() -> None:
    run_file("0013_callbacks_of_producers.sql")
