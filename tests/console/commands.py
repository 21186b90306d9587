"""A table of handlers for tests of the console: a job that succeeds, one that needs an operator, one that waits, one that kills its process."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import ClassVar

from pipelines.command import Command, CommandError, Handler, Retry, exponential, handles
from pipelines.run import Run

SOON = Retry(max_failures=3, backoff=exponential(0.1, cap=0.1))


class Unfit(CommandError):
    """It cannot be done with these numbers."""

    code: ClassVar[str] = "unfit"


class Divide(Command):
    """Divide two numbers; by zero it is a dead letter."""

    command_name = "test.divide"
    example: ClassVar = {"dividend": 6, "divisor": 3}

    dividend: int
    divisor: int


class AwaitFile(Command):
    """Run until a file is there."""

    command_name = "test.await_file"
    example: ClassVar = {"path": "/there"}

    path: str


class Crash(Command):
    """Kill the process that runs it."""

    command_name = "test.crash"
    example: ClassVar = {}


@handles(Divide, queue="test", buries=(Unfit,))
def divide(command: Divide, run: Run) -> int:
    if command.divisor == 0:
        raise Unfit(f"{command.dividend} by zero")
    return command.dividend // command.divisor


@handles(AwaitFile, queue="test", timeout=60, retry=SOON)
def await_file(command: AwaitFile, run: Run) -> int:
    while not Path(command.path).exists():
        time.sleep(0.02)
    return run.attempt


@handles(Crash, queue="test", retry=Retry(max_failures=1))
def crash(command: Crash, run: Run) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


HANDLERS: dict[str, Handler] = {handler.name: handler for handler in (divide, await_file, crash)}
