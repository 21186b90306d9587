"""What Redis saves: GET of final jobs with and without it, in turns on the same servers; `python -m benchmarks.reading`.

One intake process each way, asked by threads that keep their connections. CPU is of the intake, of Postgres and of Redis, per request.
"""

from __future__ import annotations

import argparse
import http.client
import secrets
import statistics
import sys
import tempfile
import threading
import time
from pathlib import Path

import psycopg

from benchmarks.processes import Processes, processor_seconds
from config.ids import uuid7
from console.logins import log_in_as
from console.servers.find import redis_server
from console.servers.postgres import PostgresServer
from console.servers.process import free_port
from ledger import keys
from ledger.migrate import migrate
from ledger.roles import add_account

FILL = """
insert into haulier.jobs (id, tenant_id, root_id, command, queue, state, attempt, seq, priority, max_failures, due_at, submitted_at,
                          started_at, finished_at, payload, result)
select id, %(tenant)s, id, 'orders.confirm', 'orders', 'succeeded', 1, 3, 0, 8, now(), now(), now(), now(), '{"data": "x"}', '{"ok": 1}'
  from unnest(%(ids)s::uuid[]) id
"""
CLIENTS = 8


def ask(port: int, headers: dict[str, str], paths: list[str], seconds: float) -> int:
    """Requests answered, by all clients together."""
    done = [0] * CLIENTS
    until = time.monotonic() + seconds

    def run(number: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port)
        at = number
        while time.monotonic() < until:
            connection.request("GET", paths[at % len(paths)], headers=headers)
            answer = connection.getresponse()
            answer.read()
            if answer.status != http.HTTPStatus.OK:
                raise RuntimeError(f"expected 200, got {answer.status}")
            done[number] += 1
            at += CLIENTS

    threads = [threading.Thread(target=run, args=(number,)) for number in range(CLIENTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(done)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=4)
    asked = parser.parse_args()
    with PostgresServer() as server, redis_server() as cache, tempfile.TemporaryDirectory() as logs:
        with psycopg.connect(server.url, autocommit=True) as admin:
            admin.execute("create database reading")
        url = server.database_url("reading")
        migrate(url)
        ids = [uuid7() for _ in range(500)]
        with psycopg.connect(url, autocommit=True) as tx:
            tenant = keys.add_tenant(tx, "bench", "Benchmark")
            assert tenant is not None
            _, key = keys.add_key(tx, tenant.id, "submitter", "bench", payloads=True)
            tx.execute(FILL, {"tenant": tenant.id, "ids": ids})
            tx.execute("analyze haulier.jobs")
            password = secrets.token_urlsafe()
            add_account(tx, "bench_serve", password, "serve")
        processes = Processes(Path(logs))
        ports = {"without": free_port(), "with": free_port()}
        environment = {"HAULIER_DATABASE_URL": log_in_as(url, "bench_serve", password), "HAULIER_BROKER_URL": "amqp://localhost:9"}
        redis_urls = {"without": {}, "with": {"HAULIER_REDIS_URL": cache.url}}
        try:
            for way, port in ports.items():
                processes.start(
                    way, [sys.executable, "-m", "console.main", "serve"], environment | redis_urls[way] | {"HAULIER_PORT": str(port)}
                )
            measure(ports, processes, key, [f"/v1/jobs/{job_id}" for job_id in ids], server, asked.rounds, asked.seconds)
        finally:
            processes.close()


def measure(ports, processes, key, paths, server, rounds, seconds) -> None:
    headers = {"authorization": f"Bearer {key}"}
    for port in ports.values():
        wait_for(port)
        ask(port, headers, paths, 2)  # connections are open, statements prepared, and Redis holds them all
    found: dict[str, list[tuple[float, float, float]]] = {way: [] for way in ports}
    for _ in range(rounds):
        for way, port in ports.items():
            roots = {"intake": processes.pids()[way], "postgres": server.pid}
            before = processor_seconds(roots)
            count = ask(port, headers, paths, seconds)
            after = processor_seconds(roots)
            used = [1000 * (after[name] - before[name]) / count for name in roots]
            found[way].append((count / seconds, *used))
    print("| Redis | requests/s | CPU ms a request: intake | Postgres |")
    print("| --- | --- | --- | --- |")
    for way, rows in found.items():
        rate, intake, postgres = (statistics.median(column) for column in zip(*rows, strict=True))
        print(f"| {way} | {rate:,.0f} | {intake:.2f} | {postgres:.2f} |")


def wait_for(port: int) -> None:
    until = time.monotonic() + 30
    while time.monotonic() < until:
        try:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2)
            connection.request("GET", "/livez")
            connection.getresponse().read()
            return
        except OSError:
            time.sleep(0.1)
    raise RuntimeError("the intake does not listen")


if __name__ == "__main__":
    main()
