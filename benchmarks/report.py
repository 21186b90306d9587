"""What a run has found: medians, ratios within each round, processor time by group of processes."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.about import in_words
from benchmarks.contenders import WORKLOADS
from benchmarks.measure import Measurement
from benchmarks.peers.table import PEERS

OURS = "haulier"
#: Who of ours is set against peers, where not OURS itself.
AGAINST_PEERS = {"w2": "haulier, sharing"}
GROUPS = ("serve", "relay", "work", "postgres", "rabbitmq", "redis")
CAPTION = (
    "Medians of all rounds, with the least and the most; CPU in ms a job, by group of processes; machine: all that ran on it. "
    "Haulier's figures include its relay, and a job has ended when the ledger says so. A peer's job has ended when its work has: what it does "
    "afterwards to acknowledge it or to mark it as done is left out for the last jobs, and for those that gather such ends (pgqueuer) for many. "
    "In peers with event loops (pgqueuer, Procrastinate, taskiq) the effect goes by asyncpg, in all others by psycopg."
)


def show(about: dict[str, Any], measurements: Sequence[Measurement]) -> None:
    console = Console(width=170)
    for workload in dict.fromkeys(measurement.workload for measurement in measurements):
        found = [each for each in measurements if each.workload == workload]
        console.print(_table(workload, found))
        console.print(_ratios(workload, found))
    console.print(CAPTION)
    console.print(in_words(about))


def _table(workload: str, measurements: Sequence[Measurement]) -> Table:
    single = workload == "w3"
    groups = [group for group in GROUPS if any(each.cpu.get(group) for each in measurements)]
    table = Table(title=f"{workload.upper()}: {WORKLOADS[workload]}", title_justify="left")
    for heading in ("", "jobs", *(("p50 ms", "p95 ms", "p99 ms") if single else ("jobs/s",)), "CPU", *groups, "machine"):
        table.add_column(heading, justify="left" if not heading else "right")
    for name in names_in_order(measurements):
        rows = [each for each in measurements if each.contender == name]
        figures = [_median((each.p50, each.p95, each.p99)[at] for each in rows) for at in range(3)] if single else [_rate(rows)]
        table.add_row(
            name,
            f"{rows[0].jobs:,}",
            *figures,
            f"{statistics.median(sum(each.cpu.values()) for each in rows):.3f}",
            *(_median(each.cpu.get(group) for each in rows) for group in groups),
            _median(each.machine for each in rows),
        )
    return table


def _ratios(workload: str, measurements: Sequence[Measurement]) -> Table:
    table = Table(
        title="of their median latencies: less is better" if workload == "w3" else "of their rates: more is better", title_justify="left"
    )
    for heading in ("ratio", "median", "each round"):
        table.add_column(heading, justify="right" if heading == "median" else "left")
    for ours, name in _pairs(workload, names_in_order(measurements)):
        found = ratios(measurements, ours, name)
        if found:
            table.add_row(f"{ours} / {name}", f"{statistics.median(found):.2f}", " ".join(f"{ratio:.2f}" for ratio in found))
    return table


def names_in_order(measurements: Iterable[Measurement]) -> list[str]:
    """Ours first."""
    return sorted({each.contender for each in measurements}, key=lambda name: (not name.startswith(OURS), name))


def _pairs(workload: str, names: Sequence[str]) -> list[tuple[str, str]]:
    """Each of ours beside each of the rest, but only one of them beside peers."""
    ours = [name for name in names if name.startswith(OURS)]
    beside_peers = AGAINST_PEERS.get(workload, OURS)
    return [(one, name) for one in ours for name in names if name not in ours and (name not in PEERS or one == beside_peers)]


def ratios(measurements: Iterable[Measurement], ours: str, name: str) -> list[float]:
    """Ours to theirs, round by round: of rates (more is better), or of median latencies (less is better)."""
    figures = {(each.contender, each.round): each.rate or each.p50 for each in measurements}
    rounds = sorted({turn for who, turn in figures if who == ours} & {turn for who, turn in figures if who == name})
    return [(figures[ours, turn] or 0) / (figures[name, turn] or 1) for turn in rounds]


def _rate(rows: Sequence[Measurement]) -> str:
    rates = [each.rate or 0 for each in rows]
    return f"{statistics.median(rates):,.0f} ({min(rates):,.0f} to {max(rates):,.0f})"


def _median(values: Iterable[float | None]) -> str:
    found = [value for value in values if value is not None]
    return f"{statistics.median(found):.3f}" if found else ""
