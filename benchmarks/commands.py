"""Haulier's side of the work: two commands, run by `haulier work` with HAULIER_HANDLERS=benchmarks.commands:HANDLERS."""

from __future__ import annotations

from typing import ClassVar

from benchmarks import effect
from benchmarks.records import own_writer
from pipelines.command import Command, Handler, handles
from pipelines.run import Run

QUEUE = "bench"
INSERT = effect.INSERT.format("%s")
UPDATE = effect.UPDATE.format("%s")


class _Numbered(Command):
    example: ClassVar = {"number": 1, "data": ""}

    number: int
    data: str


class Noop(_Numbered):
    command_name: ClassVar[str] = "bench.noop"


class Durable(_Numbered):
    command_name: ClassVar[str] = "bench.durable"


@handles(Noop, queue=QUEUE)
def run_noop(command: Noop, run: Run) -> None:
    own_writer().end(command.number)


@handles(Durable, queue=QUEUE)
def run_durable(command: Durable, run: Run) -> None:
    with run.transaction() as db:
        if db.exec_driver_sql(INSERT, (command.number,)).rowcount:
            db.exec_driver_sql(UPDATE, (command.number % effect.ACCOUNTS,))
    own_writer().end(command.number)


HANDLERS: dict[str, Handler] = {handler.name: handler for handler in (run_noop, run_durable)}
