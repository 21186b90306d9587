"""The servers of a run, and a place on them for one measurement: a database and a virtual host of its own, gone afterwards."""

from __future__ import annotations

import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psycopg
from psycopg import sql

from benchmarks import effect
from benchmarks.contender import Place
from benchmarks.processes import Processes
from benchmarks.records import Reader
from console.servers.postgres import PostgresServer
from console.servers.rabbitmq import RabbitmqNode
from console.servers.redis import RedisServer


@dataclass(frozen=True)
class Servers:
    postgres: PostgresServer
    rabbitmq: RabbitmqNode
    redis: RedisServer | None = None

    @property
    def pids(self) -> dict[str, int]:
        return {"postgres": self.postgres.pid, "rabbitmq": self.rabbitmq.pid}


@contextmanager
def new_place(servers: Servers) -> Iterator[Place]:
    """The logs stay when something goes wrong."""
    name = f"bench_{secrets.token_hex(4)}"
    directory = Path(tempfile.mkdtemp(prefix="haulier-benchmark-"))
    _administer(servers, sql.SQL("create database {}").format(sql.Identifier(name)))
    url = servers.postgres.database_url(name)
    with psycopg.connect(url, autocommit=True) as database:
        database.execute(effect.TABLES)
    processes = Processes(directory)
    redis_url = servers.redis.url if servers.redis else ""
    try:
        yield Place(url, servers.rabbitmq.add_vhost(name), redis_url, directory, Reader(directory / "records"), processes)
    finally:
        processes.close()
        servers.rabbitmq.delete_vhost(name)
        _administer(servers, sql.SQL("drop database {} with (force)").format(sql.Identifier(name)))
    shutil.rmtree(directory)


def _administer(servers: Servers, statement: sql.Composed) -> None:
    with psycopg.connect(servers.postgres.url, autocommit=True) as connection:
        connection.execute(statement)
