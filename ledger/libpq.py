"""What one call of libpq answers: the driver's own way is made for more, and costs three times as much."""

from __future__ import annotations

from typing import Any

import psycopg
from psycopg.pq import ExecStatus
from psycopg.pq.abc import PGresult

_WELL = {ExecStatus.COMMAND_OK, ExecStatus.TUPLES_OK}


def call(connection: psycopg.Connection[Any], commands: bytes) -> PGresult:
    """Run commands in one round trip; returns what the last of them gave. Raises psycopg's errors."""
    return checked(connection, connection.pgconn.exec_(commands))


def checked(connection: psycopg.Connection[Any], result: PGresult) -> PGresult:
    """Raises the error that it is, if it is one; that of a lost connection has no SQLSTATE."""
    if result.status in _WELL:
        return result
    error = psycopg.errors.error_from_result(result, connection.info.encoding)
    raise error if error.sqlstate else psycopg.OperationalError(str(error))
