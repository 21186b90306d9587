"""How jobs that shared a transaction are ended: see 0020_ends_by_id.sql beside this folder."""

from __future__ import annotations

from ledger.migrations.files import run_file

revision = "0020"
down_revision = "0019"


def upgrade() -> None:
    run_file("0020_ends_by_id.sql")
