"""The connection that handlers are lent: plain statements at once, deferred ones with the next, in one order whatever sends them."""

from __future__ import annotations

import contextlib
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from uuid import UUID

import psycopg
import pytest
from psycopg.errors import DivisionByZero, InFailedSqlTransaction, UndefinedTable, UniqueViolation
from psycopg.types.json import Jsonb

from ledger.connection import Database, Deadlines, driver_of, send
from ledger.lent import MOST_PREPARED, LentConnection

PREPARED = "select count(*) from pg_prepared_statements where name like 'haulier%'"


@pytest.fixture
def lent(books):
    with contextlib.closing(LentConnection.connect(books.database.url)) as connection:
        connection.execute("create temporary table numbers (n bigint primary key, what text) on commit preserve rows")
        connection.execute("commit")
        send(connection, b"begin")
        yield connection


def numbers(lent):
    return [row[0] for row in lent.ask("select n from numbers order by n").rows]


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("bigint", 2**63 - 1),
        ("bigint", -5),
        ("text", 'O\'Reilly \\ "quoted" ; drop table numbers; -- $1 %s'),
        ("text", "löwe 🦁\n"),
        ("text", ""),
        ("text", None),
        ("boolean", True),
        ("float8", -1.5),
        ("numeric", Decimal("12.340")),
        ("timestamptz", datetime(2026, 11, 27, 22, 0, tzinfo=UTC)),
        ("date", date(2026, 11, 27)),
        ("interval", timedelta(hours=-3)),
        ("uuid", UUID(int=7)),
        ("bytea", b"\0\\x'"),
        ("bigint[]", [1, None, -3]),
        ("text[]", ["a'b", "c,d", '"']),
        ("jsonb", Jsonb({"a": [1, "x'y"]})),
    ],
    ids=str,
)
def test_values_arrive_as_through_the_drivers_cursor(lent, kind, value):
    [[plainly]] = lent.ask(f"select $1::{kind}", value).rows
    [byhand] = lent.execute(f"select %s::{kind}", (value,)).fetchone()

    assert plainly == byhand
    assert type(plainly) is type(byhand)


def test_rows_that_were_changed_are_counted(lent):
    assert lent.ask("insert into numbers select generate_series(1, 3)").rowcount == 3
    assert lent.ask("update numbers set what = 'x' where n > $1", 1).rowcount == 2
    assert lent.ask("select n from numbers where n > $1", 5) == lent.ask("select n from numbers where n = 0")
    assert lent.ask("delete from numbers where n = 1 returning n, what").rows == [(1, None)]


@pytest.mark.parametrize(
    "next_one",
    [
        lambda lent: lent.ask("insert into numbers values (2)"),
        lambda lent: lent.execute("insert into numbers values (2)"),
        lambda lent: send(lent, b"insert into numbers values (2)"),
        lambda lent: lent.cursor().executemany("insert into numbers values (%s)", [(2,)]),
        lambda lent: lent.transaction().__enter__().connection.ask("insert into numbers values (2)"),
    ],
    ids=["plain", "driver", "command", "many", "savepoint"],
)
def test_what_is_deferred_comes_before_whatever_is_next(lent, next_one):
    lent.defer("insert into numbers values ($1, 'first')", 1)
    lent.defer("update numbers set n = n + 10")

    next_one(lent)

    assert numbers(lent) == [2, 11]


def test_a_deferred_statement_waits_for_the_next(lent, books):
    lent.defer("insert into numbers values (1)")
    assert lent.info.transaction_status == psycopg.pq.TransactionStatus.INTRANS
    assert lent.pgconn.exec_(b"select count(*) from numbers").get_value(0, 0) == b"0"

    assert numbers(lent) == [1]


def test_the_error_of_a_deferred_statement_is_raised_by_the_next_which_does_not_happen(lent):
    lent.ask("insert into numbers values (1)")
    lent.defer("insert into numbers values (1)")
    with pytest.raises(UniqueViolation):
        lent.ask("insert into numbers values (2)")
    with pytest.raises(InFailedSqlTransaction):
        lent.ask("insert into numbers values (3)")

    lent.rollback()
    assert numbers(lent) == []


def test_what_is_deferred_is_gone_with_its_transaction(lent):
    lent.commit = lambda: psycopg.Connection.commit(lent)
    lent.defer("insert into numbers values (1)")

    lent.rollback()

    assert numbers(lent) == []


def test_each_statement_is_prepared_once_and_not_too_many_are_kept(lent):
    for n in range(5):
        lent.ask("select $1::int", n)
    assert lent.execute(PREPARED).fetchone() == (1,)

    for n in range(MOST_PREPARED + 20):
        assert lent.ask(f"select {n}, $1::int", n).rows == [(n, n)]  # pyright: ignore[reportArgumentType]
    assert lent.execute(PREPARED).fetchone() == (MOST_PREPARED,)
    assert lent.ask("select $1::int", 7).rows == [(7,)]


def test_statements_that_somebody_has_thrown_away_are_prepared_again(lent):
    lent.ask("select 1")
    lent.execute("deallocate all")
    with pytest.raises(psycopg.errors.InvalidSqlStatementName):
        lent.ask("select 1")

    lent.rollback()
    assert lent.ask("select 1").rows == [(1,)]


def test_a_deferred_one_that_somebody_has_thrown_away_is_prepared_again_too(lent):
    lent.ask("insert into numbers values ($1)", 1)
    lent.execute("discard plans; deallocate all")
    lent.defer("insert into numbers values ($1)", 2)
    with pytest.raises(psycopg.errors.InvalidSqlStatementName):
        send(lent, b"commit")

    send(lent, b"rollback; begin")
    lent.defer("insert into numbers values ($1)", 3)
    assert numbers(lent) == [3]


@pytest.mark.parametrize("by", ["rollback", "drop"])
def test_statements_that_the_driver_throws_away_are_prepared_again(lent, by):
    lent.prepare_threshold = 0
    lent.ask("select 1")
    lent.execute("select 2")

    if by == "rollback":
        lent.rollback()
    else:
        lent.execute("drop table if exists nowhere")

    assert lent.ask("select 1").rows == [(1,)]
    assert lent.execute(PREPARED).fetchone() == (1,)


@pytest.mark.parametrize(
    ("statement", "values", "error"),
    [
        ("select 1 from nowhere", (), UndefinedTable),
        ("select 1 / $1", (0,), DivisionByZero),
        ("select $1::int", (), psycopg.errors.SyntaxError),
        ("select $1::int", (1, 2), psycopg.errors.SyntaxError),
        ("select $1::text", ("a\0b",), psycopg.DataError),
        ("select $1::text", (object(),), psycopg.ProgrammingError),
        ("select 1; select 2", (), psycopg.errors.SyntaxError),
    ],
    ids=["no table", "division by zero", "too few values", "too many values", "NUL", "no value", "two statements"],
)
def test_a_mistake_is_an_error_of_the_driver(lent, statement, values, error):
    with pytest.raises(error):
        lent.ask(statement, *values)


@pytest.mark.parametrize("end", ["commit", "  ROLLBACK", "end", "abort", "begin", "prepare transaction 'x'", "rollback and chain"])
def test_a_transaction_is_not_ended_by_a_plain_statement(lent, end):
    lent.ask("insert into numbers values (1)")
    with pytest.raises(RuntimeError, match="not the handler's to make"):
        lent.ask(end)

    assert (lent.ended, numbers(lent)) == (1, [1])


def test_nothing_is_committed_behind_the_end_of_a_transaction(lent):
    lent.rollback()

    lent.ask("insert into numbers values (1)")
    lent.rollback()

    assert numbers(lent) == []


def test_savepoints_are_the_handlers_own(lent):
    lent.ask("savepoint here")
    lent.ask("insert into numbers values (1)")
    lent.defer("rollback to here")

    assert numbers(lent) == []


def test_a_connection_that_is_gone_says_so_as_an_outage(lent, books):
    lent.ask("select 1")
    books.tx.execute("select pg_terminate_backend(%s)", (lent.info.backend_pid,))
    with pytest.raises(psycopg.OperationalError):
        lent.ask("select 1")


def test_each_of_many_threads_is_lent_one(books):
    with contextlib.closing(Database(books.database.url, size=1, deadlines=Deadlines(call=1))) as database, contextlib.ExitStack() as lent:
        ids = {driver_of(lent.enter_context(database.handlers.connect())).info.backend_pid for _ in range(12)}

    assert len(ids) == 12
