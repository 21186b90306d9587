"""`haulier keys scan`: leaked API keys in files, found by their pattern and told from look-alikes by their checksum."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from console.failing import WrongUseError
from console.printing import Json, print_json, print_table
from ledger import keys as ledger_keys


def scan_keys(
    paths: Annotated[list[Path], typer.Argument(help="files, and directories with all that is in them")], as_json: Json = False
) -> None:
    """Find keys of Haulier in files. Says where and which, never the key itself; exit status 1 if there are any."""
    missing = [str(path) for path in paths if not path.exists()]
    if missing:
        raise WrongUseError(f"there is no {', '.join(missing)}; nothing was scanned")
    found = [{"file": str(file), "line": line, "prefix": prefix} for file in _files(paths) for line, prefix in _keys_in(file)]
    if as_json:
        print_json({"items": found, "next_cursor": None})
    elif found:
        print_table(["file", "line", "prefix"], [list(each.values()) for each in found])
        print("Revoke each with `haulier keys revoke PREFIX`, or change over with `haulier keys rotate PREFIX`.")
    if found:
        raise typer.Exit(1)


def _files(paths: list[Path]) -> Iterator[Path]:
    for path in paths:
        if path.is_dir():
            yield from sorted(each for each in path.rglob("*") if each.is_file() and not each.is_symlink())
        else:
            yield path


def _keys_in(file: Path) -> Iterator[tuple[int, Any]]:
    try:
        with file.open("rb") as lines:
            for number, line in enumerate(lines, 1):
                for prefix in ledger_keys.find_in(line.decode("latin-1")):
                    yield number, prefix
    except OSError as error:
        raise WrongUseError(f"{file} cannot be read: {error.strerror}") from None
