"""What signs watch tokens: see 0010_watch_tokens.sql beside this folder."""

from __future__ import annotations

from ledger.migrations.files import run_file

revision = "0010"
down_revision = "0009"


def upgrade() -> None:
    run_file("0010_watch_tokens.sql")
