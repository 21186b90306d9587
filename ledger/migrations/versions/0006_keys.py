"""When a key was last used: see 0006_keys.sql beside this folder."""

from __future__ import annotations

from ledger.migrations.files import run_file

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    run_file("0006_keys.sql")
