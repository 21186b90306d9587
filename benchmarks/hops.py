"""`python -m benchmarks.hops`: what each hop of a job's way costs, ours beside the floor's (see `floor.py`), in processor milliseconds a job.

A hop's figure is its own processes' and that of its connections' backends in Postgres; what Postgres does for all (WAL, checkpoints, vacuum)
is told apart. Both drain the same backlog of durable effects, in turn, round after round.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import LiteralString

import psycopg
from rich.console import Console
from rich.table import Table

from benchmarks import effect, measure
from benchmarks.contender import Contender, Place, await_
from benchmarks.floor import Floor
from benchmarks.haulier import Haulier
from benchmarks.processes import TICK, processor_seconds
from benchmarks.servers import Servers, new_place
from console.servers.find import rabbitmq_node
from console.servers.postgres import PostgresServer

WAYS: dict[str, tuple[Callable[[Place], Contender], str]] = {
    "floor": (Floor, "durable"),
    "haulier, many": (partial(Haulier, durable="bench.many"), "durable"),
    "haulier, sharing": (partial(Haulier, durable="bench.shared"), "durable"),
    "haulier, own": (Haulier, "durable"),
    "haulier, no-op": (Haulier, "noop"),
}
HOPS = ("submit", "relay", "relay's SQL", "rabbitmq", "worker", "worker's SQL", "Postgres for all")
BACKENDS: LiteralString = "select pid, backend_type, application_name from pg_stat_activity where pid <> pg_backend_pid()"

Costs = dict[str, float]


def main() -> int:
    options = _read_options()
    found: dict[str, list[Costs]] = defaultdict(list)
    with PostgresServer(settings=effect.POSTGRES_SETTINGS) as postgres, rabbitmq_node() as rabbitmq:
        servers = Servers(postgres, rabbitmq)
        for turn in range(options.rounds):
            for name, (make, kind) in WAYS.items():
                with new_place(servers) as place, closing(make(place)) as contender:
                    found[name].append(_measure(servers, place, contender, kind, options.jobs))
                print(f"round {turn + 1}: {name}", file=sys.stderr)
    _show(found)
    return 0


def _read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.hops", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--jobs", type=int, default=10_000)
    return parser.parse_args()


def _measure(servers: Servers, place: Place, contender: Contender, kind: str, jobs: int) -> Costs:
    contender.submit(kind, range(-measure.WARM_UP, 0))
    await_(lambda: place.reader.count() >= measure.WARM_UP, "the warm-up", place)
    contender.hold()
    with psycopg.connect(place.database_url, autocommit=True) as tx:
        submitting: Costs = {}
        with _spent(tx, {}, submitting):
            contender.submit(kind, range(jobs))
        roots = {"rabbitmq": servers.rabbitmq.pid, **place.processes.pids()}
        draining: Costs = {}
        with _spent(tx, roots, draining):
            contender.release()
            await_(lambda: place.reader.count() >= measure.WARM_UP + jobs, f"{jobs} jobs", place, seconds=300)
            await_(lambda: contender.ended_at() is not None, "the last job's end", place)
    costs = {
        "submit": submitting["intake"],
        "relay": draining["relay"],
        "relay's SQL": draining["SQL of relay"],
        "rabbitmq": draining["rabbitmq"],
        "worker": draining["work"],
        "worker's SQL": draining["SQL of worker"],
        "Postgres for all": draining["for all"],
    }
    return {hop: seconds * 1000 / jobs for hop, seconds in costs.items()}


@contextmanager
def _spent(tx: psycopg.Connection, roots: dict[str, int], costs: Costs) -> Iterator[None]:
    """Seconds by group of processes, and of Postgres' backends by what their connections are called."""
    before, backends_before = processor_seconds(roots), _backends(tx)
    yield
    for name, seconds in processor_seconds(roots).items():
        costs[name] = seconds - before[name]
    for name in ("intake", "SQL of relay", "SQL of worker", "for all"):
        costs[name] = 0
    for (pid, group), seconds in _backends(tx).items():
        costs[group] += seconds - backends_before.get((pid, group), 0)


def _backends(tx: psycopg.Connection) -> dict[tuple[int, str], float]:
    found: dict[tuple[int, str], float] = {}
    for pid, kind, name in tx.execute(BACKENDS).fetchall():
        group = "for all"
        if kind == "client backend":
            group = next((f"SQL of {role}" for role in ("relay", "worker") if name.endswith(role)), "intake")
        try:
            stat = Path(f"/proc/{pid}/stat").read_text()
        except FileNotFoundError:
            continue
        fields = stat[stat.rindex(")") + 2 :].split()
        found[pid, group] = sum(map(int, fields[11:13])) / TICK
    return found


def _show(found: dict[str, list[Costs]]) -> None:
    table = Table(
        title="CPU ms a job", title_justify="left", caption="medians; submit: Postgres' part of a set of 200", caption_justify="left"
    )
    for heading in ("", *HOPS, "together", "of the floor"):
        table.add_column(heading, justify="left" if not heading else "right")
    totals = {name: statistics.median(sum(costs.values()) for costs in rounds) for name, rounds in found.items()}
    for name, rounds in found.items():
        hops = [f"{statistics.median(costs[hop] for costs in rounds):.3f}" for hop in HOPS]
        table.add_row(name, *hops, f"{totals[name]:.3f}", f"{totals[name] / totals['floor']:.1f}")
    Console(width=150).print(table)


if __name__ == "__main__":
    sys.exit(main())
