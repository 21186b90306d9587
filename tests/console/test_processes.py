"""`haulier migrate`, `check`, `serve`, `relay`, `work` and `upkeep`, as they run in production: processes of their own."""

from __future__ import annotations

import json
import socket
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx2
import pytest

from console.servers.process import free_port
from ledger.roles import SERVICES
from tests.console.running import HAULIER, environment, haulier
from tests.crash.rig import eventually
from tests.servers import service_url


@contextmanager
def process(role: str, directory: Path, **settings: str) -> Iterator[subprocess.Popen[bytes]]:
    with (directory / f"{role}.log").open("wb") as output:
        started = subprocess.Popen([*HAULIER, role], cwd=directory, env=environment(**settings), stdout=output, stderr=output)
    try:
        yield started
    finally:
        started.terminate()
        try:
            started.wait(40)
        except subprocess.TimeoutExpired:
            started.kill()
            started.wait()
            raise


def answers(url: str) -> bool:
    try:
        return httpx2.get(f"{url}/readyz", trust_env=False).is_success
    except httpx2.TransportError:
        return False


def test_four_processes_carry_a_job_and_leave_in_order(database_url: str, rabbitmq_url: str, tmp_path: Path):
    url = f"http://127.0.0.1:{(port := free_port())}"
    servers = {"HAULIER_BROKER_URL": rabbitmq_url, "HAULIER_PORT": str(port), "HAULIER_PROCESSES": "1"}
    shown = {"relay": free_port(), "work": free_port(), "upkeep": free_port()}
    logins = {service: {"HAULIER_DATABASE_URL": service_url(database_url, service)} for service in SERVICES}
    haulier("tenants", "create", "acme", cwd=tmp_path, **logins["console"])
    key = json.loads(haulier("keys", "create", "--tenant", "acme", "--json", cwd=tmp_path, **logins["console"]).stdout)["key"]
    checks = [haulier("check", cwd=tmp_path, **servers, **login).stdout for login in logins.values()]

    with ExitStack() as stack:
        roles = {
            role: stack.enter_context(process(role, tmp_path, **servers, **logins[role], HAULIER_METRICS_PORT=str(shown.get(role, 1))))
            for role in ("serve", "relay", "work", "upkeep")
        }
        eventually(lambda: answers(url), 60, (tmp_path / "serve.log").read_text)
        done = haulier(
            "submit", "test.divide", "--payload", '{"dividend": 6, "divisor": 2}', "--wait",
            cwd=tmp_path, HAULIER_URL=url, HAULIER_API_KEY=key,
        )  # fmt: skip
        metrics = {role: httpx2.get(f"http://127.0.0.1:{port}/metrics", trust_env=False).text for role, port in shown.items()}

    assert done.returncode == 0, done.stderr
    assert 'haulier_jobs_announced_total{queue="test"} 1.0' in metrics["relay"]
    assert 'haulier_attempts_ended_total{outcome="succeeded"} 1.0' in metrics["work"]
    assert "haulier_jobs_rescued_total 0.0" in metrics["upkeep"]
    assert all("account" in said and "wrong" not in said.partition("broker")[0] for said in checks), checks
    assert {role: started.returncode for role, started in roles.items()} == dict.fromkeys(roles, 0)


@pytest.mark.parametrize("role", ["relay", "work", "upkeep"])
def test_a_taken_port_for_metrics_is_told(database_url: str, rabbitmq_url: str, tmp_path: Path, role: str):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        url = service_url(database_url, role)
        done = haulier(role, cwd=tmp_path, HAULIER_DATABASE_URL=url, HAULIER_BROKER_URL=rabbitmq_url, HAULIER_METRICS_PORT=port)

    assert done.returncode == 1
    assert f"127.0.0.1:{port} (HAULIER_METRICS_PORT)" in done.stderr
    assert "in use" in done.stderr


def test_work_refuses_a_queue_that_no_command_has(database_url: str, tmp_path: Path):
    done = haulier(
        "work", "--queues", "test,tset", cwd=tmp_path, HAULIER_DATABASE_URL=service_url(database_url, "work"),
        HAULIER_BROKER_URL="amqp://nobody@127.0.0.1:9",
    )  # fmt: skip

    assert done.returncode == 2
    assert "tset" in done.stderr


@pytest.mark.parametrize("role", ["serve", "relay", "work", "upkeep"])
def test_no_process_starts_on_a_database_without_its_tables(empty_database_url: str, tmp_path: Path, role: str):
    done = haulier(role, cwd=tmp_path, HAULIER_DATABASE_URL=empty_database_url, HAULIER_BROKER_URL="amqp://nobody@127.0.0.1:9")

    assert done.returncode == 1
    assert "haulier migrate" in done.stderr


@pytest.mark.parametrize("role", ["serve", "relay", "work", "upkeep"])
def test_no_process_starts_as_a_superuser(database_url: str, tmp_path: Path, role: str):
    done = haulier(role, cwd=tmp_path, HAULIER_DATABASE_URL=database_url, HAULIER_BROKER_URL="amqp://nobody@127.0.0.1:9")

    assert done.returncode == 1
    assert "the database account haulier is a superuser" in done.stderr
    assert "haulier logins" in done.stderr


def test_migrating_from_two_places_at_once_and_again_is_safe(empty_database_url: str, tmp_path: Path):
    settings = environment(HAULIER_DATABASE_URL=empty_database_url)

    both = [subprocess.Popen([*HAULIER, "migrate"], cwd=tmp_path, env=settings, stderr=subprocess.DEVNULL) for _ in range(2)]
    codes = [each.wait(100) for each in both]
    again = haulier("migrate", cwd=tmp_path, HAULIER_DATABASE_URL=empty_database_url)

    assert [*codes, again.returncode] == [0, 0, 0]


def test_check_says_what_to_do_and_shows_no_password(empty_database_url: str, rabbitmq_url: str, tmp_path: Path):
    servers = {"HAULIER_DATABASE_URL": empty_database_url, "HAULIER_BROKER_URL": rabbitmq_url}

    done = haulier("check", "--json", cwd=tmp_path, **servers)

    assert done.returncode == 1
    found = {each["name"]: " ".join(each["problems"]) for each in json.loads(done.stdout)["checks"]}
    assert "run `haulier migrate`" in found["database"]
    assert "declares it when it starts" in found["broker"]
    assert ":***@" in json.loads(done.stdout)["settings"]["database_url"]


def test_check_names_servers_that_are_away(tmp_path: Path):
    servers = {
        "HAULIER_DATABASE_URL": "postgresql://u:secret@127.0.0.1:9/d",
        "HAULIER_BROKER_URL": "amqp://u:secret@127.0.0.1:9",
        "HAULIER_REDIS_URL": "redis://:secret@127.0.0.1:9",
    }

    done = haulier("check", cwd=tmp_path, **servers)

    assert done.returncode == 1
    assert done.stdout.count("cannot be reached") == 3
    assert "secret" not in done.stdout + done.stderr
