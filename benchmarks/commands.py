"""Haulier's side of the work: a no-op, and the durable effect in three ways, run by `haulier work` with HAULIER_HANDLERS=benchmarks.commands:HANDLERS."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from benchmarks import effect
from benchmarks.records import own_writer
from pipelines.command import Command, Handler, handles
from pipelines.many import Together, handles_many
from pipelines.run import Run

QUEUE = "bench"
INSERT = effect.INSERT.format("$1")
UPDATE = effect.UPDATE.format("$1")
MANY = effect.MANY.format("$1", "$2")


class _Numbered(Command):
    example: ClassVar = {"number": 1, "account": 1, "data": ""}

    number: int
    account: int
    data: str


class Noop(_Numbered):
    command_name: ClassVar[str] = "bench.noop"


class Durable(_Numbered):
    command_name: ClassVar[str] = "bench.durable"


class Shared(_Numbered):
    command_name: ClassVar[str] = "bench.shared"


class Many(_Numbered):
    command_name: ClassVar[str] = "bench.many"


@handles(Noop, queue=QUEUE)
def run_noop(command: Noop, run: Run) -> None:
    own_writer().end(command.number)


@handles(Durable, queue=QUEUE)
def run_durable(command: Durable, run: Run) -> None:
    have_effect(command, run)
    own_writer().end(command.number)


@handles(Shared, queue=QUEUE, shares_transaction=True)
def run_shared(command: Shared, run: Run) -> None:
    have_effect(command, run)
    own_writer().end(command.number)


@handles_many(Many, queue=QUEUE)
def run_many(commands: Sequence[Many], together: Together) -> None:
    numbers = [command.number for command in commands]
    together.defer(MANY, numbers, [command.account for command in commands])
    for number in numbers:
        own_writer().end(number)


def have_effect(command: Durable | Shared, run: Run) -> None:
    if run.execute(INSERT, command.number).rowcount:
        run.defer(UPDATE, command.account)


HANDLERS: dict[str, Handler] = {handler.name: handler for handler in (run_noop, run_durable, run_shared, run_many)}
