"""`make bench`, or `python -m benchmarks --rounds N --jobs N --only w1,w2,w3,w4`: everybody in turn, round after round."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import cast

from benchmarks import effect, measure, report
from benchmarks.contender import Contender, Place, Served
from benchmarks.fastapi_dramatiq import FastapiDramatiq
from benchmarks.haulier import Haulier
from benchmarks.measure import Measurement
from benchmarks.plain_dramatiq import PlainDramatiq
from benchmarks.servers import Servers, new_place
from console.servers.find import rabbitmq_node
from console.servers.postgres import PostgresServer, debian_binaries

#: By workload, who takes part. The second is what the first is compared with.
CONTENDERS: dict[str, dict[str, Callable[[Place], Contender]]] = {
    "w1": {
        "haulier": Haulier,
        "dramatiq": PlainDramatiq,
        "dramatiq, prefetch 256": partial(PlainDramatiq, prefetch=256),
    },
    "w2": {
        "haulier": Haulier,
        "haulier, sharing": partial(Haulier, durable="bench.shared"),
        "haulier, many": partial(Haulier, durable="bench.many"),
        "dramatiq": PlainDramatiq,
        "dramatiq, prefetch 256": partial(PlainDramatiq, prefetch=256),
    },
    "w3": {"haulier": partial(Haulier, over_http=True), "dramatiq": PlainDramatiq},
    "w4": {"haulier": partial(Haulier, over_http=True), "fastapi + dramatiq": FastapiDramatiq},
}


def main() -> int:
    options = _read_options()
    binaries = debian_binaries() if options.postgres == "debian" else None
    measurements: list[Measurement] = []
    with (
        PostgresServer(binaries=binaries, settings=effect.POSTGRES_SETTINGS) as postgres,
        rabbitmq_node() as rabbitmq,
        options.output.open("w") as output,
    ):
        servers = Servers(postgres, rabbitmq)
        for turn in range(options.rounds):
            for workload in options.only:
                for name in _order(list(CONTENDERS[workload]), turn):
                    measured = _measure(servers, workload, name, turn, options.singles if workload == "w3" else options.jobs)
                    measurements.append(measured)
                    line = json.dumps(measured.as_row())
                    print(line, file=output, flush=True)
                    print(line, file=sys.stderr)
    report.show(measurements)
    print(f"every measurement: {options.output}")
    return 0


def _read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--jobs", type=int, default=20_000, help="of a drained backlog")
    parser.add_argument("--singles", type=int, default=200, help="one at a time, for W3")
    parser.add_argument("--only", type=_read_workloads, default=list(CONTENDERS), metavar=",".join(CONTENDERS))
    parser.add_argument("--postgres", choices=["embedded", "debian"], default="embedded")
    default = Path(tempfile.gettempdir()) / f"haulier-benchmark-{time.strftime('%Y%m%d-%H%M%S')}.jsonl"
    parser.add_argument("--output", type=Path, default=default, help="JSON lines, one a measurement")
    return parser.parse_args()


def _read_workloads(text: str) -> list[str]:
    names = text.split(",")
    unknown = set(names) - set(CONTENDERS)
    if unknown:
        raise argparse.ArgumentTypeError(f"expected {', '.join(CONTENDERS)}, got {', '.join(sorted(unknown))}")
    return names


def _order(names: list[str], turn: int) -> list[str]:
    """Another one begins in each round."""
    at = turn % len(names)
    return names[at:] + names[:at]


def _measure(servers: Servers, workload: str, name: str, turn: int, jobs: int) -> Measurement:
    with new_place(servers) as place, closing(CONTENDERS[workload][name](place)) as contender:
        if workload == "w3":
            return measure.latency(contender, place, servers.pids, name, turn, jobs)
        if workload == "w4":
            return measure.through(cast("Served", contender), place, servers.pids, name, turn, jobs)
        return measure.drain(contender, place, servers.pids, workload, name, turn, jobs)


if __name__ == "__main__":
    sys.exit(main())
