"""The private servers: that they come, that they are really private, and above all that they go."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import cast

import pika
import psutil
import psycopg
import pytest
import redis
from pika.exceptions import ChannelClosedByBroker

from console.servers.lock import DirectoryInUseError
from console.servers.postgres import PostgresServer, embedded_binaries
from console.servers.process import ServerError
from console.servers.rabbitmq import RabbitmqNode
from console.servers.redis import RedisServer
from tests.servers import PostgresServers
from tests.transport.waiting import eventually

STANDARD_PORTS = {4369, 5432, 5672, 6379, 15672, 25672}


@dataclass
class Owner:
    """A process of its own that has started servers."""

    process: subprocess.Popen[str]
    processes: dict[str, str]
    servers: list[int]
    directories: list[Path]
    urls: list[str]

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def kill_guards(self) -> None:
        for pid, command in self.processes.items():
            if "guard.py" in command:
                os.kill(int(pid), signal.SIGKILL)


@contextmanager
def owner(*arguments: str) -> Iterator[Owner]:
    command = [sys.executable, str(Path(__file__).with_name("owner.py")), *arguments]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        started = json.loads(process.stdout.readline())
        yield Owner(
            process, started["processes"], started["servers"], [Path(directory) for directory in started["directories"]], started["urls"]
        )
        process.kill()


@pytest.fixture
def lasting() -> Iterator[Path]:
    """A directory where a server's data stays, and which every account can reach (pytest's own it cannot)."""
    with TemporaryDirectory(prefix="haulier-test-") as directory:
        Path(directory).chmod(0o755)
        yield Path(directory) / "postgres"


def runs(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


@pytest.mark.every_postgres
def test_postgres_is_as_durable_as_a_production_one(postgres_servers: PostgresServers, postgres_kind: str) -> None:
    server = postgres_servers.get(postgres_kind)

    with psycopg.connect(server.url) as connection:
        found = {name: _show(connection, name) for name in ("fsync", "full_page_writes", "synchronous_commit", "listen_addresses")}

    assert found == {"fsync": "on", "full_page_writes": "on", "synchronous_commit": "on", "listen_addresses": "127.0.0.1"}


def _show(connection: psycopg.Connection, name: str) -> str:
    row = connection.execute("select current_setting(%s)", [name]).fetchone()
    assert row is not None
    return row[0]


def test_postgres_refuses_a_wrong_password(postgres_server: PostgresServer) -> None:
    url = postgres_server.url.replace("haulier:", "haulier:wrong")

    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(url)


def test_what_was_committed_survives_a_kill(lasting: Path) -> None:
    with PostgresServer(lasting) as server:
        with psycopg.connect(server.url) as connection:
            connection.execute("create table t as select 42 as answer")

        server.kill()
        server.start()

        with psycopg.connect(server.url) as connection:
            assert connection.execute("select answer from t").fetchone() == (42,)


def test_a_directory_has_one_server_at_a_time(lasting: Path) -> None:
    with PostgresServer(lasting) as server:
        with pytest.raises(DirectoryInUseError, match=f"in use by process {os.getpid()}"):
            PostgresServer(lasting).__enter__()

        assert server.answers()


def test_a_server_that_outlived_its_owner_and_its_guard_is_replaced_by_the_next_start(lasting: Path) -> None:
    with owner(str(lasting)) as crashed:
        with psycopg.connect(crashed.urls[0]) as connection:
            connection.execute("create table t as select 42 as answer")
        crashed.kill_guards()
        crashed.kill()
        assert all(runs(pid) for pid in crashed.servers)

        with PostgresServer(lasting) as server, psycopg.connect(server.url) as connection:
            assert connection.execute("select answer from t").fetchone() == (42,)

        assert not any(runs(pid) for pid in crashed.servers)


def test_a_pid_file_that_names_a_stranger_does_not_stop_the_next_start(lasting: Path) -> None:
    with PostgresServer(lasting) as server:
        server.kill()
        pid_file = server.data / "postmaster.pid"
        stranger = subprocess.Popen(["sleep", "60"], user=pid_file.stat().st_uid if os.geteuid() == 0 else None)
        pid_file.write_text(f"{stranger.pid}\n" + pid_file.read_text().partition("\n")[2])

        server.start()

        assert server.answers()
        assert stranger.poll() is None
        stranger.kill()
        stranger.wait()


def test_half_a_cluster_is_never_taken_for_one(lasting: Path) -> None:
    (lasting / "data-new").mkdir(parents=True)
    (lasting / "data-new" / "PG_VERSION").write_text("18\n")

    with PostgresServer(lasting) as server:
        assert server.answers()


def test_data_of_another_postgres_is_left_alone(lasting: Path) -> None:
    with PostgresServer(lasting) as server:
        server.stop()
        (server.data / "PG_VERSION").write_text("14\n")

        with pytest.raises(ServerError, match="was made by Postgres 14, and this is"):
            server.start()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root's Postgres runs as somebody else")
def test_what_root_keeps_to_itself_is_put_where_postgres_can_reach_it(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)

    with PostgresServer(tmp_path / "postgres") as server:
        assert server.answers()
        assert server.data.is_relative_to("/var/tmp")
        assert (tmp_path / "postgres" / "data-is-elsewhere").read_text().strip() == str(server.data.parent)
        server.wipe()
    subprocess.run(["rm", "-r", str(server.data.parent)], check=True)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root's Postgres runs as somebody else")
def test_a_temporary_server_leaves_nothing_where_it_was_put(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tmp_path.chmod(0o700)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))

    with PostgresServer() as server:
        assert server.data.is_relative_to("/var/tmp")

    assert not server.data.parent.exists()
    assert not server.directory.exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root's Postgres runs as somebody else")
def test_programs_that_root_keeps_to_itself_are_copied_to_where_postgres_can_reach_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tmp_path.chmod(0o700)
    package = embedded_binaries().parents[1]
    for name in (package.name, f"{package.name}.libs"):
        (tmp_path / name).symlink_to(package.with_name(name))
    monkeypatch.setattr("console.servers.postgres.embedded_binaries", lambda: tmp_path / package.name / "pginstall" / "bin")

    with PostgresServer() as server:
        programs = Path(psutil.Process(server.pid).exe())

    assert programs.is_relative_to("/var/tmp")
    subprocess.run(["rm", "-r", str(programs.parents[3])], check=True)


def test_a_wiped_postgres_is_empty_and_keeps_its_url(lasting: Path) -> None:
    with PostgresServer(lasting) as server:
        url = server.url
        with psycopg.connect(url) as connection:
            connection.execute("create table t (id int)")

        server.wipe()
        server.start()

        with psycopg.connect(url) as connection:
            assert connection.execute("select to_regclass('t')").fetchone() == (None,)


def test_a_killed_node_comes_back_on_its_port_with_what_it_had_and_a_wiped_one_without(rabbitmq_node: RabbitmqNode) -> None:
    url = rabbitmq_node.url
    _declare(url, passive=False)

    rabbitmq_node.kill()
    rabbitmq_node.start()
    _declare(url, passive=True)
    rabbitmq_node.wipe()
    rabbitmq_node.start()

    with pytest.raises(ChannelClosedByBroker, match="NOT_FOUND"):
        _declare(url, passive=True)


def _declare(url: str, *, passive: bool) -> None:
    connection = pika.BlockingConnection(pika.URLParameters(url))
    try:
        connection.channel().queue_declare("kept", passive=passive, durable=True, arguments={"x-queue-type": "quorum"})
    finally:
        connection.close()


def test_a_node_waits_for_an_epmd_that_is_slow_instead_of_starting_its_own(
    rabbitmq_node: RabbitmqNode, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = tmp_path / "epmd"
    slow.write_text(f'#!/bin/sh\nsleep 2\nexec {shutil.which("epmd")} "$@"\n')
    slow.chmod(0o755)
    find = shutil.which
    rabbitmq_node.kill()
    with monkeypatch.context() as patched:
        patched.setattr("console.servers.rabbitmq.shutil.which", lambda name: str(slow) if name == "epmd" else find(name))
        rabbitmq_node.start()

    assert rabbitmq_node.answers()


def test_a_vhost_is_the_tests_own(rabbitmq_node: RabbitmqNode) -> None:
    mine, other = rabbitmq_node.add_vhost("mine"), rabbitmq_node.add_vhost("other")

    _declare(mine, passive=False)

    with pytest.raises(ChannelClosedByBroker, match="NOT_FOUND"):
        _declare(other, passive=True)
    rabbitmq_node.delete_vhost("mine")
    rabbitmq_node.delete_vhost("other")
    assert {"mine", "other"}.isdisjoint(rabbitmq_node.ctl("list_vhosts").split())


def test_redis_comes_back_on_its_port_after_a_kill(redis_server: RedisServer) -> None:
    url = redis_server.url

    redis_server.kill()
    redis_server.start()

    with redis.Redis.from_url(url) as client:
        assert client.ping()


def test_a_server_that_cannot_start_says_why() -> None:
    with pytest.raises(ServerError, match=r"ended with status 1 instead of starting(.|\n)*nonsense"):
        PostgresServer(settings={"nonsense": "1"}).__enter__()


def test_no_server_listens_on_a_standard_port_or_to_the_outside(
    postgres_server: PostgresServer, rabbitmq_node: RabbitmqNode, redis_server: RedisServer
) -> None:
    assert postgres_server.answers()
    assert rabbitmq_node.answers()
    assert redis_server.answers()

    mine = {process.pid for process in psutil.Process().children(recursive=True)}
    listening = [
        cast("tuple[str, int]", connection.laddr)
        for connection in psutil.net_connections("tcp")
        if connection.pid in mine and connection.status == psutil.CONN_LISTEN
    ]

    assert len(listening) >= 5  # Postgres, Redis, and RabbitMQ's three
    assert STANDARD_PORTS.isdisjoint(port for _, port in listening)
    assert {ip for ip, _ in listening} <= {"127.0.0.1", "::1"}


def test_nothing_is_left_when_the_owner_is_killed() -> None:
    with owner() as crashed:
        assert all(runs(int(pid)) for pid in crashed.processes)

        crashed.kill()

        eventually(lambda: not any(runs(int(pid)) for pid in crashed.processes))
        assert not any(directory.exists() for directory in crashed.directories)


def test_only_its_data_is_left_when_the_owner_ends_in_order(lasting: Path) -> None:
    with owner(str(lasting)) as leaving:
        assert leaving.process.stdin is not None
        leaving.process.stdin.close()
        leaving.process.wait()

        assert not any(runs(int(pid)) for pid in leaving.processes)
        assert not (leaving.directories[0] / "data" / "postmaster.pid").exists()
        assert (leaving.directories[0] / "data" / "PG_VERSION").exists()


def test_a_forked_child_of_a_killed_owner_does_not_keep_its_servers_alive() -> None:
    script = """
import os, time
from console.servers.redis import RedisServer
server = RedisServer()
server.start()
child = os.fork()
if child == 0:
    time.sleep(600)
print(server.pid, child, flush=True)
time.sleep(600)
"""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        server, child = map(int, process.stdout.readline().split())

        process.kill()

        try:
            eventually(lambda: not runs(server))
            assert runs(child)
        finally:
            os.kill(child, signal.SIGKILL)
