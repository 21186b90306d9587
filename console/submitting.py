"""`haulier submit`: a job, or a file of them."""

from __future__ import annotations

import secrets
from enum import StrEnum
from typing import Annotated, Any, cast

import orjson
import typer

from console.client import Client, connect, explain
from console.failing import FailedError, WrongUseError
from console.jobs import read_bytes, read_json
from console.printing import Json, print_facts, print_json


class OnConflict(StrEnum):
    RETURN = "return"
    REJECT = "reject"
    REPLACE = "replace"


def submit(
    command: Annotated[str | None, typer.Argument(help="a command's name, such as orders.place")] = None,
    payload: Annotated[str | None, typer.Option(help="JSON, or @file, or - for standard input")] = None,
    key: Annotated[str | None, typer.Option(help="an idempotency key: repeated with the same one, it is the same job")] = None,
    priority: Annotated[int | None, typer.Option(help="higher first, -100 to 100")] = None,
    delay: Annotated[float | None, typer.Option(help="seconds from now, before which it does not run")] = None,
    run_at: Annotated[str | None, typer.Option(help="the same as a time with an offset, 2026-12-01T09:00:00Z")] = None,
    expires_at: Annotated[str | None, typer.Option(help="not started by then: cancelled")] = None,
    label: Annotated[list[str] | None, typer.Option(metavar="NAME=VALUE", help="to find it again; may be given more than once")] = None,
    max_failures: Annotated[int | None, typer.Option(help="dead after so many")] = None,
    unique: Annotated[str | None, typer.Option(metavar="KEY", help="of the jobs that share it, one holds it")] = None,
    unique_while: Annotated[
        str | None, typer.Option(metavar="active|forever|SECONDS", help="how long it is held; active by default")
    ] = None,
    on_conflict: Annotated[OnConflict | None, typer.Option(help="what becomes of this one where it is held; return by default")] = None,
    validate_only: Annotated[bool, typer.Option("--validate-only", help="say what would be submitted, and store nothing")] = False,
    wait: Annotated[bool, typer.Option("--wait", help="until the job has ended; exit status 0 only if it succeeded")] = False,
    batch: Annotated[
        str | None,
        typer.Option(metavar="@FILE", help="instead of a command: submissions, one in a line, from @file or -; 0 only if all are accepted"),
    ] = None,
    as_json: Json = False,
) -> None:
    """Submit a job, or with --batch many."""
    fields = {
        "priority": priority,
        "delay": delay,
        "run_at": run_at,
        "expires_at": expires_at,
        "labels": _read_labels(label or []),
        "max_failures": max_failures,
        "unique": _read_unique(unique, unique_while, on_conflict),
    }
    if batch is not None:
        if command or payload is not None or wait or validate_only or any(value is not None for value in fields.values()):
            raise WrongUseError("--batch goes with --key and --json alone: each line says the rest of its job itself; nothing was sent")
        _submit_batch(connect(), read_lines(batch), key, as_json)
    elif command is None:
        raise WrongUseError("Missing argument: a command's name, or --batch; nothing was sent")
    elif validate_only:
        if wait:
            raise WrongUseError("--validate-only submits nothing that --wait could wait for; nothing was sent")
        valid = connect().validate(command, _read_payload(payload), **fields)
        print_json(valid) if as_json else print_facts(valid)
    else:
        _submit_one(connect(), command, _read_payload(payload), key, fields, wait, as_json)


def _submit_one(
    client: Client, command: str, payload: dict[str, Any], key: str | None, fields: dict[str, Any], wait: bool, as_json: bool
) -> None:
    job = client.submit(command, payload, idempotency_key=key, **fields)
    if wait:
        job = client.wait_for_end(job["id"])
    print_json(job) if as_json else print_facts({name: job[name] for name in ("id", "state", "reason", "result", "error")})
    if wait and job["state"] != "succeeded":
        raise typer.Exit(1)


def _submit_batch(client: Client, wishes: dict[int, dict[str, Any]], key: str | None, as_json: bool) -> None:
    """Each line's own idempotency key comes from the file's, so that the whole may be repeated."""
    name = key or secrets.token_urlsafe(12)
    keyed = [{"idempotency_key": f"{name}:{number}", **wish} for number, wish in wishes.items()]
    try:
        items = client.submit_many(keyed).items
    except (FailedError, WrongUseError, KeyboardInterrupt) as error:
        why = str(error) or "interrupted"
        raise FailedError(f"{why}; some may be accepted: repeat it with --key {name}, and none is submitted twice") from None
    refused = [(number, item) for number, item in zip(wishes, items, strict=True) if "problem" in item]
    if as_json:
        print_json({"accepted": len(items) - len(refused), "refused": len(refused), "items": items})
    else:
        for number, item in refused:
            print(f"line {number} is refused: {explain(item['status'], item['problem'])}")
        print(f"{len(items) - len(refused)} accepted, {len(refused)} refused")
    if refused:
        raise typer.Exit(1)


def read_lines(text: str) -> dict[int, dict[str, Any]]:
    """The submissions of `@file`, or `-`, by the number of their line; empty lines are none. Raises WrongUseError for what is no JSON object, before anything is sent."""
    if text != "-" and not text.startswith("@"):
        raise WrongUseError(f"--batch takes @file or -, got {text!r}; nothing was sent")
    wishes: dict[int, dict[str, Any]] = {}
    for number, line in enumerate(read_bytes(text, "--batch").split(b"\n"), start=1):
        if not line.strip():
            continue
        try:
            wish = orjson.loads(line)
        except ValueError as error:
            raise WrongUseError(f"--batch: line {number} must be JSON: {error}; nothing was sent") from None
        if not isinstance(wish, dict):
            raise WrongUseError(f'--batch: line {number} must be a JSON object, {{"command": …, "payload": …}}; nothing was sent')
        wishes[number] = cast("dict[str, Any]", wish)
    if not wishes:
        raise WrongUseError("--batch: there is no submission in it; nothing was sent")
    return wishes


def _read_payload(text: str | None) -> dict[str, Any]:
    payload: Any = {} if text is None else read_json(text, "--payload")
    if not isinstance(payload, dict):
        raise WrongUseError("--payload must be a JSON object; nothing was sent")
    return cast("dict[str, Any]", payload)


def _read_labels(labels: list[str]) -> dict[str, str] | None:
    wrong = [each for each in labels if "=" not in each]
    if wrong:
        raise WrongUseError(f"--label takes NAME=VALUE, got {wrong[0]!r}; nothing was sent")
    return dict(each.split("=", 1) for each in labels) or None


def _read_unique(key: str | None, hold: str | None, on_conflict: OnConflict | None) -> dict[str, Any] | None:
    if key is None:
        if hold is not None or on_conflict is not None:
            raise WrongUseError("--unique-while and --on-conflict say more of --unique KEY, which is missing; nothing was sent")
        return None
    unique: dict[str, Any] = {"key": key}
    if hold is not None:
        unique["while"] = hold if hold in {"active", "forever"} else _read_seconds(hold)
    if on_conflict is not None:
        unique["on_conflict"] = on_conflict.value
    return unique


def _read_seconds(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise WrongUseError(f"--unique-while takes active, forever or a number of seconds, got {text!r}; nothing was sent") from None
