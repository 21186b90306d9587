"""What one call of libpq answers: the driver's own way is made for more, and costs three times as much."""

from __future__ import annotations

from itertools import count
from typing import Any, LiteralString
from weakref import WeakKeyDictionary

import psycopg
from psycopg.adapt import Transformer
from psycopg.pq import ExecStatus
from psycopg.pq.abc import PGresult

#: What each connection has prepared here: statements, and their names. No name is used twice: what was prepared after all was thrown away is there.
_prepared: WeakKeyDictionary[psycopg.Connection[Any], dict[str, bytes]] = WeakKeyDictionary()
_numbers = count()
_WELL = {ExecStatus.COMMAND_OK, ExecStatus.TUPLES_OK}


def call(connection: psycopg.Connection[Any], commands: bytes) -> PGresult:
    """Run commands in one round trip; returns what the last of them gave. Raises psycopg's errors."""
    return checked(connection, connection.pgconn.exec_(commands))


def ask(connection: psycopg.Connection[Any], statement: LiteralString, values: tuple[object, ...]) -> list[tuple[Any, ...]]:
    """Run a statement with `$1` and so on for its values, which go as text, and return its rows. It is prepared once, and is a transaction of its own.

    Raises psycopg's errors.
    """
    try:
        return _run_prepared(connection, statement, values)
    except psycopg.errors.InvalidSqlStatementName:  # the driver throws away all that is prepared, ours as well, after a rollback
        _prepared.pop(connection, None)
        return _run_prepared(connection, statement, values)


def _run_prepared(connection: psycopg.Connection[Any], statement: LiteralString, values: tuple[object, ...]) -> list[tuple[Any, ...]]:
    names = _prepared.setdefault(connection, {})
    name = names.get(statement)
    if name is None:
        name = b"ledger_%d" % next(_numbers)
        checked(connection, connection.pgconn.prepare(name, statement.encode()))
        names[statement] = name
    sent: Any = [None if value is None else str(value).encode() for value in values]  # psycopg's stubs know no null
    return rows(connection, checked(connection, connection.pgconn.exec_prepared(name, sent)))


def rows(connection: psycopg.Connection[Any], result: PGresult) -> list[tuple[Any, ...]]:
    """As the connection reads their types."""
    loader = Transformer(connection)
    loader.set_pgresult(result)
    return loader.load_rows(0, result.ntuples, tuple)


def checked(connection: psycopg.Connection[Any], result: PGresult) -> PGresult:
    """Raises the error that it is, if it is one; that of a lost connection has no SQLSTATE."""
    if result.status in _WELL:
        return result
    error = psycopg.errors.error_from_result(result, connection.info.encoding)
    raise error if error.sqlstate else psycopg.OperationalError(str(error))
