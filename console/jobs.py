"""`haulier jobs`: the jobs that there are, from the command line."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any
from uuid import UUID

import orjson
import typer

from console.client import FINAL, connect
from console.failing import WrongUseError
from console.printing import Json, print_facts, print_json, print_line, print_table

jobs = typer.Typer(help="Jobs: list, show, cancel, watch.", no_args_is_help=True)

JobId = Annotated[UUID, typer.Argument(help="the job's id")]
Limit = Annotated[int, typer.Option(min=1, max=500, help="at most so many")]
TenantSlug = Annotated[str | None, typer.Option("--tenant", help="of a platform key: a tenant's slug")]
Cursor = Annotated[str | None, typer.Option(help="go on from where a list ended")]


@jobs.command("list")
def list_jobs(
    state: Annotated[list[str] | None, typer.Option(help="only in this state; may be given more than once")] = None,
    command: Annotated[str | None, typer.Option(help="only of this command")] = None,
    limit: Limit = 50,
    cursor: Cursor = None,
    as_json: Json = False,
) -> None:
    """The newest jobs first."""
    page = connect().get("/v1/jobs", state=state or None, command=command, limit=limit, cursor=cursor)
    print_page(page, as_json)


@jobs.command("show")
def show_job(job_id: JobId, as_json: Json = False) -> None:
    """A job, its attempts and its timeline."""
    client = connect()
    job = client.get(f"/v1/jobs/{job_id}")
    if as_json:
        print_json(job)
        return
    print_facts({name: value for name, value in job.items() if name != "links"})
    print()
    print_attempts(client.get(f"/v1/jobs/{job_id}/attempts")["items"])
    print()
    events = client.get(f"/v1/jobs/{job_id}/timeline")["items"]
    print_table(
        ["", "at", "event", "state", "who"], [(each["seq"], each["at"], each["kind"], each["state"], each["who"]) for each in events]
    )


@jobs.command("cancel")
def cancel_job(job_id: JobId, as_json: Json = False) -> None:
    """Cancel a job; one that runs is asked to stop."""
    job = connect().post(f"/v1/jobs/{job_id}/cancel")
    asked = "is asked to stop" if job["state"] == "running" else f"is {job['state']}"
    print_json(job) if as_json else print(f"job {job_id} {asked}")


@jobs.command("watch")
def watch_job(job_id: JobId, as_json: Json = False) -> None:
    """Follow a job until it and its follow-ups have ended; exit status 0 only if all of them succeeded."""
    for job in connect().watch(job_id):
        print_line(job) if as_json else print(_describe(job), flush=True)
        if job["state"] in FINAL and job["family"]["state"] != "active":
            raise typer.Exit(0 if job["family"]["state"] == "succeeded" else 1)


def print_page(page: Any, as_json: bool) -> None:
    if as_json:
        print_json(page)
        return
    columns = ["id", "command", "state", "family", "attempt", "failures", "submitted", "error"]
    print_table(columns, [_row(job) for job in page["items"]])
    if page["next_cursor"]:
        print(f"there is more: --cursor {page['next_cursor']}")


def print_attempts(attempts: list[Any]) -> None:
    columns = ["attempt", "started", "finished", "outcome", "error"]
    print_table(columns, [(each["number"], each["started_at"], each["finished_at"], each["outcome"], _error(each)) for each in attempts])


def read_json(text: str, option: str) -> Any:
    """What an option says: JSON, `@file`, or `-`. Raises WrongUseError for a file that cannot be read, and for no JSON."""
    try:
        return orjson.loads(read_bytes(text, option) if text == "-" or text.startswith("@") else text)
    except ValueError as error:
        raise WrongUseError(f"{option} must be JSON, @file or -: {error}; nothing was sent") from None


def read_bytes(text: str, option: str) -> bytes:
    """The content of `@file` or `-`. Raises WrongUseError."""
    try:
        return sys.stdin.buffer.read() if text == "-" else Path(text.removeprefix("@")).read_bytes()
    except OSError as error:
        raise WrongUseError(f"{option}: {text[1:]} cannot be read: {error.strerror}") from None


def _row(job: Any) -> tuple[Any, ...]:
    names = ("id", "command", "state")
    return (*(job[name] for name in names), job["family"]["state"], job["attempt"], job["failures"], job["submitted_at"], _error(job))


def _error(thing: Any) -> str:
    error = thing["error"]
    return f"{error['code']}: {error['message']}" if error else ""


def _describe(job: Any) -> str:
    facts = [job["state"], f"attempt {job['attempt']}"]
    progress = job["progress"]
    if progress:
        facts.append(f"{progress['done']}/{progress['total']} {progress['message']}".strip())
    counts = ", ".join(f"{number} {state}" for state, number in sorted(job["family"]["counts"].items()))
    return f"{job['command']}: {'; '.join(facts)}; family {job['family']['state']} ({counts})"
