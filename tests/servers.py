"""The real servers that tests run on. A server that cannot be had fails the test: the fixtures raise, and never skip."""

from __future__ import annotations

import json
import os
import secrets
import urllib.request
from base64 import b64encode
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Literal
from urllib.parse import quote, unquote, urlsplit

import psycopg
import pytest
from psycopg import sql

from console.logins import log_in_as
from console.servers.find import rabbitmq_node as find_rabbitmq
from console.servers.find import redis_server as find_redis
from console.servers.postgres import PostgresServer, debian_binaries
from console.servers.rabbitmq import RabbitmqNode
from console.servers.redis import RedisServer
from ledger.migrate import migrate
from ledger.roles import add_account

TEMPLATE = "haulier_template"


class PostgresServers:
    """Each kind is started when the first test needs it, and gets its migrated template then."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack
        self._started: dict[str, PostgresServer] = {}

    def get(self, kind: str) -> PostgresServer:
        if kind not in self._started:
            self._started[kind] = self._stack.enter_context(PostgresServer(binaries=debian_binaries() if kind == "debian" else None))
        return self._started[kind]


def kinds_of_postgres() -> list[str]:
    return ["embedded", "debian"] if debian_binaries() else ["embedded"]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """`@pytest.mark.every_postgres` runs a test once on each kind of Postgres that is here."""
    if metafunc.definition.get_closest_marker("every_postgres"):
        metafunc.parametrize("postgres_kind", kinds_of_postgres(), indirect=True)


@pytest.fixture(scope="session")
def postgres_servers() -> Iterator[PostgresServers]:
    with ExitStack() as stack:
        yield PostgresServers(stack)


@pytest.fixture
def postgres_kind(request: pytest.FixtureRequest) -> str:
    return getattr(request, "param", "embedded")


@pytest.fixture(scope="session")
def postgres_server(postgres_servers: PostgresServers) -> PostgresServer:
    """The embedded one, shared: leave it as it was found."""
    return postgres_servers.get("embedded")


@pytest.fixture(scope="session")
def templates(postgres_servers: PostgresServers) -> dict[str, str]:
    """Filled on demand: kind of Postgres → the name of its migrated template."""
    return {}


@pytest.fixture
def empty_database_url(postgres_servers: PostgresServers, postgres_kind: str) -> Iterator[str]:
    """A database without the migrations."""
    with fresh_database(postgres_servers.get(postgres_kind), "template0") as url:
        yield url


@pytest.fixture
def template(postgres_servers: PostgresServers, postgres_kind: str, templates: dict[str, str]) -> str:
    """The name of a migrated database to make others from."""
    if postgres_kind not in templates:
        templates[postgres_kind] = make_template(postgres_servers.get(postgres_kind))
    return templates[postgres_kind]


def make_template(server: PostgresServer) -> str:
    administer(server, sql.SQL("create database {}").format(sql.Identifier(TEMPLATE)))
    migrate(server.database_url(TEMPLATE))
    return TEMPLATE


@pytest.fixture
def database_url(postgres_servers: PostgresServers, postgres_kind: str, template: str) -> Iterator[str]:
    """A database of the test's own, with the migrations applied."""
    with fresh_database(postgres_servers.get(postgres_kind), template) as url:
        yield url


@contextmanager
def fresh_database(server: PostgresServer, template: str) -> Iterator[str]:
    name = create_from(server, template)
    try:
        yield server.database_url(name)
    finally:
        drop(server, name)


def create_from(server: PostgresServer, template: str, strategy: Literal["wal_log", "file_copy"] = "wal_log") -> str:
    """A database like this one, which nobody is connected to. Returns its name. `file_copy` is the quicker one where nothing waits for a disk."""
    name = f"test_{secrets.token_hex(6)}"
    statement = sql.SQL("create database {} template {} strategy {}")
    administer(server, statement.format(sql.Identifier(name), sql.Identifier(template), sql.Identifier(strategy)))
    return name


def drop(server: PostgresServer, name: str) -> None:
    administer(server, sql.SQL("drop database {} with (force)").format(sql.Identifier(name)))


def service_url(database_url: str, service: str) -> str:
    """How that service logs in to this database: with an account of its own, that is neither owner nor superuser."""
    with psycopg.connect(database_url) as tx:
        add_account(tx, f"test_{service}", "of no worth", service)
    return log_in_as(database_url, f"test_{service}", "of no worth")


def administer(server: PostgresServer, statement: sql.Composed) -> None:
    with psycopg.connect(server.url, autocommit=True) as connection:
        connection.execute(statement)


@pytest.fixture(scope="session")
def rabbitmq_node() -> Iterator[RabbitmqNode]:
    """Always a private node, for it may be killed and wiped; a test that does so leaves it running."""
    with find_rabbitmq(schedulers=1) as node:
        yield node


@pytest.fixture
def rabbitmq_url(request: pytest.FixtureRequest) -> Iterator[str]:
    """A vhost of the test's own: on the server of HAULIER_TEST_BROKER_URL (through its management API), else on the private node."""
    vhost = f"test_{secrets.token_hex(6)}"
    if configured := os.environ.get("HAULIER_TEST_BROKER_URL"):
        with configured_vhost(configured, vhost) as url:
            yield url
        return
    node: RabbitmqNode = request.getfixturevalue("rabbitmq_node")
    yield node.add_vhost(vhost)
    node.delete_vhost(vhost)


@contextmanager
def configured_vhost(url: str, vhost: str) -> Iterator[str]:
    manage(url, "PUT", f"vhosts/{vhost}")
    user = unquote(urlsplit(url).username or "guest")
    manage(url, "PUT", f"permissions/{vhost}/{quote(user, safe='')}", {"configure": ".*", "write": ".*", "read": ".*"})
    try:
        yield urlsplit(url)._replace(path=f"/{vhost}").geturl()
    finally:
        manage(url, "DELETE", f"vhosts/{vhost}")


def manage(url: str, method: str, path: str, body: dict[str, str] | None = None) -> None:
    """One call of the management API; HAULIER_TEST_MANAGEMENT_URL says where it is, when it is not on port 15672 of the same host."""
    parts = urlsplit(url)
    base = os.environ.get("HAULIER_TEST_MANAGEMENT_URL", f"http://{parts.hostname}:15672")
    credentials = b64encode(f"{unquote(parts.username or 'guest')}:{unquote(parts.password or 'guest')}".encode()).decode()
    headers = {"authorization": f"Basic {credentials}", "content-type": "application/json"}
    request = urllib.request.Request(f"{base}/api/{path}", json.dumps(body or {}).encode(), headers, method=method)
    with urllib.request.urlopen(request, timeout=30):
        pass


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisServer]:
    """Always a private one, for it may be killed; a test that does so leaves it running."""
    with find_redis() as server:
        yield server


@pytest.fixture
def redis_url(request: pytest.FixtureRequest) -> str:
    """The server of HAULIER_TEST_REDIS_URL, else the private one. Shared: use keys of your own."""
    if configured := os.environ.get("HAULIER_TEST_REDIS_URL"):
        return configured
    server: RedisServer = request.getfixturevalue("redis_server")
    return server.url
