"""Draw what a run has found: `python -m benchmarks.charts FILE.jsonl [--directory docs/charts]`, which also puts the figures there, as bench.jsonl.

The same figures give the same SVG, byte for byte.
"""

from __future__ import annotations

import argparse
import json
import statistics
import textwrap
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

from benchmarks.about import in_words
from benchmarks.measure import Measurement
from benchmarks.report import GROUPS, OURS

DATA = "bench.jsonl"
BLUE, GREY, DARK, FAINT = "#0b6fb8", "#a9b2bc", "#22272e", "#6b7480"
COLOURS = dict(zip(GROUPS, ("#7b4ea3", "#d1495b", "#3c4f65", "#6fa8dc", "#f2b04f", "#5aa469"), strict=True))
LABELS = {"serve": "intake", "work": "workers", "postgres": "Postgres", "rabbitmq": "RabbitMQ", "redis": "Redis"}
STYLE = {
    "axes.edgecolor": GREY,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 10,
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "svg.fonttype": "none",
    "svg.hashsalt": "haulier",
    "text.color": DARK,
    "xtick.color": FAINT,
}
#: A bar longer than so many of plain Dramatiq's is cut.
CUT = 3

THREE_WAYS = "haulier: each effect in a transaction of its own; sharing: neighbours share one; many: a handler of many at a time. "
PANELS = {"w1": "no-op (W1)", "w2": "durable effect (W2)", "w4": "HTTP in, effect committed (W4)", "w5": "HTTP in, job committed (W5)"}
RATE = "Bars: median of {rounds}, everybody in turn; whiskers: the least and the most. Two processes each (Celery's threads: one). Haulier's figures include its relay. "
OF_PEERS = "pgqueuer gathers the ends of its jobs, and huey pops without acknowledgement: part of what others do per job is not in theirs."
DRIVERS = " In peers with event loops (pgqueuer, Procrastinate, taskiq) the effect goes by asyncpg, in all others by psycopg."
RATES = {"w1": RATE + OF_PEERS, "w2": THREE_WAYS + RATE + OF_PEERS + DRIVERS, "w2r": THREE_WAYS + RATE}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.charts", description=__doc__)
    parser.add_argument("file", type=Path)
    parser.add_argument("--directory", type=Path, default=Path("docs/charts"))
    options = parser.parse_args()
    about, measurements = load(options.file)
    draw(about, measurements, options.directory)
    rows = [{"about": about}, *(each.as_row() for each in measurements)]
    (options.directory / DATA).write_text("".join(json.dumps(row, separators=(",", ":")) + "\n" for row in rows))


def load(file: Path) -> tuple[dict[str, Any], list[Measurement]]:
    """The machine and the versions, as of `about.describe`, and what was measured."""
    first, *rows = map(json.loads, file.read_text().splitlines())
    return first["about"], [Measurement(**row) for row in rows]


def draw(about: dict[str, Any], measurements: Sequence[Measurement], directory: Path) -> Path:
    """A PNG and an SVG of each chart for which there are figures."""
    directory.mkdir(parents=True, exist_ok=True)
    with mpl.rc_context(STYLE):
        for workload, title in (
            ("w1", "No-op jobs per second (W1)"),
            ("w2", "Jobs with a durable effect per second (W2)"),
            ("w2r", "Jobs with a durable effect per second, accounts at random (W2r)"),
        ):
            _chart(f"{workload}-rate", title, [workload], _rates, RATES[workload], about, measurements, directory)
        http = "Bars: median of {rounds}, in turn; whiskers: the least and the most. 32 connections; clients, intake, relay, workers and servers share the machine."
        _chart("http-rate", "Jobs over HTTP per second (W4, W5)", ["w4", "w5"], _rates, http, about, measurements, directory)
        latency = (
            "From before the submission to the effect's commit, one job at a time on an idle system; medians of {rounds}. Haulier takes it over HTTP and "
            "commits it to its ledger first; the others are called in Python. p99 is of {jobs} jobs a round."
        )
        _chart(
            "w3-latency", "Latency of one job with a durable effect (W3), ms", ["w3"], _latencies, latency, about, measurements, directory
        )
        processor = (
            "Medians of {rounds}, by group of processes, servers included; longer bars are cut, their sums stand beside them. "
            "Steadier than jobs per second: a job's price."
        )
        _chart("cpu", "CPU per job, ms", ["w1", "w2"], _processor_time, processor, about, measurements, directory)
    return directory


Panel = Callable[[Axes, dict[str, list[Measurement]]], None]


def _chart(
    name: str,
    title: str,
    workloads: Sequence[str],
    panel: Panel,
    caption: str,
    about: dict[str, Any],
    measurements: Sequence[Measurement],
    directory: Path,
) -> None:
    found = [_by_contender(measurements, workload) for workload in workloads]
    if not all(found):
        return
    rounds = len({each.round for each in measurements if each.workload in workloads})
    wide = len(found) > 1
    said = caption.format(rounds=f"{rounds} round{'s' if rounds > 1 else ''}", jobs=next(iter(found[0].values()))[0].jobs)
    lines = [line for text in (said, in_words(about)) for line in textwrap.wrap(text, 190 if wide else 150)]
    above, below = 0.75 if wide else 0.5, 0.6 + 0.15 * len(lines)
    height = above + 0.3 * max(map(len, found)) + below
    figure = Figure(figsize=(11 if wide else 9, height))
    figure.text(0.012, 1 - 0.1 / height, title, fontsize=13, fontweight="bold", va="top")
    figure.text(0.012, 0.07 / height, "\n".join(lines), fontsize=7.5, color=FAINT, va="bottom", linespacing=1.4)
    axes = figure.subplots(1, len(found), squeeze=False)[0]
    figure.subplots_adjust(left=0.15 if wide else 0.185, right=0.98, top=1 - above / height, bottom=below / height, wspace=0.42)
    for ax, workload, rows in zip(axes, workloads, found, strict=True):
        panel(ax, rows)
        if wide:
            ax.set_title(PANELS[workload], color=FAINT)
    figure.savefig(directory / f"{name}.svg", metadata={"Date": None, "Creator": None})
    figure.savefig(directory / f"{name}.png", dpi=150, metadata={"Software": None})


def _by_contender(measurements: Iterable[Measurement], workload: str) -> dict[str, list[Measurement]]:
    """The best first."""
    found: dict[str, list[Measurement]] = {}
    for each in measurements:
        if each.workload == workload:
            found.setdefault(each.contender, []).append(each)
    return dict(sorted(found.items(), key=lambda item: statistics.median((each.p50 or 0) - (each.rate or 0) for each in item[1])))


def _name_bars(ax: Axes, names: list[str]) -> None:
    ax.set_yticks(range(len(names)), names)
    ax.set_ylim(len(names) - 0.4, -0.6)
    ax.tick_params(axis="y", length=0)
    ax.spines["left"].set_visible(False)
    for label, name in zip(ax.get_yticklabels(), names, strict=True):
        label.set_color(BLUE if name.startswith(OURS) else DARK)
        label.set_fontweight("bold" if name.startswith(OURS) else "normal")


def _rates(ax: Axes, rows: dict[str, list[Measurement]]) -> None:
    rates = [[each.rate or 0 for each in of_one] for of_one in rows.values()]
    medians = [statistics.median(each) for each in rates]
    whiskers = [
        [middle - min(each) for middle, each in zip(medians, rates, strict=True)],
        [max(each) - middle for middle, each in zip(medians, rates, strict=True)],
    ]
    colours = [BLUE if name.startswith(OURS) else GREY for name in rows]
    ax.barh(range(len(rows)), medians, 0.62, color=colours, xerr=whiskers, error_kw={"ecolor": DARK, "elinewidth": 0.8, "capsize": 2})
    longest = max(map(max, rates))
    for at, (middle, each) in enumerate(zip(medians, rates, strict=True)):
        ax.text(max(each) + longest * 0.012, at, f"{middle:,.0f}", va="center")
    ax.set_xlim(0, longest * 1.1)
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    ax.set_xlabel("jobs per second: more is better", color=FAINT)
    _name_bars(ax, list(rows))


def _latencies(ax: Axes, rows: dict[str, list[Measurement]]) -> None:
    for at, (name, of_one) in enumerate(rows.items()):
        colour = BLUE if name.startswith(OURS) else FAINT
        p50, p99 = (statistics.median(values) for values in ([each.p50 or 0 for each in of_one], [each.p99 or 0 for each in of_one]))
        ax.plot([p50, p99], [at, at], color=colour, linewidth=2, alpha=0.45, zorder=1)
        ax.scatter([p50], [at], color=colour, s=42, zorder=2, label="p50" if at == 0 else None)
        ax.scatter([p99], [at], facecolor="white", edgecolor=colour, s=42, zorder=2, label="p99" if at == 0 else None)
        ax.annotate(f"{p50:.1f}", (p50, at), (-7, 0), textcoords="offset points", ha="right", va="center")
        ax.annotate(f"{p99:.1f}", (p99, at), (7, 0), textcoords="offset points", ha="left", va="center")
    ax.set_xscale("log")
    low, high = ax.get_xlim()
    ax.set_xlim(low * 0.75, high * 1.3)
    ticks = [tick for tick in (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000) if low * 0.75 <= tick <= high * 1.3]
    ax.set_xticks(ticks, [str(tick) for tick in ticks])
    ax.xaxis.set_minor_formatter(NullFormatter())
    ax.grid(axis="x", color="#e6e9ec", zorder=0)
    ax.set_xlabel("milliseconds (logarithmic): less is better", color=FAINT)
    ax.legend(loc="upper right", frameon=False, ncols=2)
    _name_bars(ax, list(rows))


def _processor_time(ax: Axes, rows: dict[str, list[Measurement]]) -> None:
    found = {
        name: {group: statistics.median(each.cpu.get(group, 0) for each in of_one) for group in GROUPS} for name, of_one in rows.items()
    }
    medians = dict(sorted(found.items(), key=lambda item: sum(item[1].values())))
    sums = {name: sum(groups.values()) for name, groups in medians.items()}
    limit = min(max(sums.values()), CUT * sums.get("dramatiq", max(sums.values())))
    starts = [0.0] * len(medians)
    for group in GROUPS:
        ends = [min(limit, start + groups[group]) for start, groups in zip(starts, medians.values(), strict=True)]
        widths = [end - start for start, end in zip(starts, ends, strict=True)]
        if any(widths):
            ax.barh(range(len(medians)), widths, 0.62, left=starts, color=COLOURS[group], label=LABELS.get(group, group))
        starts = ends
    for at, total in enumerate(sums.values()):
        ax.text(min(total, limit) + limit * 0.015, at, f"{total:.2f}", va="center")
        if total > limit:
            ax.barh([at], [limit * 0.012], 0.7, left=[limit * 0.93], color="white")
    ax.set_xlim(0, limit * 1.1)
    ax.set_xlabel("ms of processor time a job: less is better", color=FAINT)
    ax.legend(loc="upper right", frameon=False, fontsize=8)
    _name_bars(ax, list(medians))


if __name__ == "__main__":
    main()
