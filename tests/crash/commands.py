"""Commands to crash with: the table that the processes of the rig run instead of the product's own (HAULIER_HANDLERS).

No table here forbids a second effect: it has to be seen, not prevented.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import time
import urllib.request
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

from sqlalchemy import text

from pipelines.command import Command, Handler, Retry, Snooze, exponential, handles
from pipelines.many import Together, handles_many
from pipelines.run import Run

QUEUE = "crash"
#: Made by the rig before any process starts.
TABLE = "create table public.effects (job_id uuid not null, attempt integer not null, at timestamptz not null default clock_timestamp())"
RIGHTS = "grant select, insert on public.effects to haulier_handler"

#: Short waits, so that a failure costs a test little time.
SOON = exponential(0.1, cap=0.2)


class Count(Command):
    """One row in a table, in the attempt's own transaction."""

    command_name: ClassVar[str] = "crash.count"
    example: ClassVar[dict[str, Any]] = {"n": 1}
    n: int


class Plain(Command):
    """No transaction: its success is written together with its neighbours'."""

    command_name: ClassVar[str] = "crash.plain"
    example: ClassVar[dict[str, Any]] = {"n": 1}
    n: int


class Call(Command):
    """One call to the sink, by `run.once`, and one row."""

    command_name: ClassVar[str] = "crash.call"
    example: ClassVar[dict[str, Any]] = {"n": 1}
    n: int


class Chain(Command):
    """One row and two follow-ups with one row each."""

    command_name: ClassVar[str] = "crash.chain"
    example: ClassVar[dict[str, Any]] = {"n": 1}
    n: int


class Share(Command):
    """One row in a table, in a transaction that its neighbours have a part in, and one follow-up."""

    command_name: ClassVar[str] = "crash.share"
    example: ClassVar[dict[str, Any]] = {"n": 1}
    n: int


class Many(Command):
    """One row in a table for each of several jobs, in one call."""

    command_name: ClassVar[str] = "crash.many"
    example: ClassVar[dict[str, Any]] = {"n": 1}
    n: int


class Fail(Command):
    """Fails as often as it is told to, then leaves one row."""

    command_name: ClassVar[str] = "crash.fail"
    example: ClassVar[dict[str, Any]] = {"times": 1}
    times: int


class SnoozeOnce(Command):
    """Not now, says its first attempt; the second leaves one row."""

    command_name: ClassVar[str] = "crash.snooze"
    example: ClassVar[dict[str, Any]] = {"n": 1}
    n: int


class Kill(Command):
    """Takes its process down, each time."""

    command_name: ClassVar[str] = "crash.kill"
    example: ClassVar[dict[str, Any]] = {"how": "signal"}
    how: Literal["signal", "segfault"]


class Wait(Command):
    """Waits at the sink's gate until it may go on; then ends as it is told to."""

    command_name: ClassVar[str] = "crash.wait"
    example: ClassVar[dict[str, Any]] = {"end": "count"}
    end: Literal["count", "plain", "fail", "chain"] = "count"


class WaitBriefly(Wait):
    """The same with a limit of two seconds."""

    command_name: ClassVar[str] = "crash.wait_briefly"


class Sleep(Command):
    """Sleeps longer than its limit of a second: in Python, where nothing wakes it, or in Postgres."""

    command_name: ClassVar[str] = "crash.sleep"
    example: ClassVar[dict[str, Any]] = {"seconds": 1}
    seconds: float
    where: Literal["python", "postgres"] = "python"


class Spin(Command):
    """Never lets go of its thread."""

    command_name: ClassVar[str] = "crash.spin"
    example: ClassVar[dict[str, Any]] = {}


@handles(Count, queue=QUEUE, retry=Retry(backoff=SOON))
def count(command: Count, run: Run) -> None:
    leave_a_row(run)


@handles(Plain, queue=QUEUE, retry=Retry(backoff=SOON))
def plain(command: Plain, run: Run) -> dict[str, int]:
    return {"n": command.n}


@handles(Call, queue=QUEUE, retry=Retry(backoff=SOON))
def call(command: Call, run: Run) -> None:
    run.once("charge", lambda key: ask(f"/calls/{key}"))
    leave_a_row(run)


@handles(Chain, queue=QUEUE, retry=Retry(backoff=SOON))
def chain(command: Chain, run: Run) -> None:
    leave_a_row(run)
    run.submit(Count(n=command.n))
    run.submit(Count(n=command.n))


@handles(Share, queue=QUEUE, retry=Retry(backoff=SOON), shares_transaction=True)
def share(command: Share, run: Run) -> None:
    leave_a_row(run)
    run.submit(Count(n=command.n))


@handles_many(Many, queue=QUEUE, retry=Retry(max_failures=2, backoff=SOON))
def many(commands: Sequence[Many], together: Together) -> None:
    for run in together.runs:
        leave_a_row(run)
    if any(command.n < 0 for command in commands):
        os.kill(os.getpid(), signal.SIGKILL)


@handles(Fail, queue=QUEUE, retry=Retry(backoff=SOON))
def fail(command: Fail, run: Run) -> None:
    if run.attempt <= command.times:
        leave_a_row(run)
        raise RuntimeError(f"attempt {run.attempt} fails, as it was told to")
    leave_a_row(run)


@handles(SnoozeOnce, queue=QUEUE, retry=Retry(backoff=SOON))
def snooze(command: SnoozeOnce, run: Run) -> Snooze | None:
    if run.attempt == 1:
        return Snooze(0.05)
    leave_a_row(run)
    return None


@handles(Kill, queue=QUEUE, retry=Retry(max_failures=2, backoff=SOON))
def kill(command: Kill, run: Run) -> None:
    if command.how == "segfault":
        ctypes.string_at(0)
    os.kill(os.getpid(), signal.SIGKILL)


@handles(Wait, queue=QUEUE, timeout=60, retry=Retry(max_failures=3, backoff=SOON))
def wait(command: Wait, run: Run) -> dict[str, int]:
    return go_through_the_gate(command, run)


@handles(WaitBriefly, queue=QUEUE, timeout=2, retry=Retry(max_failures=3, backoff=SOON))
def wait_briefly(command: WaitBriefly, run: Run) -> dict[str, int]:
    return go_through_the_gate(command, run)


@handles(Sleep, queue=QUEUE, timeout=1, retry=Retry(max_failures=1))
def sleep(command: Sleep, run: Run) -> None:
    if command.where == "postgres":
        with run.transaction() as db:
            db.execute(text("select pg_sleep(:seconds)"), {"seconds": command.seconds})
    time.sleep(command.seconds)


@handles(Spin, queue=QUEUE, timeout=1, retry=Retry(max_failures=1))
def spin(command: Spin, run: Run) -> None:
    while True:
        pass


def go_through_the_gate(command: Wait, run: Run) -> dict[str, int]:
    ask(f"/gate/{run.job_id}/{run.attempt}")
    if command.end == "fail":
        raise RuntimeError("told to fail")
    if command.end in ("count", "chain"):
        leave_a_row(run)
    if command.end == "chain":
        run.submit(Count(n=0))
    return {"attempt": run.attempt}


def leave_a_row(run: Run) -> None:
    with run.transaction() as db:
        db.execute(
            text("insert into public.effects (job_id, attempt) values (:job, :attempt)"), {"job": run.job_id, "attempt": run.attempt}
        )


def ask(path: str) -> Any:
    """POST to the sink."""
    request = urllib.request.Request(os.environ["HAULIER_SINK"] + path, b"", method="POST")
    with urllib.request.urlopen(request, timeout=120) as answer:
        return json.load(answer)


HANDLERS: dict[str, Handler] = {
    handler.name: handler for handler in (count, plain, call, chain, share, many, fail, snooze, kill, wait, wait_briefly, sleep, spin)
}
