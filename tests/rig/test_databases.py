"""The fixtures that give each test a database and a vhost of its own."""

from __future__ import annotations

import psycopg
import pytest


@pytest.mark.every_postgres
def test_a_test_gets_a_migrated_database_of_its_own(database_url: str) -> None:
    with psycopg.connect(database_url) as connection:
        jobs = connection.execute("select count(*) from haulier.jobs").fetchone()

    assert jobs == (0,)
