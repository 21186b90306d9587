"""When a key was last used: see 0007_keys.sql beside this folder."""

from __future__ import annotations

from ledger.migrations.files import run_file

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    run_file("0007_keys.sql")
