"""Two commands for tests of the executor, and what their handlers may do."""

from __future__ import annotations

from sqlalchemy import text

from pipelines.command import Command, Retry, handles


class Do(Command):
    command_name = "test.do"
    example = {}

    n: int = 0


class After(Command):
    command_name = "test.after"
    example = {}

    n: int = 0


@handles(After, queue="test")
def after(_command: After, _run):
    return None


def doing(function, **policy):
    """A handler of test.do that does this."""
    return handles(Do, queue="test", retry=Retry(max_failures=3, backoff=lambda _failures: 60.0), **policy)(function)


def raising(error):
    def handler(_command, _run):
        raise error

    return handler


def note(run, what="done"):
    with run.transaction() as db:
        db.execute(text("insert into effects values (:job, :what)"), {"job": run.job_id, "what": what})
