"""What a process counts, by prometheus_client: where metrics are made, and where Prometheus reads them.

An intake shows its own among its routes. Relay, workers and upkeep have no other door: `serve` opens one at HAULIER_METRICS_PORT.
The processes of one `haulier work` keep their values in files (the library's multi-process mode), a set for each place; the runner
adds them up. A successor goes on in the files of the one that died, so that no counter goes back. They go with the runner, unless it is killed.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Self, cast

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram, Metric, generate_latest, start_http_server, values
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector
from prometheus_client.samples import Sample

__all__ = ["Counter", "Gauge", "Histogram", "Ours", "Places", "expose", "part_of_this_place", "serve"]

#: Which of the runner's places this process stands at, if it is one of its processes. Two at one place would spoil each other's files.
PLACE = "HAULIER_METRICS_PLACE"
#: Bytes of each file: room for some thousand values. One that has to grow on a full disk kills its process.
FILE_SIZE = 512 << 10
FILES = ("counter_{}.db", "histogram_{}.db", "gauge_all_{}.db")
#: Seconds that a reader of /metrics may take for its request.
PATIENCE = 10

_own, _place = os.getpid(), os.environ.pop(PLACE, None)
if _place is not None:  # what this process forks is not at its place
    values.ValueClass = values.MultiProcessValue(lambda: _place if os.getpid() == _own else os.getpid())


def part_of_this_place(number: int) -> dict[str, str]:
    """The environment of a process that this one starts and waits for: it counts at a place of its own, while no other does at this number."""
    return {} if _place is None else {PLACE: f"{_place}.{number}"}


class Ours(Collector):
    """The metrics of this process that are the product's own."""

    def collect(self) -> Iterable[Metric]:
        return (metric for metric in REGISTRY.collect() if metric.name.startswith("haulier_"))


class Places(Collector):
    """Those of a runner and of its processes, added up. Of gauges each process has its own, with its place as `pid`."""

    def __init__(self) -> None:
        self._directory = TemporaryDirectory(prefix="haulier-metrics-")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._directory.cleanup()

    def environment(self, place: int) -> dict[str, str]:
        """For the process at a place. Raises OSError when there is no room for its files."""
        for name in FILES:
            with (Path(self._directory.name) / name.format(place)).open("ab") as file:
                os.posix_fallocate(file.fileno(), 0, FILE_SIZE)
        return {"PROMETHEUS_MULTIPROC_DIR": self._directory.name, PLACE: str(place)}

    def collect(self) -> Iterable[Metric]:
        found = {metric.name: metric for metric in Ours().collect()}
        files = [str(file) for file in Path(self._directory.name).glob("*.db")]
        for theirs in cast("Iterable[Metric]", MultiProcessCollector.merge(files)):
            own = found.setdefault(theirs.name, theirs)
            if own is not theirs:
                own.samples = _sum(own.samples, theirs.samples)
        return found.values()


def _sum(one: Sequence[Sample], other: Sequence[Sample]) -> list[Sample]:
    sums: defaultdict[tuple[str, tuple[tuple[str, str], ...]], float] = defaultdict(float)
    for sample in (*one, *other):
        sums[sample.name, tuple(sorted(sample.labels.items()))] += sample.value
    return [Sample(name, dict(labels), value) for (name, labels), value in sums.items()]


def expose() -> bytes:
    """This process' in Prometheus' text format."""
    return generate_latest(Ours())


def serve(host: str, port: int, collector: Collector) -> None:
    """`GET /metrics`, from a thread of its own, as long as the process lives. Raises OSError when the port cannot be had."""
    registry = CollectorRegistry(auto_describe=True)  # so that `?name[]=` finds what it names
    registry.register(collector)
    server: Any = start_http_server(port, host, registry)[0]
    server.RequestHandlerClass.timeout = PATIENCE
