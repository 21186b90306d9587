"""The ledger's tables: see 0001_ledger.sql beside this folder."""

from __future__ import annotations

from pathlib import Path

from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    sql = (Path(__file__).parents[1] / "0001_ledger.sql").read_text()
    driver = op.get_bind().connection.driver_connection
    assert driver is not None
    driver.execute(sql)  # the whole file, as it stands: no parameter in it
