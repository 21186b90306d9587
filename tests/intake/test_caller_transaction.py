"""`producers.submit` and `producers.wake`: an upstream service submits in its own transaction."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest
import sqlalchemy
from psycopg.rows import scalar_row

import producers
from config.ids import uuid7
from ledger import notices, workers
from ledger.connection import Database, sqlalchemy_url
from tests.intake.commands import HANDLERS, Note
from tests.intake.conftest import NOTE, Api, count


def test_the_job_is_there_if_and_only_if_the_caller_commits(api: Api, database: Database):
    with psycopg.connect(database.url) as connection:
        producers.submit(connection, Note(text="no"), tenant=api.slug, handlers=HANDLERS)
        connection.rollback()
        job_id = producers.submit(connection, Note(text="yes"), tenant=api.slug, labels={"a": "b"}, priority=3, handlers=HANDLERS)
        connection.commit()

    assert count(database, api) == 1
    job = api.get(f"/v1/jobs/{job_id}", "seeing").json()
    assert (job["payload"], job["labels"], job["priority"], job["state"]) == ({"text": "yes"}, {"a": "b"}, 3, "queued")


@pytest.mark.parametrize("begun", [True, False])
def test_sqlalchemy_commits_it_too(api: Api, database: Database, begun: bool):
    engine = sqlalchemy.create_engine(sqlalchemy_url(database.url))
    with engine.connect() as connection:
        if begun:
            connection.execute(sqlalchemy.text("select 1"))
        producers.submit(connection, Note(text="a"), tenant=api.slug, handlers=HANDLERS)
        connection.commit()
        producers.submit(connection, Note(text="b"), tenant=api.slug, handlers=HANDLERS)
        connection.rollback()
        producers.wake(connection)
    engine.dispose()

    assert count(database, api) == 1


def test_the_same_key_is_the_same_job_over_http_too(api: Api, database: Database):
    over_http = api.submit({**NOTE, "max_failures": 2}, key="k").json()["id"]

    with psycopg.connect(database.url, autocommit=True) as connection:
        here = producers.submit(connection, Note(text="hello"), tenant=api.slug, max_failures=2, key="k", handlers=HANDLERS)
        with pytest.raises(producers.KeyReusedError, match="used before"):
            producers.submit(connection, Note(text="other"), tenant=api.slug, key="k", handlers=HANDLERS)

    assert str(here) == over_http


def test_what_http_refuses_is_refused_here_and_leaves_the_transaction_whole(api: Api, database: Database):
    with psycopg.connect(database.url) as connection:
        refused: list[tuple[type[Exception], str, dict[str, Any]]] = [
            (ValueError, "nul \0", {}),
            (ValueError, "x", {"tenant": "no-such-one"}),
            (ValueError, "x", {"priority": 1000}),
            (ValueError, "x", {"delay": 1, "run_at": datetime.now(UTC)}),
            (ValueError, "x", {"run_at": datetime.now(UTC) + timedelta(days=400)}),
            (ValueError, "x", {"run_at": datetime(2026, 1, 1)}),  # noqa: DTZ001
            (ValueError, "x", {"max_failures": 100}),
            (ValueError, "x", {"key": "é"}),
            (LookupError, "x", {"handlers": {}}),
        ]
        usual: dict[str, Any] = {"tenant": api.slug, "handlers": HANDLERS}
        for error, text, options in refused:
            with pytest.raises(error):
                producers.submit(connection, Note(text=text), **usual | options)
        producers.submit(connection, Note(text="fine"), tenant=api.slug, handlers=HANDLERS)

    assert count(database, api) == 1


def test_a_sleeping_relay_is_woken_after_the_commit(api: Api, database: Database):
    relay = uuid7()
    with psycopg.connect(database.url, autocommit=True, row_factory=scalar_row) as listener, psycopg.connect(database.url) as caller:
        workers.register(listener, relay, "relay", "0")
        workers.set_asleep(listener, relay, asleep=True)
        listener.execute(f"listen {notices.CHANNEL}")
        producers.submit(caller, Note(text="a"), tenant=api.slug, handlers=HANDLERS)
        with pytest.raises(RuntimeError, match="after the commit"):
            producers.wake(caller)
        caller.commit()

        producers.wake(caller)
        by_connection = len(list(listener.notifies(timeout=5, stop_after=1)))
        producers.wake(database.url)
        by_url = len(list(listener.notifies(timeout=5, stop_after=1)))
        api.accepted()
        by_intake = len(list(listener.notifies(timeout=5, stop_after=1)))
        workers.stop(listener, relay)

    assert (by_connection, by_url, by_intake) == (1, 1, 1)
