"""What the demo runs on: the gateway and the carrier, a `haulier dev` in a fresh directory, and a RabbitMQ if it was asked for."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx2
import orjson
from sqlalchemy import Engine, create_engine

from console.servers.find import rabbitmq_node
from console.servers.guard import Guard
from ledger.connection import sqlalchemy_url

ROOT = Path(__file__).parents[2]
START_WITHIN = 90.0
STOP_WITHIN = 40.0
#: What would have the demo run on somebody's real servers, or call their real gateway.
NOT_FOR_THE_DEMO = ("HAULIER_DATABASE_URL", "HAULIER_BROKER_URL", "HAULIER_REDIS_URL", "HAULIER_HANDLERS", "HAULIER_HOST", "HAULIER_PORT")


class StageError(Exception):
    """Something that the demo needs did not start."""


class Outside:
    """An outside service as its owner sees it."""

    def __init__(self, url: str) -> None:
        self.url = url

    def switch(self, mode: str) -> None:
        httpx2.post(f"{self.url}/faults", json={"mode": mode}, trust_env=False).raise_for_status()

    def books(self) -> Mapping[str, Any]:
        return httpx2.get(f"{self.url}/books", trust_env=False).json()


class Stage:
    def __init__(self, gateway: Outside, carrier: Outside, running: Mapping[str, Any], engine: Engine) -> None:
        self.gateway = gateway
        self.carrier = carrier
        self.url: str = running["url"]
        self.tenant: str = running["tenant"]
        self.engine = engine
        self._keys: Mapping[str, str] = running["keys"]

    def client(self, role: str) -> httpx2.Client:
        headers = {"authorization": f"Bearer {self._keys[role]}"}
        return httpx2.Client(base_url=self.url, headers=headers, timeout=30, trust_env=False)


@contextmanager
def staged(broker: str) -> Iterator[Stage]:
    """Set up, and gone without a trace afterwards, even when the demo is killed."""
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="haulier-demo-")))
        directory.chmod(0o755)  # the account that Postgres runs under must reach it
        guard = Guard()
        guard.remove(directory)
        stack.callback(guard.close)
        environment = {name: value for name, value in os.environ.items() if name not in NOT_FOR_THE_DEMO}
        environment["PYTHONPATH"] = str(ROOT)
        gateway, carrier = (_start_outside(module, directory, environment, guard, stack) for module in ("gateway", "carrier"))
        environment |= {"HAULIER_GATEWAY_URL": gateway.url, "HAULIER_CARRIER_URL": carrier.url, "HAULIER_THREADS": "8"}
        if broker == "rabbitmq":
            environment["HAULIER_BROKER_URL"] = os.environ.get("HAULIER_BROKER_URL") or stack.enter_context(rabbitmq_node()).url
        running = _start_dev(directory, environment, guard, stack)
        engine = create_engine(sqlalchemy_url((directory / "data" / "database-url").read_text().strip()))
        stack.callback(engine.dispose)
        yield Stage(gateway, carrier, running, engine)


def _start_outside(module: str, directory: Path, environment: Mapping[str, str], guard: Guard, stack: ExitStack) -> Outside:
    command = [sys.executable, "-m", f"console.demo.{module}", "--port", "0"]
    process = subprocess.Popen(command, env=environment, cwd=directory, stdout=subprocess.PIPE, text=True, start_new_session=True)
    guard.watch(process.pid, signal.SIGTERM)
    stack.callback(_stop, process, guard)
    assert process.stdout is not None
    said = process.stdout.readline()
    if "http://" not in said:
        raise StageError(f"the {module} did not start, it said {said!r}")
    return Outside(said.rpartition(" ")[2].strip())


def _start_dev(directory: Path, environment: Mapping[str, str], guard: Guard, stack: ExitStack) -> Mapping[str, Any]:
    command = [sys.executable, "-m", "console.main", "dev", "--data-dir", str(directory / "data"), "--port", "0"]
    log_file = directory / "dev.log"
    with log_file.open("wb") as output:
        process = subprocess.Popen(command, env=environment, cwd=directory, stdout=output, stderr=output, start_new_session=True)
    guard.watch(process.pid, signal.SIGTERM)
    stack.callback(_stop, process, guard)
    announcement = directory / "data" / "dev.json"
    deadline = time.monotonic() + START_WITHIN
    while not announcement.exists():
        if process.poll() is not None or time.monotonic() > deadline:
            raise StageError(f"`haulier dev` did not start; the end of its log:\n{log_file.read_text(errors='replace')[-3000:]}")
        time.sleep(0.05)
    return orjson.loads(announcement.read_bytes())


def _stop(process: subprocess.Popen[Any], guard: Guard) -> None:
    process.terminate()
    try:
        process.wait(STOP_WITHIN)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    if process.stdout is not None:
        process.stdout.close()
    guard.forget(process.pid)
