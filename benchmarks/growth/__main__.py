"""`python -m benchmarks.growth --only queued,finished,open,writer,processes,tenants,steady,memory`: what a job costs as the work grows.

Prints a table for each scenario with the ratio of its last row to its first (flat is 0.85 to 1.15), and writes JSON lines.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks import effect
from benchmarks.growth.figures import SETTINGS, Figures
from benchmarks.growth.scenarios import SCENARIOS, Options, Point
from benchmarks.servers import Servers
from console.servers.find import rabbitmq_node
from console.servers.postgres import PostgresServer


def main() -> int:
    asked = _read_options()
    options = Options(asked.jobs, asked.largest, asked.rate, asked.minutes)
    with (
        PostgresServer(settings=effect.POSTGRES_SETTINGS | SETTINGS) as postgres,
        rabbitmq_node() as rabbitmq,
        asked.output.open("a") as output,
    ):
        for name in asked.only:
            points: list[Point] = []
            for point in SCENARIOS[name](Servers(postgres, rabbitmq), options):
                points.append(point)
                row = {"scenario": name, "at": point.at, "others": point.others}
                row |= point.figures.as_row() if point.figures else {}
                print(json.dumps(row), file=output, flush=True)
                print(f"{name}: {point}", file=sys.stderr)
            _show(name, points)
    print(f"every measurement: {asked.output}")
    return 0


def _read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.growth", description=__doc__)
    parser.add_argument("--only", type=_read_names, default=list(SCENARIOS), metavar=",".join(SCENARIOS))
    parser.add_argument("--jobs", type=int, default=5000, help="drained in one measurement")
    parser.add_argument("--largest", type=int, default=10_000_000, help="the biggest backlog, and ledger")
    parser.add_argument("--rate", type=float, default=300, help="jobs a second, where they come at a steady rate")
    parser.add_argument("--minutes", type=float, default=10, help="for which a transaction is open, and a steady rate lasts")
    default = Path(tempfile.gettempdir()) / f"haulier-growth-{time.strftime('%Y%m%d-%H%M%S')}.jsonl"
    parser.add_argument("--output", type=Path, default=default, help="JSON lines, one a measurement")
    return parser.parse_args()


def _read_names(text: str) -> list[str]:
    names = text.split(",")
    unknown = set(names) - set(SCENARIOS)
    if unknown:
        raise argparse.ArgumentTypeError(f"expected {', '.join(SCENARIOS)}, got {', '.join(sorted(unknown))}")
    return names


def _show(name: str, points: list[Point]) -> None:
    console = Console(width=180)
    measured = [(point.at, point.figures) for point in points if point.figures]
    if measured:
        console.print(_table(name, measured))
    if any(point.others for point in points):
        console.print(_others(name, points))


COLUMNS = (
    "jobs/s",
    "loop ms",
    "CPU ms/job",
    "relay",
    "work",
    "upkeep",
    "postgres",
    "(vacuum)",
    "rabbitmq",
    "buffers",
    "(vacuum)",
    "WAL",
    "images",
    "HOT",
    "dead",
)


def _numbers(figures: Figures) -> list[float | None]:
    cpu = figures.cpu
    return [
        figures.rate, figures.calibration, figures.cpu_all, cpu["relay"], cpu["work"], cpu.get("upkeep"), cpu["postgres"], figures.vacuum_cpu, cpu["rabbitmq"],
        figures.buffers, figures.vacuum_buffers, figures.wal, figures.wal_images, figures.hot, figures.dead_rows,
    ]  # fmt: skip


def _table(name: str, measured: list[tuple[str, Figures]]) -> Table:
    table = Table(title=name, title_justify="left")
    for heading in ("", *COLUMNS):
        table.add_column(heading, justify="left" if not heading else "right")
    rows = [_numbers(figures) for _, figures in measured]
    for (at, _), row in zip(measured, rows, strict=True):
        table.add_row(at, *("" if value is None else f"{value:,.0f}" if value >= 100 else f"{value:.3f}" for value in row))
    table.add_section()
    table.add_row(
        "last / first",
        *(f"{last / first:.2f}" if first and last is not None else "" for first, last in zip(rows[0], rows[-1], strict=True)),
    )
    return table


def _others(name: str, points: list[Point]) -> Table:
    table = Table(title=f"{name}: others", title_justify="left")
    names = list(dict.fromkeys(key for point in points for key in point.others or {}))
    for heading in ("", *names):
        table.add_column(heading, justify="left" if not heading else "right")
    for point in points:
        table.add_row(point.at, *(str((point.others or {}).get(key, "")) for key in names))
    return table


if __name__ == "__main__":
    sys.exit(main())
