"""`haulier commands`: what the commands of this installation publish, held against what was published before."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from console.failing import FailedError
from console.starting import load_handlers, read_settings
from pipelines import schemas

commands = typer.Typer(help="Commands: check what they publish.", no_args_is_help=True)


@commands.callback()
def _commands() -> None:
    """So that `check` is a word of its own even while it is the only one."""


@commands.command("check")
def check(
    write: Annotated[bool, typer.Option("--write", help="write compatible changes down")] = False,
    file: Annotated[Path | None, typer.Option(help="what was published; unless given, schemas.json beside the table")] = None,
) -> None:
    """Compare the commands' schemas and error codes with those that were published. Fails for a change that is not surely compatible,
    and for one that is not written down yet.
    """
    settings = read_settings()
    path = file or schemas.file_of(settings.handlers)
    before, now = schemas.read(path), schemas.publish_all(load_handlers(settings))
    refused = schemas.refused(before, now)
    if refused:
        raise FailedError("\n".join(["callers and waiting jobs rely on what was published:", *refused]))
    changes = schemas.changes(before, now)
    for change in changes:
        print(change)
    if changes and not write:
        raise FailedError(f"compatible, and not written down yet; do it with: haulier commands check --write, and commit {path}")
    if changes:
        schemas.write(path, now)
