"""The connection that handlers are lent: its transactions are not theirs to end, and it runs prepared statements at a price that many small jobs can pay."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any, LiteralString

import psycopg
from psycopg.abc import PQGen
from psycopg.pq import Escaping, TransactionStatus
from psycopg.pq.abc import PGconn, PGresult
from psycopg.rows import RowFactory, tuple_row
from psycopg.sql import Literal

from ledger import libpq

#: Statements that a connection keeps prepared; the one that has been there longest makes room.
MOST_PREPARED = 100
NOT_YOURS = "the commit of run.transaction() is the job's completion, and not the handler's to make; nothing is committed"

_ENDS_IT = re.compile(r"\s*(commit|end|abort|begin|start|prepare|rollback(?!\s+(work\s+|transaction\s+)?to\b))\b", re.IGNORECASE).match


@dataclass(frozen=True, slots=True)
class Answer:
    """What a statement gave: its rows, and how many there were or were changed."""

    rows: list[tuple[Any, ...]] = field(default_factory=list[tuple[Any, ...]])
    rowcount: int = 0


class LentConnection(psycopg.Connection[Any]):
    """Through SQLAlchemy, the driver's cursors, or `ask` and `defer`: one connection, one order of statements."""

    #: How often somebody tried to end its transaction.
    ended: int

    def __init__(self, pgconn: PGconn, row_factory: RowFactory[Any] = tuple_row) -> None:
        super().__init__(pgconn, row_factory)
        self.ended = 0
        self._deferred = b""
        self._names: dict[str, bytes] = {}
        self._named = 0

    @property
    def is_open(self) -> bool:
        """Whether it is in a transaction, or in one that begins with the next statement."""
        return self.pgconn.transaction_status != TransactionStatus.IDLE or self._deferred.startswith(b"begin")

    def ask(self, statement: LiteralString, *values: Any) -> Answer:
        """Run a statement with `$1` and so on for its values, after those that were deferred, in one round trip. It is prepared once.

        Raises psycopg's errors. It costs the client a third of a cursor's way: no conversion of placeholders, no cursor, one call of libpq.
        """
        commands = self._execution(statement, values)
        result = self._call(commands)
        if not result.nfields:
            return Answer(rowcount=result.command_tuples or 0)
        return Answer(libpq.rows(self, result), result.ntuples)

    def defer(self, statement: LiteralString, *values: Any) -> None:
        """The same for one whose answer nobody needs: it goes with the next, whatever that is, which raises its error."""
        commands = self._execution(statement, values)  # which may send what is deferred so far
        self._deferred += commands + b"; "

    def send_with_next(self, commands: bytes) -> None:
        """Plain commands of ours (a `begin` before all others), which cost no round trip either."""
        self._deferred += commands + b"; "

    def send(self, commands: bytes) -> PGresult:
        """Run commands after what was deferred, in one round trip; returns what the last of them gave. Raises psycopg's errors."""
        try:
            return libpq.call(self, self._take_deferred() + commands)
        except psycopg.errors.InvalidSqlStatementName:  # somebody has thrown them away (`discard all`)
            self._names.clear()
            raise

    def wait(self, *arguments: Any, **named: Any) -> Any:
        """What the driver does by itself comes after what was deferred."""
        self._catch_up()
        return super().wait(*arguments, **named)

    def commit(self) -> None:
        self.ended += 1
        raise RuntimeError(NOT_YOURS)

    def rollback(self) -> None:
        self.ended += 1
        self._deferred = b""
        super().rollback()

    def _deallocate(self, name: bytes | None) -> PQGen[None]:
        """After a rollback and after some statements (`drop …`), the driver throws away all that is prepared: ours as well."""
        if name is None:
            self._names.clear()
        return super()._deallocate(name)

    def _catch_up(self) -> None:
        if self._deferred:
            self._call(b"")

    def _call(self, commands: bytes) -> PGresult:
        if not self.is_open:  # somebody has ended it; the driver would begin one as well
            self._deferred = b"begin; " + self._deferred
        return self.send(commands)

    def _take_deferred(self) -> bytes:
        deferred, self._deferred = self._deferred, b""
        return deferred

    def _execution(self, statement: str, values: tuple[Any, ...]) -> bytes:
        name = self._name_of(statement)
        return b"execute %s(%s)" % (name, b",".join(map(self._literal, values))) if values else b"execute " + name

    def _name_of(self, statement: str) -> bytes:
        return self._names.get(statement) or self._prepare(statement)

    def _prepare(self, statement: str) -> bytes:
        if _ENDS_IT(statement):
            self.ended += 1
            raise RuntimeError(NOT_YOURS)
        self._catch_up()
        if len(self._names) >= MOST_PREPARED:
            oldest = next(iter(self._names))
            self._call(b"deallocate " + self._names.pop(oldest))
        self._named += 1
        name = b"haulier_%d" % self._named
        libpq.checked(self, self.pgconn.prepare(name, statement.encode()))
        self._names[statement] = name
        return name

    def _literal(self, value: Any) -> bytes:
        if type(value) is int:
            return b"%d" % value
        if value is None:
            return b"null"
        if type(value) is str and "\0" not in value:
            return Escaping(self.pgconn).escape_literal(value.encode())
        return Literal(value).as_bytes(self)


def lend(_dialect: Any, _record: Any, arguments: Any, named: Any) -> LentConnection:
    """What SQLAlchemy's `do_connect` calls."""
    return LentConnection.connect(*arguments, **named)
