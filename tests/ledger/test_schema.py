"""The schema: migrated once however often and from wherever it is asked for."""

from __future__ import annotations

import threading

import psycopg
import pytest

from ledger.migrate import migrate, problem

pytestmark = pytest.mark.every_postgres


def test_migrating_from_two_places_at_once_is_migrating_once(empty_database_url: str):
    errors: list[Exception] = []

    def run() -> None:
        try:
            migrate(empty_database_url)
        except Exception as error:  # noqa: BLE001
            errors.append(error)

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert errors == []
    with psycopg.connect(empty_database_url) as connection:
        found = connection.execute("select count(*) from information_schema.tables where table_schema = 'haulier'").fetchone()
    assert found is not None
    assert found[0] > 10


def test_a_release_says_what_to_do_about_a_schema_that_is_behind(empty_database_url: str, database_url: str):
    with psycopg.connect(database_url, autocommit=True) as tx, psycopg.connect(empty_database_url, autocommit=True) as behind:
        assert problem(tx) is None
        assert problem(behind) == "the schema is at nothing, this release needs 0021; run `haulier migrate`"
        tx.execute("update haulier.migrations set version_num = '9999'")
        assert problem(tx) is None  # a later release has been here; its migrations leave this one what it needs


def test_begin_and_settle_touch_no_index_of_jobs(database_url: str):
    with psycopg.connect(database_url) as connection:
        indexed = connection.execute(
            "select a.attname from pg_index i join pg_attribute a on a.attrelid = i.indrelid and a.attnum = any(i.indkey)"
            " where i.indrelid = 'haulier.jobs'::regclass"
        ).fetchall()

    assert {name for (name,) in indexed} == {"id", "tenant_id", "parent_id"}
