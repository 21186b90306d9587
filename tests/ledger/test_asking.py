"""`ask`: the hot statements, on whatever connection they run."""

from __future__ import annotations

from typing import Any, LiteralString
from uuid import UUID

import psycopg
import pytest
from psycopg.pq import TransactionStatus

from ledger import jobs
from ledger.connection import ask
from tests.ledger.conftest import Books

SUM: LiteralString = "select $1::integer + 1, $2::uuid, $3::jsonb, $4::text"
VALUES = (41, UUID(int=7), '{"a": ["é"]}', None)
PREPARED = "select count(*) from pg_prepared_statements where statement = %s"


def prepared(connection: psycopg.Connection[Any]) -> int:
    row = connection.execute(PREPARED, (SUM,)).fetchone()
    assert row is not None
    return row[0]


def test_gives_rows_as_a_cursor_does_and_prepares_once(books: Books) -> None:
    for _ in range(3):
        assert ask(books.tx, SUM, *VALUES) == [(42, UUID(int=7), {"a": ["é"]}, None)]
    assert prepared(books.tx) == 1


def test_raises_psycopgs_errors_and_goes_on(books: Books) -> None:
    with pytest.raises(psycopg.errors.InvalidTextRepresentation):
        ask(books.tx, SUM, "x", *VALUES[1:])
    assert len(ask(books.tx, SUM, *VALUES)) == 1


def test_prepares_again_what_was_thrown_away(books: Books) -> None:
    ask(books.tx, SUM, *VALUES)
    books.tx.execute("deallocate all", prepare=False)
    assert len(ask(books.tx, SUM, *VALUES)) == 1
    assert prepared(books.tx) == 1


def test_a_name_that_is_there_still_is_not_given_again(books: Books) -> None:
    """One statement was prepared before all was thrown away, the other after it."""
    other: LiteralString = "select $1::integer"
    ask(books.tx, SUM, *VALUES)
    books.tx.execute("deallocate all", prepare=False)
    for _ in range(2):
        assert ask(books.tx, other, 5) == [(5,)]
        assert len(ask(books.tx, SUM, *VALUES)) == 1


def test_within_a_transaction_and_after_its_rollback(books: Books) -> None:
    """The driver throws away all that is prepared after a rollback."""
    ask(books.tx, SUM, *VALUES)
    for _ in range(2):
        with books.tx.transaction(force_rollback=True):
            assert len(ask(books.tx, SUM, *VALUES)) == 1
            books.tx.execute("select 1")
    assert len(ask(books.tx, SUM, *VALUES)) == 1


def test_a_lost_connection_is_an_operational_error(books: Books) -> None:
    with books.database.connect() as lost:
        ask(lost, SUM, *VALUES)
        books.tx.execute("select pg_terminate_backend(%s)", (lost.info.backend_pid,))
        with pytest.raises(psycopg.OperationalError):
            ask(lost, SUM, *VALUES)


@pytest.mark.parametrize("threshold", [None, 0])
def test_on_a_callers_connection_the_transaction_is_the_callers(books: Books, threshold: int | None) -> None:
    """Its first statement begins the transaction, nothing is prepared that shall not be, and nothing is there before its commit."""
    wish = books.wish()
    with psycopg.connect(books.database.url, prepare_threshold=threshold) as caller:
        assert set(jobs.submit(caller, [wish])) == {wish.id}
        assert caller.info.transaction_status == TransactionStatus.INTRANS
        assert jobs.exists(books.tx, [wish.id]) == set()
        ask(caller, SUM, *VALUES)
        assert prepared(caller) == (threshold is not None)
    assert jobs.exists(books.tx, [wish.id]) == {wish.id}


def test_nothing_is_prepared_for_a_caller_who_wants_nothing_prepared(books: Books) -> None:
    """Behind a pool that lends a connection for each transaction, the next one would be another's."""
    with psycopg.connect(books.database.url, autocommit=True, prepare_threshold=None) as caller:
        ask(caller, SUM, *VALUES)
        assert prepared(caller) == 0


@pytest.mark.parametrize("threshold", [None, 0])
def test_in_a_callers_pipeline(books: Books, threshold: int | None) -> None:
    wish = books.wish()
    with psycopg.connect(books.database.url, autocommit=threshold == 0, prepare_threshold=threshold) as caller, caller.pipeline():
        assert set(jobs.submit(caller, [wish])) == {wish.id}
    assert jobs.exists(books.tx, [wish.id]) == {wish.id}


def test_on_the_handlers_connection_after_what_was_deferred(books: Books) -> None:
    engine = books.database.handlers
    with engine.connect() as lent:
        driver: Any = lent.connection.driver_connection
        driver.execute("create temp table deferred (n integer)")
        driver.defer("insert into deferred values ($1)", 5)
        assert ask(driver, "select n + $1::integer from deferred", 1) == [(6,)]
        driver.rollback()
