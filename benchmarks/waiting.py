"""2,000 clients wait on one intake process, and jobs end at a steady rate: from the commit of a completion to the answer (decision 0012).

`python -m benchmarks.waiting [--waiters 2000] [--rate 100]`: one `haulier serve` beside a Postgres and a Redis of its own. A stand-in for a
worker completes jobs and tells the changes bus as workers do. Then once more, and Redis is killed in the middle. Prints the time to the answer, and what the waiting
itself costs: threads and transactions while nothing happens, with nobody waiting and with everybody.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import secrets
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg

from benchmarks.commands import HANDLERS, QUEUE
from benchmarks.processes import Processes
from config.changes import RedisChanges
from config.ids import uuid7
from console.logins import log_in_as
from console.servers.find import redis_server
from console.servers.postgres import PostgresServer
from console.servers.process import free_port
from console.servers.redis import RedisServer
from ledger import attempts, jobs, keys, workers
from ledger.attempts import Success
from ledger.jobs import Submission
from ledger.migrate import migrate
from ledger.roles import add_account
from pipelines.load import describe

COMMAND = "bench.durable"
IDLE = 5.0


@dataclass
class Field:
    """Where it is played: the servers, the intake, and what the stand-in for a worker knows."""

    tx: psycopg.Connection[Any]
    redis: RedisServer
    changes: RedisChanges
    intake: int
    port: int
    tenant: int
    key: str
    worker: UUID = field(default_factory=uuid7)

    def begin(self, count: int) -> list[UUID]:
        wishes = [Submission(uuid7(), self.tenant, COMMAND, QUEUE, b'{"number": 1, "account": 1, "data": "x"}', 3) for _ in range(count)]
        for at in range(0, count, 200):
            part = wishes[at : at + 200]
            jobs.submit(self.tx, part)
            attempts.begin(self.tx, self.worker, [(wish.id, 1) for wish in part], {COMMAND: 600.0})
        return [wish.id for wish in wishes]

    def complete(self, job_id: UUID) -> float:
        """When it was committed."""
        attempts.complete_many(self.tx, self.worker, [Success(job_id, 1)])
        committed = time.perf_counter()
        self.changes.tell(job_id, job_id, self.tenant)
        return committed

    def transactions(self) -> int:
        self.tx.execute("select pg_stat_force_next_flush()")
        row = self.tx.execute("select xact_commit from pg_stat_database where datname = current_database()").fetchone()
        assert row is not None
        return row[0]

    def threads(self) -> int:
        return int(
            next(line.split()[1] for line in Path(f"/proc/{self.intake}/status").read_text().splitlines() if line.startswith("Threads"))
        )


class Client(asyncio.Protocol):
    """One request that waits; notes when its answer came."""

    def __init__(self, request: bytes, answered: asyncio.Future[float]) -> None:
        self._request = request
        self._answered = answered
        self._answer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        transport.write(self._request)  # type: ignore[attr-defined]

    def data_received(self, data: bytes) -> None:
        self._answer += data
        if b'"state":"succeeded"' in self._answer and self._answer.endswith(b"}") and not self._answered.done():
            self._answered.set_result(time.perf_counter())
            self._transport.close()

    def connection_lost(self, error: Exception | None) -> None:
        if not self._answered.done():
            self._answered.set_exception(RuntimeError(f"no finished job, but {self._answer[-500:]!r} ({error})"))


async def wait_for_all(place: Field, ids: list[UUID]) -> list[asyncio.Future[float]]:
    """Everybody waits, and the intake says so."""
    loop = asyncio.get_running_loop()
    answers: list[asyncio.Future[float]] = []
    for number, job_id in enumerate(ids):
        request = f"GET /v1/jobs/{job_id} HTTP/1.1\r\nhost: bench\r\nauthorization: Bearer {place.key}\r\nprefer: wait=60\r\n\r\n"
        answers.append(loop.create_future())
        await loop.create_connection(lambda request=request, answer=answers[-1]: Client(request.encode(), answer), "127.0.0.1", place.port)
        if number % 100 == 99:
            await asyncio.sleep(0.05)
    while await metric(place, "haulier_requests_waiting") < len(ids):  # noqa: ASYNC110  (it is another process)
        await asyncio.sleep(0.1)
    await asyncio.sleep(1)
    return answers


async def metric(place: Field, name: str) -> float:
    reader, writer = await asyncio.open_connection("127.0.0.1", place.port)
    writer.write(b"GET /metrics HTTP/1.1\r\nhost: bench\r\nconnection: close\r\n\r\n")
    text = (await reader.read()).decode()
    writer.close()
    return next((float(line.split()[-1]) for line in text.splitlines() if line.startswith(f"{name} ")), 0.0)


async def play(place: Field, waiters: int, rate: float, kill_after: int | None) -> list[float]:
    """Seconds from each commit to its answer."""
    ids = await asyncio.to_thread(place.begin, waiters)
    answers = await wait_for_all(place, ids)
    committed: list[float] = []

    def work() -> None:
        began = time.perf_counter()
        for number, job_id in enumerate(ids):
            time.sleep(max(0.0, began + number / rate - time.perf_counter()))
            if number == kill_after:
                place.redis.kill()
            committed.append(place.complete(job_id))

    await asyncio.gather(asyncio.to_thread(work), *answers)
    return [answer.result() - at for answer, at in zip(answers, committed, strict=True)]


async def idle(place: Field) -> float:
    """Transactions a second while nothing happens, the stand-in's own left out."""
    before = await asyncio.to_thread(place.transactions)
    await asyncio.sleep(IDLE)
    return (await asyncio.to_thread(place.transactions) - before - 2) / IDLE


async def cost_of_waiting(place: Field, waiters: int) -> None:
    nobody, threads = await idle(place), place.threads()
    ids = await asyncio.to_thread(place.begin, waiters)
    answers = await wait_for_all(place, ids)
    everybody = await idle(place)
    print(f"  nobody waits:       {threads:>5} threads, {nobody:6.1f} transactions a second")
    print(f"  {waiters:,} wait:        {place.threads():>5} threads, {everybody:6.1f} transactions a second")
    await asyncio.to_thread(lambda: [place.complete(job_id) for job_id in ids])
    await asyncio.gather(*answers)


def show(name: str, times: list[float]) -> None:
    cuts = statistics.quantiles([each * 1000 for each in times], n=100)
    print(f"  {name:<22} p50 {cuts[49]:7.1f} ms   p99 {cuts[98]:7.1f} ms   most {max(times) * 1000:7.1f} ms   ({len(times):,} answers)")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--waiters", type=int, default=2000)
    parser.add_argument("--rate", type=float, default=100, help="completions a second")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as logs, PostgresServer() as postgres, redis_server() as redis:
        processes = Processes(Path(logs))
        try:
            place = prepare(postgres, redis, processes)
            print(f"{os.cpu_count()} processors, load {os.getloadavg()[0]:.1f} at the beginning; {options.rate:g} completions a second")
            asyncio.run(run(place, options.waiters, options.rate))
            print(f"  load {os.getloadavg()[0]:.1f} at the end")
        except BaseException:
            print((Path(logs) / "serve.log").read_text()[-3000:], file=sys.stderr)
            raise
        finally:
            processes.close()
    return 0


async def run(place: Field, waiters: int, rate: float) -> None:
    await cost_of_waiting(place, waiters)
    show("Redis is there", await play(place, waiters, rate, None))
    lost = await metric(place, "haulier_hints_lost_total")
    times = await play(place, waiters, rate, waiters // 2)
    show("before it is killed", times[: waiters // 2])
    show("after it was killed", times[waiters // 2 :])
    print(f"  found by looking: {await metric(place, 'haulier_hints_lost_total') - lost:.0f} (before the kill: {lost:.0f})")


def prepare(postgres: PostgresServer, redis: RedisServer, processes: Processes) -> Field:
    with psycopg.connect(postgres.url, autocommit=True) as connection:
        connection.execute("create database waiting")
    url = postgres.database_url("waiting")
    migrate(url)
    tx = psycopg.connect(url, autocommit=True)
    workers.remember_commands(tx, describe(HANDLERS))
    tenant = keys.add_tenant(tx, "bench", "Benchmark")
    assert tenant is not None
    _, key = keys.add_key(tx, tenant.id, "viewer", "bench")
    password = secrets.token_urlsafe()
    with tx.transaction():
        add_account(tx, "bench_serve", password, "serve")
    port = free_port()
    environment = {
        "HAULIER_DATABASE_URL": log_in_as(url, "bench_serve", password),
        "HAULIER_REDIS_URL": redis.url,
        "HAULIER_HANDLERS": "benchmarks.commands:HANDLERS",
        "HAULIER_PORT": str(port),
    }
    process = processes.start("serve", [sys.executable, "-m", "console.main", "serve"], environment)
    place = Field(tx, redis, RedisChanges(redis.url), process.pid, port, tenant.id, key)
    workers.register(tx, place.worker, "worker", "0", [QUEUE], [COMMAND])
    while True:
        processes.check()
        try:
            if asyncio.run(metric(place, "haulier_hint_lag_seconds_count")):
                return place
        except OSError:
            pass
        place.changes.tell(place.worker, place.worker, 0)  # until it listens
        time.sleep(0.2)


if __name__ == "__main__":
    raise SystemExit(main())
