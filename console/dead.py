"""`haulier dead`: dead letters, the jobs that need a person."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

import typer

from console.client import connect
from console.jobs import Cursor, JobId, Limit, print_attempts, print_page, read_json
from console.printing import Json, print_facts, print_json

dead = typer.Typer(help="Dead letters: list, show, replay, resolve.", no_args_is_help=True)

#: The intake asks for a reason; the timeline shows who it was anyway.
UNSAID = "from the command line"
Reason = Annotated[str, typer.Option(help="why, for those who read the timeline later")]


@dead.command("list")
def list_dead(
    command: Annotated[str | None, typer.Option(help="only of this command")] = None,
    code: Annotated[str | None, typer.Option(help="only with this error code")] = None,
    message: Annotated[str | None, typer.Option(help="only those whose message contains this")] = None,
    died_after: Annotated[datetime | None, typer.Option(help="UTC")] = None,
    limit: Limit = 50,
    cursor: Cursor = None,
    as_json: Json = False,
) -> None:
    """The newest jobs first."""
    query: dict[str, Any] = {"command": command, "code": code, "message~": message, "limit": limit, "cursor": cursor}
    after = f"{died_after.isoformat()}Z" if died_after else None
    print_page(connect().get("/v1/dead-letters", died_after=after, **query), as_json)


@dead.command("show")
def show_dead(job_id: JobId, as_json: Json = False) -> None:
    """A dead letter with its whole history."""
    letter = connect().get(f"/v1/dead-letters/{job_id}")
    if as_json:
        print_json(letter)
        return
    print_facts({name: value for name, value in letter.items() if name not in {"links", "attempts"}})
    print()
    print_attempts(letter["attempts"])
    for attempt in letter["attempts"]:
        if (attempt["error"] or {}).get("traceback"):
            print(f"\nattempt {attempt['number']}:\n{attempt['error']['traceback']}")


@dead.command("replay")
def replay_dead(
    job_id: JobId,
    payload: Annotated[str | None, typer.Option(help="run it with this payload instead: JSON, or @file, or -")] = None,
    reason: Reason = UNSAID,
    as_json: Json = False,
) -> None:
    """Queue a dead letter again: the same job, its history kept."""
    edited = {} if payload is None else {"payload": read_json(payload, "--payload")}
    job = connect().post(f"/v1/dead-letters/{job_id}/replay", {"reason": reason, **edited})
    print_json(job) if as_json else print(f"job {job_id} is {job['state']}")


@dead.command("resolve")
def resolve_dead(
    job_id: JobId,
    step: Annotated[str, typer.Option(help="the call whose outcome was unknown")],
    outcome: Annotated[str, typer.Option(help="happened or did_not_happen")],
    reason: Reason = UNSAID,
    result: Annotated[str | None, typer.Option(help="what the call answered, if it happened: JSON, or @file, or -")] = None,
    as_json: Json = False,
) -> None:
    """Say how a call ended that nobody knew the outcome of; then the job goes on."""
    body: dict[str, Any] = {"step": step, "outcome": outcome, "reason": reason}
    job = connect().post(f"/v1/dead-letters/{job_id}/resolve", body if result is None else body | {"result": read_json(result, "--result")})
    print_json(job) if as_json else print(f"job {job_id} is {job['state']}")
