"""What commands print: tables for people, JSON for scripts."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Annotated, Any

import orjson
import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

Json = Annotated[bool, typer.Option("--json", help="print JSON, for scripts")]

#: Where the output is no terminal, nothing shall be cut off.
WIDE = 240


def print_json(value: Any) -> None:
    print(orjson.dumps(value, option=orjson.OPT_INDENT_2, default=str).decode())


def print_line(value: Any) -> None:
    """One document a line, at once: what follows may be a while."""
    print(orjson.dumps(value).decode(), flush=True)


def print_table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    table = Table(*columns, box=None, pad_edge=False, header_style="bold")
    for row in rows:
        table.add_row(*map(cell, row))
    console().print(table)


def print_facts(facts: Mapping[str, Any]) -> None:
    """One name and value a line; what is empty is left out."""
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="bold")
    for name, value in facts.items():
        if value not in (None, "", [], {}):
            grid.add_row(name, cell(value))
    console().print(grid)


def console() -> Console:
    return Console(width=None if sys.stdout.isatty() else WIDE, highlight=False)


def cell(value: Any) -> Text:
    """As it is, but for what a terminal would obey instead of showing."""
    match value:
        case None:
            text = ""
        case str():
            text = value
        case bool():
            text = "yes" if value else "no"
        case datetime():
            text = value.isoformat(sep=" ", timespec="seconds")
        case dict() | list():
            text = orjson.dumps(value, default=str).decode()
        case _:
            text = str(value)
    return Text("".join(each if each.isprintable() or each == "\n" else f"\\x{ord(each):02x}" for each in text))


def complain(sentence: str) -> None:
    print(f"haulier: {sentence}", file=sys.stderr)
