"""What a run was measured on: the machine, the servers, and everybody's version."""

from __future__ import annotations

import os
import platform
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psycopg
import redis

from benchmarks.peers.table import PEERS
from console.servers.postgres import PostgresServer
from console.servers.rabbitmq import RabbitmqNode
from console.servers.redis import RedisServer


def describe(postgres: PostgresServer, rabbitmq: RabbitmqNode, cache: RedisServer | None, names: set[str]) -> dict[str, Any]:
    """`machine`: a sentence; `versions`: of servers and of those who take part, by name; `date`: of the run."""
    with psycopg.connect(postgres.url) as database:
        row = database.execute("show server_version").fetchone()
        assert row is not None
    versions = {"Python": platform.python_version(), "Postgres": row[0], "RabbitMQ": rabbitmq.ctl("version").strip()}
    if cache is not None:
        versions["Redis"] = redis.Redis.from_url(cache.url).info("server")["redis_version"]
    versions |= {name: version(name) for name in ("haulier", "dramatiq")}
    versions |= {PEERS[name].module: PEERS[name].version for name in sorted(names & set(PEERS))}
    return {"date": time.strftime("%Y-%m-%d"), "machine": f"{os.cpu_count()} cores, {_processor()}, {_memory()}", "versions": versions}


def in_words(about: dict[str, Any]) -> str:
    versions = ", ".join(f"{name} {number}" for name, number in about["versions"].items())
    return f"{about['machine']}; everything on this one machine; {about['date']}. {versions}."


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.machine())


def _memory() -> str:
    kib = int(Path("/proc/meminfo").read_text().split()[1])
    return f"{kib / (1 << 20):.0f} GiB"
