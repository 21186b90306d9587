"""Migrations are SQL files, run as they stand."""

from __future__ import annotations

from pathlib import Path

from alembic import op


def run_file(name: str) -> None:
    """Run one that lies beside this module, in the migration's transaction."""
    driver = op.get_bind().connection.driver_connection
    assert driver is not None
    driver.execute((Path(__file__).parent / name).read_text())  # the whole file: no parameter in it
