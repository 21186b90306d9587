"""How fast an intake accepts: one `haulier serve` beside a bare FastAPI app, on the same Postgres, under the same load; then batches.

`python -m benchmarks.submitting [--rounds 3] [--seconds 3] [--flat 0]`: everybody in turn, round after round; medians, and ratios within a round.
`--flat N`: then submits N jobs one by one, and prints the intake's memory before and after.
"""

from __future__ import annotations

import argparse
import http.client
import os
import secrets
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from statistics import median, quantiles

import orjson
import psutil
import psycopg

from benchmarks import bare
from benchmarks.commands import HANDLERS
from benchmarks.processes import ROOT, Processes
from benchmarks.work import DATA, payload
from console.logins import log_in_as
from console.servers.postgres import PostgresServer
from console.servers.process import free_port
from ledger import keys, workers
from ledger.migrate import migrate
from ledger.roles import add_account
from pipelines.load import describe


@dataclass
class Sides:
    """What is measured: where each listens, the key, and the intake's process."""

    ours: str
    bare: str
    key: str
    intake: psutil.Process


@contextmanager
def serving() -> Iterator[Sides]:
    with PostgresServer() as postgres, tempfile.TemporaryDirectory() as logs:
        migrate(postgres.url)
        with psycopg.connect(postgres.url, autocommit=True) as tx:
            tx.execute(bare.TABLE)
            workers.remember_commands(tx, describe(HANDLERS))
            tenant = keys.add_tenant(tx, "bench", "Benchmark")
            assert tenant
            _, key = keys.add_key(tx, tenant.id, "submitter", "bench")
            account, password = "bench_serve", secrets.token_urlsafe()
            with tx.transaction():
                add_account(tx, account, password, "serve")
        processes = Processes(Path(logs))
        ports = free_port(), free_port()
        environment = {
            "HAULIER_DATABASE_URL": log_in_as(postgres.url, account, password),
            "HAULIER_HANDLERS": "benchmarks.commands:HANDLERS",
            "HAULIER_PORT": str(ports[0]),
            "BENCH_DATABASE_URL": postgres.url,
        }
        intake = processes.start("intake", [sys.executable, "-m", "console.main", "serve"], environment)
        processes.start("bare", [sys.executable, "-m", "benchmarks.bare", str(ports[1])], environment)
        try:
            for port in ports:
                await_port(port, processes)
            yield Sides(f"http://127.0.0.1:{ports[0]}", f"http://127.0.0.1:{ports[1]}", key, psutil.Process(intake.pid))
        finally:
            processes.close()


def await_port(port: int, processes: Processes) -> None:
    deadline = time.monotonic() + 30
    while True:
        processes.check()
        try:
            http.client.HTTPConnection("127.0.0.1", port, timeout=5).request("GET", "/")
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)
        else:
            return


def singles(url: str, connections: int, seconds: float, key: str = "") -> float:
    """Submissions a second."""
    command = [sys.executable, "-m", "benchmarks.load", url, str(connections), str(seconds), "--key", key]
    answers, others, took = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout.split()
    assert int(others) == 0, f"{others} of {answers} were refused"
    return int(answers) / float(took)


def batch(sides: Sides, size: int, data: str = DATA) -> tuple[float, float]:
    """Jobs a second, and how much the intake's memory grew meanwhile, in MiB."""
    body = (
        b"["
        + b",".join(orjson.dumps({"command": "bench.noop", "payload": payload("noop", n) | {"data": data}}) for n in range(size))
        + b"]"
    )
    before = sides.intake.memory_info().rss
    most = [before]
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(0.01):
            most[0] = max(most[0], sides.intake.memory_info().rss)

    watcher = threading.Thread(target=watch)
    watcher.start()
    host = sides.ours.removeprefix("http://")
    connection = http.client.HTTPConnection(host, timeout=120)
    began = time.monotonic()
    connection.request("POST", "/v1/jobs/batch", body, {"authorization": f"Bearer {sides.key}", "content-type": "application/json"})
    answer = connection.getresponse()
    text = answer.read()
    took = time.monotonic() - began
    ended.set()
    watcher.join()
    accepted = text.count(b'"status":202')
    assert (answer.status, accepted) == (207, size), (answer.status, accepted, text[-300:])
    return size / took, (most[0] - before) / (1 << 20)


def latency(sides: Sides, seconds: float, *, beside_batches: bool) -> tuple[float, float]:
    """Milliseconds that a single submission takes, one at a time: median, and 99th percentile."""
    ended = threading.Event()

    def keep_sending() -> None:
        while not ended.is_set():
            batch(sides, 10_000)

    sender = threading.Thread(target=keep_sending if beside_batches else ended.wait)
    connection = http.client.HTTPConnection(sides.ours.removeprefix("http://"), timeout=60)
    body = orjson.dumps({"command": "bench.noop", "payload": payload("noop", 1)})
    headers = {"authorization": f"Bearer {sides.key}", "content-type": "application/json"}
    taken: list[float] = []
    sender.start()
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        began = time.perf_counter()
        connection.request("POST", "/v1/jobs", body, headers)
        answer = connection.getresponse()
        answer.read()
        taken.append((time.perf_counter() - began) * 1000)
        assert answer.status == HTTPStatus.ACCEPTED, answer.status
    ended.set()
    sender.join()
    cuts = quantiles(taken, n=100)
    return cuts[49], cuts[98]


def measure(sides: Sides, rounds: int, seconds: float) -> dict[str, list[float]]:
    found: dict[str, list[float]] = defaultdict(list)
    for url, key in ((sides.ours, sides.key), (sides.bare, "")):
        singles(url, 32, 1, key)
    batch(sides, 1000)
    for turn in range(rounds):
        steps = [
            ("ours, 32 connections", lambda: singles(sides.ours, 32, seconds, sides.key)),
            ("bare, 32 connections", lambda: singles(sides.bare, 32, seconds)),
            ("ours, 1 connection", lambda: singles(sides.ours, 1, seconds, sides.key)),
            ("bare, 1 connection", lambda: singles(sides.bare, 1, seconds)),
            ("batches of 1,000", lambda: median(batch(sides, 1000)[0] for _ in range(5))),
            ("batches of 10,000", lambda: batch(sides, 10_000)[0]),
        ]
        for name, step in steps[turn % 2 :] + steps[: turn % 2]:
            found[name].append(step())
            print(f"  round {turn + 1}: {name}: {found[name][-1]:,.0f}/s", file=sys.stderr, flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=3)
    parser.add_argument("--flat", type=int, default=0)
    asked = parser.parse_args()
    with serving() as sides:
        found = measure(sides, asked.rounds, asked.seconds)
        print("| what | jobs/s, median |\n| --- | --- |")
        for name, rates in found.items():
            print(f"| {name} | {median(rates):,.0f} |")
        for name, over in (
            ("ours, 32 connections", "bare, 32 connections"), ("ours, 1 connection", "bare, 1 connection"),
            ("batches of 1,000", "ours, 32 connections"), ("batches of 10,000", "ours, 32 connections"),
            ("batches of 1,000", "ours, 1 connection"), ("batches of 10,000", "ours, 1 connection"),
        ):  # fmt: skip
            ratios = [one / other for one, other in zip(found[name], found[over], strict=True)]
            print(f"| {name} / {over} | {median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f}) |")
        print(f"| a batch of 32 MiB: the intake grew by, in MiB | {batch(sides, 10_000, 'x' * 3200)[1]:.1f} |")
        for beside, what in ((False, "alone"), (True, "beside batches of 10,000")):
            p50, p99 = latency(sides, asked.seconds, beside_batches=beside)
            print(f"| a single at a time, {what}: p50, p99 in ms | {p50:.1f}, {p99:.1f} |")
        if asked.flat:
            before, done = sides.intake.memory_info().rss, 0.0
            began = time.monotonic()
            while done < asked.flat:
                done += singles(sides.ours, 32, 10, sides.key) * 10
            after = sides.intake.memory_info().rss
            print(f"| after {done:,.0f} singles in {time.monotonic() - began:.0f} s: MiB before, after | {before >> 20}, {after >> 20} |")


if __name__ == "__main__":
    os.environ.setdefault("PYTHONUNBUFFERED", "1")
    main()
