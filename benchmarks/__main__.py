"""`make bench`, or `python -m benchmarks [--rounds N] [--only w1,w2,…] [--contenders NAME …] [--peers none]`: everybody in turn, round after round."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any, cast

from benchmarks import effect, measure, report
from benchmarks.about import describe
from benchmarks.contender import Contender, Served
from benchmarks.contenders import CONTENDERS, JOBS, jobs_of
from benchmarks.measure import Measurement
from benchmarks.peers.environments import InstallError, python_of
from benchmarks.peers.table import PEERS
from benchmarks.servers import Servers, new_place
from console.servers.find import rabbitmq_node, redis_server
from console.servers.postgres import PostgresServer, debian_binaries

#: Of the peers, who has its jobs in Redis.
IN_REDIS = {"huey"}


def main() -> int:
    options = _read_options()
    taking_part = {workload: _choose(workload, options) for workload in options.only}
    names = {name for chosen in taking_part.values() for name in chosen}
    try:
        for name in sorted(names & set(PEERS)):
            python_of(PEERS[name].module, PEERS[name].packages)
    except InstallError as error:
        print(error, file=sys.stderr)
        return 1
    measurements: list[Measurement] = []
    with ExitStack() as stack:
        servers = _start_servers(stack, options.postgres, names)
        output = stack.enter_context(options.output.open("w"))
        about = describe(servers.postgres, servers.rabbitmq, servers.redis, names)
        _tell({"about": about}, output)
        for turn in range(options.rounds):
            for workload, chosen in taking_part.items():
                for name in _order(chosen, turn):
                    wanted = options.singles if workload == "w3" else options.jobs
                    measured = _measure(servers, workload, name, turn, jobs_of(workload, name, wanted))
                    measurements.append(measured)
                    _tell(measured.as_row(), output)
    report.show(about, measurements)
    print(f"every measurement: {options.output}; `python -m benchmarks.charts {options.output}` draws and publishes it")
    if not options.no_charts:
        from benchmarks import charts  # noqa: PLC0415  (only who draws has to have matplotlib)

        print(f"charts: {charts.draw(about, measurements, options.output.with_suffix(''))}")
    return 0


def _read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--jobs", type=int, help=f"of each workload but W3, instead of {JOBS}; slow peers get their share")
    parser.add_argument("--singles", type=int, help=f"one at a time, for W3, instead of {JOBS['w3']}")
    parser.add_argument("--only", type=_read_workloads, default=list(CONTENDERS), metavar=",".join(CONTENDERS))
    parser.add_argument(
        "--contenders", nargs="+", metavar="NAME", help="only those whose names begin so, such as haulier or 'celery, threads'"
    )
    parser.add_argument("--peers", choices=["all", "none"], default="all", help=f"whether these take part: {'; '.join(PEERS)}")
    parser.add_argument("--postgres", choices=["embedded", "debian"], default="embedded")
    parser.add_argument("--no-charts", action="store_true")
    default = Path(tempfile.gettempdir()) / f"haulier-benchmark-{time.strftime('%Y%m%d-%H%M%S')}.jsonl"
    parser.add_argument("--output", type=Path, default=default, help="JSON lines, one a measurement; charts go into a directory beside it")
    options = parser.parse_args()
    known = sorted({name for chosen in CONTENDERS.values() for name in chosen})
    for wanted in options.contenders or []:
        if not any(name.startswith(wanted) for name in known):
            parser.error(f"expected the beginning of one of {'; '.join(known)}; got {wanted!r}")
    return options


def _read_workloads(text: str) -> list[str]:
    names = text.split(",")
    unknown = set(names) - set(CONTENDERS)
    if unknown:
        raise argparse.ArgumentTypeError(f"expected {', '.join(CONTENDERS)}, got {', '.join(sorted(unknown))}")
    return names


def _choose(workload: str, options: argparse.Namespace) -> list[str]:
    names = [name for name in CONTENDERS[workload] if options.peers == "all" or name not in PEERS]
    return [name for name in names if options.contenders is None or name.startswith(tuple(options.contenders))]


def _order(names: list[str], turn: int) -> list[str]:
    """Another one begins in each round."""
    at = turn % len(names) if names else 0
    return names[at:] + names[:at]


def _tell(row: dict[str, Any], output: Any) -> None:
    line = json.dumps(row)
    print(line, file=output, flush=True)
    print(line, file=sys.stderr)


def _start_servers(stack: ExitStack, kind: str, names: set[str]) -> Servers:
    binaries = debian_binaries() if kind == "debian" else None
    postgres = stack.enter_context(PostgresServer(binaries=binaries, settings=effect.POSTGRES_SETTINGS))
    rabbitmq = stack.enter_context(rabbitmq_node())
    return Servers(postgres, rabbitmq, stack.enter_context(redis_server()) if names & IN_REDIS else None)


def _measure(servers: Servers, workload: str, name: str, turn: int, jobs: int) -> Measurement:
    with new_place(servers) as place, closing(CONTENDERS[workload][name](place)) as contender:
        pids = dict(servers.pids)
        if servers.redis and name in IN_REDIS:
            pids["redis"] = servers.redis.pid
        match workload:
            case "w3":
                return measure.latency(cast("Contender", contender), place, pids, name, turn, jobs)
            case "w4":
                return measure.through(cast("Served", contender), place, pids, name, turn, jobs)
            case "w5":
                return measure.accept(cast("Served", contender), place, pids, name, turn, jobs)
            case _:
                return measure.drain(cast("Contender", contender), place, pids, workload, name, turn, jobs)


if __name__ == "__main__":
    sys.exit(main())
