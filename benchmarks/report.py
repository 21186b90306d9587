"""What a run has found: medians, ratios within each round, processor time by group of processes."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence

from rich.console import Console
from rich.table import Table

from benchmarks.measure import Measurement

OURS = "haulier"
GROUPS = ("serve", "relay", "work", "postgres", "rabbitmq")


def show(measurements: Sequence[Measurement]) -> None:
    console = Console(width=150)
    for workload in dict.fromkeys(measurement.workload for measurement in measurements):
        console.print(_table(workload, [each for each in measurements if each.workload == workload]))


def _table(workload: str, measurements: Sequence[Measurement]) -> Table:
    single = workload == "w3"
    table = Table(title=workload.upper(), title_justify="left", caption_justify="left")
    for heading in ("", *(("p50 ms", "p95 ms", "p99 ms") if single else ("jobs/s",)), "CPU ms/job", *GROUPS, "machine"):
        table.add_column(heading, justify="left" if not heading else "right")
    for name in sorted({each.contender for each in measurements}, key=lambda name: (not name.startswith(OURS), name)):
        rows = [each for each in measurements if each.contender == name]
        figures = [_median((each.p50, each.p95, each.p99)[at] for each in rows) for at in range(3)] if single else [_rate(rows)]
        groups = [_median(each.cpu.get(group) for each in rows) for group in GROUPS]
        table.add_row(
            name,
            *figures,
            f"{statistics.median(sum(each.cpu.values()) for each in rows):.3f}",
            *groups,
            _median(each.machine for each in rows),
        )
    names = sorted({each.contender for each in measurements})
    for ours in (name for name in names if name.startswith(OURS)):
        table.add_section()
        for name in (name for name in names if not name.startswith(OURS)):
            ratios = _ratios(measurements, ours, name)
            if ratios:
                listed = " ".join(f"{ratio:.2f}" for ratio in ratios)
                table.add_row(f"{ours} / {name}", f"{statistics.median(ratios):.2f}", f"each round: {listed}")
    return table


def _ratios(measurements: Iterable[Measurement], ours: str, name: str) -> list[float]:
    """Ours to theirs, round by round: of rates (more is better), or of median latencies (less is better)."""
    figures = {(each.contender, each.round): each.rate or each.p50 for each in measurements}
    rounds = sorted({turn for who, turn in figures if who == ours} & {turn for who, turn in figures if who == name})
    return [(figures[ours, turn] or 0) / (figures[name, turn] or 1) for turn in rounds]


def _rate(rows: Sequence[Measurement]) -> str:
    return f"{statistics.median(each.rate or 0 for each in rows):,.0f}"


def _median(values: Iterable[float | None]) -> str:
    found = [value for value in values if value is not None]
    return f"{statistics.median(found):.3f}" if found else ""
