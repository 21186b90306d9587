"""Where a private RabbitMQ or Redis is taken from, in which order."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from redis import Redis

from console.servers import docker, find, rabbitmq, redis
from console.servers.docker import DockerRabbitmqNode, DockerRedisServer
from console.servers.process import ServerError
from console.servers.rabbitmq import RabbitmqNode


def no(*_: object) -> bool:
    return False


def yes(*_: object) -> bool:
    return True


def test_programs_that_are_here_come_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rabbitmq, "installed", yes)
    monkeypatch.setattr(find, "_install", lambda *_: pytest.fail("asked apt-get"))

    assert type(find.rabbitmq_node()) is RabbitmqNode


def test_a_package_comes_before_docker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rabbitmq, "installed", no)
    monkeypatch.setattr(find, "_install", yes)
    monkeypatch.setattr(docker, "usable", lambda: pytest.fail("asked Docker"))

    assert type(find.rabbitmq_node()) is RabbitmqNode


def test_docker_comes_last(monkeypatch: pytest.MonkeyPatch) -> None:
    for place in (rabbitmq, redis):
        monkeypatch.setattr(place, "installed", no)
    monkeypatch.setattr(find, "_install", no)
    monkeypatch.setattr(docker, "usable", yes)

    assert type(find.rabbitmq_node()) is DockerRabbitmqNode
    assert type(find.redis_server()) is DockerRedisServer


def test_without_any_of_them_the_error_names_the_choices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redis, "installed", no)
    monkeypatch.setattr(find, "_install", no)
    monkeypatch.setattr(docker, "usable", no)

    with pytest.raises(ServerError, match="set HAULIER_TEST_REDIS_URL; install redis-server; start Docker; be root on Debian"):
        find.redis_server()


def test_a_program_is_installed_or_the_error_names_the_choices(monkeypatch: pytest.MonkeyPatch) -> None:
    there: dict[str, str] = {}
    monkeypatch.setattr(find.shutil, "which", there.get)
    monkeypatch.setattr(find, "_install", lambda package, installed: there.update({package: "/there"}) or installed())

    assert find.program("chromium", "google-chrome") == "/there"
    assert find.program("nosuch", "chromium") == "/there"
    monkeypatch.setattr(find, "_install", no)
    with pytest.raises(ServerError, match="install curl; be root on Debian"):
        find.program("curl")


@pytest.mark.parametrize("before", ["#!/bin/sh\nexit 0\n", None])
@pytest.mark.parametrize("apt_status", [0, 100])
def test_an_installation_starts_no_service_and_puts_the_policy_back(tmp_path: Path, before: str | None, apt_status: int) -> None:
    policy = tmp_path / "policy-rc.d"
    if before:
        policy.write_text(before)
    apt = tmp_path / "apt-get"
    apt.write_text(f'#!/bin/sh\n{policy}; echo "$1: policy $?"; [ "$1" = update ] || exit {apt_status}\n')
    apt.chmod(0o755)
    script = find.INSTALL.replace("/usr/sbin/policy-rc.d", str(policy))

    done = subprocess.run(
        ["/bin/sh", "-c", script, "sh", "some-package"],
        env={"PATH": f"{tmp_path}:/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )

    assert "policy 101" in done.stdout
    assert done.returncode == apt_status
    assert (policy.read_text() if policy.exists() else None) == before


#: Does with a local Redis what Docker would do with a container.
DOCKER = """#!/bin/sh
echo "$1" >> {calls}
case $1 in
run) port=$(echo "$*" | sed 's/.*127.0.0.1:\\([0-9]*\\):6379.*/\\1/'); exec redis-server --port $port --requirepass "$REDIS_PASSWORD" ;;
esac
"""


def test_a_container_is_started_on_the_servers_port_and_removed_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = tmp_path / "calls"
    (tmp_path / "docker").write_text(DOCKER.replace("{calls}", str(calls)))
    (tmp_path / "docker").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")

    with DockerRedisServer() as server, Redis.from_url(server.url) as client:
        assert client.ping()

    assert calls.read_text().split() == ["run", "rm"]
