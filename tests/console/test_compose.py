"""docker-compose.yml without a Docker engine: what it says of our own services is held against the code, and its logins are made and used."""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psycopg
import pytest
import yaml
from pika import BlockingConnection, URLParameters
from psycopg import sql

from config.settings import Settings
from config.transport import topology
from console.main import COMMANDS
from ledger.roles import SERVICES
from pipelines.load import load, queues_of
from pipelines.orders.settings import OrdersSettings
from tests.console.running import ROOT, environment, haulier

#: What is no setting and is read all the same.
BESIDE = {"HAULIER_LOGIN_PASSWORD"}
KNOWN = {f"HAULIER_{name.upper()}" for settings in (Settings, OrdersSettings) for name in settings.model_fields} | BESIDE
FILE = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
OURS: dict[str, Any] = {name: service for name, service in FILE["services"].items() if service["image"] == "haulier:latest"}
#: Those that run one of our commands.
RUNNING = {name: service for name, service in OURS.items() if "entrypoint" not in service}


def resolved(text: str, **given: str) -> str:
    """As Compose reads it: ${NAME:-default}, and $$ for a dollar."""
    named = re.sub(r"(?<!\$)\$\{(\w+):-([^}]*)\}", lambda found: given.get(found[1], found[2]), text)
    assert not re.search(r"(?<!\$)\$(?!\$)", named), f"not understood here: {text}"
    return named.replace("$$", "$")


def settings_of(service: dict[str, Any], **given: str) -> dict[str, str]:
    return {name: resolved(value, **given) for name, value in service["environment"].items() if value is not None}


def seconds(text: str) -> int:
    found = re.fullmatch(r"([0-9]+)s", text)
    assert found, text
    return int(found[1])


def test_it_is_about_these():
    assert OURS.keys() == {"migrate", "logins", "intake", "relay", "worker", "upkeep"}
    assert {service["command"][0] for service in RUNNING.values()} == {"migrate", "serve", "relay", "work", "upkeep"}


@pytest.mark.parametrize("name", RUNNING)
def test_each_command_is_one_of_ours_and_takes_these_options(name: str, tmp_path: Path):
    command = RUNNING[name]["command"]

    done = haulier(*command, "--help", cwd=tmp_path)  # a wrong option is found before the help is shown

    assert command[0] in COMMANDS
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", OURS)
def test_each_variable_is_a_setting_and_is_read_as_one(name: str, monkeypatch: pytest.MonkeyPatch):
    variables = settings_of(OURS[name])
    ours = {variable for variable in OURS[name]["environment"] if variable.startswith("HAULIER_")}
    others = {variable for variable in OURS[name]["environment"] if not variable.startswith("HAULIER_")}
    for variable, value in variables.items():
        monkeypatch.setenv(variable, value)

    assert ours <= KNOWN
    Settings()  # pyright: ignore[reportCallIssue]
    OrdersSettings()
    assert all(f"${other}" in resolved(OURS[name]["command"][0]) for other in others)


def test_the_image_s_own_variables_are_settings_too():
    named = re.findall(r"(HAULIER_\w+)=(\S+)", (ROOT / "Dockerfile").read_text())

    assert named
    assert {name for name, _ in named} <= KNOWN


def test_one_waits_for_what_there_is_and_for_what_ends_or_can_be_well():
    for name, service in FILE["services"].items():
        for other, wanted in service.get("depends_on", {}).items():
            needed = FILE["services"][other]
            match wanted["condition"]:
                case "service_healthy":
                    assert "healthcheck" in needed, (name, other)
                case "service_completed_successfully":
                    assert needed["restart"] == "no", (name, other)
                case condition:
                    pytest.fail(f"{name} waits for {other} by {condition}")
    assert all("healthcheck" in service for name, service in FILE["services"].items() if name not in {"migrate", "logins"})


def test_who_drains_is_given_the_time_for_it():
    drain = Settings.model_fields["drain"].default

    assert {name: seconds(RUNNING[name]["stop_grace_period"]) > drain for name in ("intake", "worker")} == {"intake": True, "worker": True}


def test_only_the_intake_is_reachable_and_where_it_listens():
    ports = {name: service["ports"] for name, service in FILE["services"].items() if "ports" in service}

    assert ports.keys() == {"intake"}
    assert [port.rpartition(":")[2] for port in ports["intake"]] == [str(Settings.model_fields["port"].default)]
    assert f":{Settings.model_fields['port'].default}/readyz" in " ".join(OURS["intake"]["healthcheck"]["test"])


PASSWORDS = {f"{service.upper()}_PASSWORD": f"of-the-{service}" for service in ("serve", "relay", "work", "upkeep")}


@pytest.fixture
def logins(empty_database_url: str, tmp_path: Path) -> Iterator[str]:
    """The database as the steps `migrate` and `logins` leave it."""
    owner = {"HAULIER_DATABASE_URL": empty_database_url}
    assert haulier(*OURS["migrate"]["command"], cwd=tmp_path, **owner).returncode == 0
    step = OURS["logins"]
    shell = [*step["entrypoint"], resolved(step["command"][0])]
    own = environment(**settings_of(step, **PASSWORDS) | owner)
    own["PATH"] = f"{Path(sys.executable).parent}:{own['PATH']}"
    subprocess.run(shell, cwd=tmp_path, env=own, check=True, capture_output=True)
    yield empty_database_url
    with psycopg.connect(empty_database_url, autocommit=True) as tx:
        for name in ("intake", "relay", "worker", "upkeep"):
            tx.execute(sql.SQL("drop role {}").format(sql.Identifier(account(name))))


def account(name: str) -> str:
    found = urlsplit(settings_of(OURS[name])["HAULIER_DATABASE_URL"]).username
    assert found
    return found


def test_each_service_logs_in_with_the_account_that_was_made_for_it_and_is_well(
    logins: str, rabbitmq_url: str, redis_url: str, tmp_path: Path
):
    handlers = Settings.model_fields["handlers"].default
    with contextlib.closing(BlockingConnection(URLParameters(rabbitmq_url))) as connection:
        topology.declare(connection.channel(), queues_of(load(handlers)))  # as the relay does when it starts
    listed = json.loads(haulier("logins", "list", "--json", cwd=tmp_path, HAULIER_DATABASE_URL=logins).stdout)["items"]
    made = {each["name"]: each["services"] for each in listed}

    for name in ("intake", "relay", "worker", "upkeep"):
        service = RUNNING[name]["command"][0]
        assert service in SERVICES
        assert set(made[account(name)]) - {"console"} == {service}  # what an intake may, `haulier keys` may with it
        password = urlsplit(settings_of(OURS[name], **PASSWORDS)["HAULIER_DATABASE_URL"]).password
        assert password == PASSWORDS[f"{service.upper()}_PASSWORD"]
        place = urlsplit(logins)
        own = place._replace(netloc=f"{account(name)}:{password}@{place.netloc.rpartition('@')[2]}").geturl()
        checked = haulier(
            "check", cwd=tmp_path, HAULIER_DATABASE_URL=own, HAULIER_BROKER_URL=rabbitmq_url, HAULIER_REDIS_URL=redis_url,
            HAULIER_HANDLERS=handlers,
        )  # fmt: skip
        assert (checked.returncode, checked.stderr) == (0, ""), checked.stdout
