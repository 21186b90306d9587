"""What grows: the backlog, what has finished, a transaction that somebody has left open, processes, tenants, time."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import psutil
import psycopg

from benchmarks.growth.drain import Rig, Stream, new_rig
from benchmarks.growth.figures import Figures
from benchmarks.growth.fill import finish_jobs, queue_jobs
from benchmarks.growth.reads import read_costs
from benchmarks.processes import ROOT
from benchmarks.servers import Servers

#: Of what lasts some minutes.
PARTS = 10


@dataclass(frozen=True)
class Options:
    """Of every scenario. `jobs`: drained in one measurement; `largest`: the biggest backlog, or ledger; `rate`: jobs a second."""

    jobs: int
    largest: int
    rate: float
    minutes: float


@dataclass(frozen=True)
class Point:
    """One row of a scenario's table: where it was measured, and what was found."""

    at: str
    figures: Figures | None = None
    others: dict[str, Any] | None = None


def queued(servers: Servers, options: Options) -> Iterator[Point]:
    """Drain `jobs` of them while 10^3, 10^5, 10^6 others stay queued."""
    for size in (size for size in (1_000, 100_000, 1_000_000) if size <= options.largest):
        with new_rig(servers) as rig:
            queue_jobs(rig.tx, size + options.jobs, rig.haulier.tenant)
            yield Point(f"{size:,} queued", rig.drain(options.jobs))


def finished(servers: Servers, options: Options) -> Iterator[Point]:
    """Drain while so many have finished, nine tenths of them in the archive; and what reading costs beside them."""
    for size in (size for size in (0, 1_000_000, 10_000_000) if size <= options.largest):
        with new_rig(servers) as rig:
            if size:
                finish_jobs(rig.tx, size, rig.haulier.tenant)
            rig.keep_up()
            queue_jobs(rig.tx, options.jobs + 1000, rig.haulier.tenant)
            figures = rig.drain(options.jobs)
            yield Point(f"{size:,} finished", figures, read_costs(rig))


def open_snapshot(servers: Servers, options: Options) -> Iterator[Point]:
    """Somebody reads at REPEATABLE READ and goes for lunch."""
    yield from _open(servers, options, "select 1 from haulier.jobs limit 1")


def open_writer(servers: Servers, options: Options) -> Iterator[Point]:
    """Somebody has written something, and goes for lunch: now nobody's transactions are all over."""
    yield from _open(servers, options, "create temporary table mine (n integer); select 1 from haulier.jobs limit 1")


def _open(servers: Servers, options: Options, statement: str) -> Iterator[Point]:
    part = options.minutes * 60 / PARTS
    with new_rig(servers) as rig, psycopg.connect(rig.place.database_url) as lunch:
        rig.keep_up()
        rig.haulier.release()
        with Stream(rig, options.rate, [rig.haulier.tenant]):
            time.sleep(5)
            yield _interval(rig, "before", part)
            lunch.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
            lunch.execute(statement)  # pyright: ignore[reportArgumentType, reportCallIssue]
            for number in range(1, PARTS + 1):
                yield _interval(rig, f"open for {number * part / 60:g} minutes", part)
            lunch.rollback()
            yield _interval(rig, "just after", part)
            yield _interval(rig, "after", part)


def _interval(rig: Rig, at: str, seconds: float) -> Point:
    before, counters = rig.done(), rig.counters()
    time.sleep(seconds)
    return Point(at, counters.read(rig.done() - before), _memory(rig))


def processes(servers: Servers, options: Options) -> Iterator[Point]:
    for number in (1, 2, 4):
        with new_rig(servers, processes=number) as rig:
            queue_jobs(rig.tx, options.jobs + 1000, rig.haulier.tenant)
            yield Point(f"{number} worker processes", rig.drain(options.jobs))


def tenants(servers: Servers, options: Options) -> Iterator[Point]:
    for number in (1, 1000):
        with new_rig(servers) as rig:
            first = rig.add_tenants(number)
            queue_jobs(rig.tx, options.jobs + 1000, first, number)
            yield Point(f"{number:,} tenants", rig.drain(options.jobs))


def steady(servers: Servers, options: Options) -> Iterator[Point]:
    """A moderate rate, upkeep archiving and autovacuum on; and the memory of each process after each part."""
    part = options.minutes * 60 / PARTS
    with new_rig(servers) as rig:
        rig.keep_up(archive_after=part)
        rig.haulier.release()
        with Stream(rig, options.rate, [rig.haulier.tenant]):
            time.sleep(5)
            for number in range(1, PARTS + 1):
                yield _interval(rig, f"{number * part / 60:g} minutes", part)


def memory(servers: Servers, options: Options) -> Iterator[Point]:
    """Private memory of each process in MiB: before, under and after load over HTTP. The later loads say whether it grows with jobs."""
    with new_rig(servers, over_http=True) as rig:
        rig.keep_up(archive_after=10)
        rig.haulier.release()
        yield Point("before load", None, _memory(rig))
        for turn in range(4):
            yield Point(f"under load {turn + 1}", None, _under_load(rig, options.jobs, first=turn * options.jobs))
            time.sleep(5)
            yield Point(f"after {(turn + 1) * options.jobs:,} jobs", None, _memory(rig))


def _under_load(rig: Rig, number: int, first: int) -> dict[str, float]:
    """The most that each had."""
    target = rig.done() + number
    command = [sys.executable, "-m", "benchmarks.load", rig.haulier.url, "32", "300", "--key", rig.haulier.key]
    command += ["--command", "bench.durable", f"--first={first}", f"--most={first + number}"]
    most: dict[str, float] = {}
    with closing(_Client(command)):
        while rig.done() < target:
            rig.place.processes.check()
            most = {role: max(size, most.get(role, 0)) for role, size in _memory(rig).items()}
            time.sleep(0.5)
    return most


class _Client:
    def __init__(self, command: list[str]) -> None:
        self._process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL)

    def close(self) -> None:
        self._process.wait(60)


def _memory(rig: Rig) -> dict[str, float]:
    """Unique set size in MiB: what would be free if it ended, without the record of the benchmark that workers map."""
    found: dict[str, float] = {}
    for role, pid in rig.place.processes.pids().items():
        root = psutil.Process(pid)
        for number, process in enumerate([root, *root.children(recursive=True)]):
            anonymous = sum(area.private_dirty for area in process.memory_maps(grouped=False) if ".ends" not in area.path)
            found[role if number == 0 else f"{role} {number}"] = round(anonymous / 2**20, 1)
    return found


SCENARIOS: dict[str, Callable[[Servers, Options], Iterator[Point]]] = {
    "queued": queued,
    "finished": finished,
    "open": open_snapshot,
    "writer": open_writer,
    "processes": processes,
    "tenants": tenants,
    "steady": steady,
    "memory": memory,
}
