"""One measurement: a backlog drained, jobs one at a time on an idle system, or submissions over HTTP."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import psycopg

from benchmarks import effect
from benchmarks.contender import Contender, Place, Served, await_
from benchmarks.processes import ROOT, calibrate, machine_seconds, processor_seconds, settle

#: Jobs before the clock starts: connections are open, statements are prepared, run times are known.
WARM_UP = 500
#: Of the jobs of a backlog, by workload.
KINDS = {"w1": "noop", "w2": "durable", "w2r": "random"}
#: Seconds from a single job to the first look whether it has ended; the next one follows then.
PAUSE = 0.02


@dataclass
class Measurement:
    workload: str
    contender: str
    round: int
    jobs: int
    calibration: float
    settled: bool
    cpu: dict[str, float]
    machine: float
    rate: float | None = None
    p50: float | None = None
    p95: float | None = None
    p99: float | None = None

    def as_row(self) -> dict[str, Any]:
        return {name: value for name, value in asdict(self).items() if value is not None}


@contextmanager
def processor_time(roots: dict[str, int], jobs: int) -> Iterator[tuple[dict[str, float], list[float]]]:
    """Milliseconds a job, by group (`work-1` and `work-2` are of one), and of the whole machine; filled in at the end."""
    groups: dict[str, float] = {}
    machine: list[float] = []
    before, machine_before = processor_seconds(roots), machine_seconds()
    yield groups, machine
    after = processor_seconds(roots)
    for role in roots:
        group = role.partition("-")[0]
        groups[group] = round(groups.get(group, 0) + (after[role] - before[role]) * 1000 / jobs, 4)
    machine.append(round((machine_seconds() - machine_before) * 1000 / jobs, 4))


def drain(contender: Contender, place: Place, servers: dict[str, int], workload: str, name: str, turn: int, jobs: int) -> Measurement:
    kind = KINDS[workload]
    contender.submit(kind, range(-WARM_UP, 0))
    await_(lambda: place.reader.count() >= WARM_UP, "the warm-up", place)
    contender.hold()
    contender.submit(kind, range(jobs))
    roots = servers | place.processes.pids()
    settled = _prepare(place)
    calibration = calibrate()
    with processor_time(roots, jobs) as (cpu, machine):
        started = time.time()
        contender.release()
        await_(lambda: place.reader.count() >= WARM_UP + jobs, f"{jobs} jobs", place, seconds=300)
        await_(lambda: contender.ended_at() is not None, "the last job's end", place)
    ended = contender.ended_at()
    assert ended is not None
    if kind != "noop":
        _check_effects(place, WARM_UP + jobs)
    rate = round(jobs / (ended - started), 1)
    return Measurement(workload, name, turn, jobs, calibration, settled, cpu, machine[0], rate=rate)


def through(contender: Served, place: Place, servers: dict[str, int], name: str, turn: int, jobs: int) -> Measurement:
    """From the first request of 32 connections that never rest to the last effect's commit; the client is on the same machine."""
    _send(contender, "bench.durable", WARM_UP, first=-WARM_UP)
    await_(lambda: place.reader.count() >= WARM_UP, "the warm-up", place)
    roots = servers | place.processes.pids()
    settled = _prepare(place)
    calibration = calibrate()
    with processor_time(roots, jobs) as (cpu, machine):
        started = time.time()
        _send(contender, "bench.durable", jobs)
        await_(lambda: place.reader.count() >= WARM_UP + jobs, f"{jobs} jobs", place, seconds=300)
    _check_effects(place, WARM_UP + jobs)
    with psycopg.connect(place.database_url) as database:
        ended = max(effect.commits(database).values())
    return Measurement("w4", name, turn, jobs, calibration, settled, cpu, machine[0], rate=round(jobs / (ended - started), 1))


def accept(contender: Served, place: Place, servers: dict[str, int], name: str, turn: int, jobs: int) -> Measurement:
    """As many submissions by 32 connections that never rest; nobody works them off."""
    _send(contender, "bench.noop", WARM_UP)
    roots = servers | place.processes.pids()
    settled = _prepare(place)
    calibration = calibrate()
    with processor_time(roots, jobs) as (cpu, machine):
        seconds = _send(contender, "bench.noop", jobs)
    return Measurement("w5", name, turn, jobs, calibration, settled, cpu, machine[0], rate=round(jobs / seconds, 1))


def _send(contender: Served, name: str, jobs: int, first: int = 0) -> float:
    """The seconds that it took."""
    command = [sys.executable, "-m", "benchmarks.load", contender.url, "32", "300", "--key", contender.key, "--command", name]
    command += [f"--first={first}", f"--most={first + jobs}"]
    answers, others, seconds = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout.split()
    if (int(answers), int(others)) != (jobs, 0):
        raise RuntimeError(f"of {jobs} submissions {answers} were answered, {others} of them with something else than 2xx")
    return float(seconds)


def latency(contender: Contender, place: Place, servers: dict[str, int], name: str, turn: int, jobs: int) -> Measurement:
    for number in range(-20, 0):
        _do_one(contender, place, number, before=20 + number)
    roots = servers | place.processes.pids()
    settled = _prepare(place)
    calibration = calibrate()
    with processor_time(roots, jobs) as (cpu, machine):
        submitted = [_do_one(contender, place, number, before=20 + number) for number in range(jobs)]
    with psycopg.connect(place.database_url) as database:
        committed = effect.commits(database)
    taken = [(committed[number] - submitted[number]) * 1000 for number in range(jobs)]
    cuts = [round(cut, 2) for cut in statistics.quantiles(taken, n=100)]
    return Measurement("w3", name, turn, jobs, calibration, settled, cpu, machine[0], p50=cuts[49], p95=cuts[94], p99=cuts[98])


def _do_one(contender: Contender, place: Place, number: int, *, before: int) -> float:
    started = contender.submit_one(number)
    time.sleep(PAUSE)  # who looks at once takes one of two cores from those that carry the job
    await_(lambda: place.reader.count() > before, f"job {number}", place, seconds=20, pause=0.01)
    return started


def _prepare(place: Place) -> bool:
    """Begin in a quiet moment, and not within a checkpoint."""
    with psycopg.connect(place.database_url, autocommit=True) as database:
        database.execute("checkpoint")
    return settle()


def _check_effects(place: Place, jobs: int) -> None:
    with psycopg.connect(place.database_url, autocommit=True) as database:
        found = effect.count(database)
    if found != (jobs, jobs):
        raise RuntimeError(f"{jobs} jobs must have {jobs} effects, {found[0]} jobs had {found[1]}")
