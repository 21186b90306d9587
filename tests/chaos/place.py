"""Where chaos takes place: real servers behind proxies, services outside, and every role of the product twice, as it is run in production."""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, LiteralString, Self
from urllib.request import Request, urlopen

import psycopg
from sqlalchemy import create_engine, insert

from config.transport import topology
from console.demo.plan import DISCOUNTS, PRICES, SCARCE
from console.logins import log_in_as
from console.servers.find import rabbitmq_node, redis_server
from console.servers.guard import Guard
from console.servers.postgres import PostgresServer
from console.servers.process import free_port
from ledger import keys, workers
from ledger.connection import sqlalchemy_url
from ledger.migrate import migrate
from ledger.roles import SERVICES, add_account
from pipelines.load import describe, load, queues_of
from pipelines.orders.schema import bind, create_tables, discounts, products
from tests.chaos.history import Writer
from tests.chaos.proxy import Proxy
from tests.crash.commands import RIGHTS, TABLE
from tests.crash.rig import Part

ROOT = Path(__file__).parents[2]
HANDLERS = "tests.chaos.commands:HANDLERS"
TENANTS = ("acme", "globex", "initech")
ROLES = ("serve", "relay", "work", "upkeep")
#: Of this code there are few uses, of that product few pieces.
FEW_USES, FEW_PIECES = 200, 300
PLENTY = 10**9
#: Shorter than in production, so that a run of minutes sees many recoveries; long enough that a busy machine takes nobody for dead.
SETTINGS = {"heartbeat": 1, "lease": 5, "tick": 0.5, "processes": 1, "threads": 3, "drain": 8, "archive_after": 120, "log_format": "json"}

#: What a process says once it has started, and seconds within which it does, if nothing is in its way.
UP = {"work": "runner started", "serve": "the intake listens"}
STARTS_WITHIN = 20.0


class Place:
    """Use it with `with`."""

    def __init__(self, directory: Path, *, seed: int = 0, copies: int = 2) -> None:
        self.directory = directory
        self.postgres = PostgresServer()
        self.rabbitmq = rabbitmq_node(schedulers=1)
        self.redis = redis_server()
        self.history = Writer(directory / "history", "harness")
        self.slots: list[Slot] = []
        self.keys: dict[str, str] = {}
        self.queues = [name for queue in queues_of(load(HANDLERS)) for name in (topology.wire_name(queue), topology.dead_name(queue))]
        self._seed = seed
        self._copies = copies
        self._logs = directory / "logs"
        self._guard = Guard()
        self._stack = contextlib.ExitStack()
        self._token = secrets.token_hex(8)
        self._started = 0
        self._over = threading.Event()

    def __enter__(self) -> Self:
        try:
            self._set_up()
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        with ThreadPoolExecutor(8) as hands:
            list(hands.map(Slot.end, self.slots))
        self._stack.close()
        self._guard.close()
        self.history.close()

    def _set_up(self) -> None:
        self._logs.mkdir(parents=True)
        for server in (self.postgres, self.rabbitmq, self.redis):
            self._stack.enter_context(server)
        self.database_url = self.postgres.url
        migrate(self.database_url)
        self._furnish()
        self.to_postgres = Proxy(self.postgres.url, seed=self._seed)
        self.to_rabbitmq = Proxy(self.rabbitmq.url, seed=self._seed)
        for proxy in (self.to_postgres, self.to_rabbitmq):
            self._stack.callback(proxy.close)
        self.outside = self._start_outside()
        for role in ROLES:
            self.slots += [Slot(self, role, free_port()) for _ in range(self._copies)]
        for slot in self.slots:
            slot.start()
        eventually(lambda: all(slot.answers() for slot in self.of("serve")), 60, "the intakes do not answer")
        threading.Thread(target=self._tend, name="supervisor", daemon=True).start()

    def _furnish(self) -> None:
        with psycopg.connect(self.database_url) as tx:
            tx.execute(TABLE)
            tx.execute(RIGHTS)
            workers.remember_commands(tx, describe(load(HANDLERS)))
            for service in ROLES:
                assert service in SERVICES
                add_account(tx, f"chaos_{service}", "of no worth", service)
            for slug in TENANTS:
                tenant = keys.add_tenant(tx, slug, slug.title())
                assert tenant
                self.keys[slug] = keys.add_key(tx, tenant.id, "submitter", "chaos")[1]
        engine = create_engine(sqlalchemy_url(self.database_url))
        with engine.begin() as db:
            create_tables(db)
            for slug in TENANTS:
                bind(db, slug)
                stocks = {sku: (price, PLENTY) for sku, price in PRICES.items()} | {SCARCE: (9900, FEW_PIECES)}
                rows = [
                    {"tenant": slug, "sku": sku, "name": sku, "price": price, "stock": stock, "available": stock}
                    for sku, (price, stock) in stocks.items()
                ]
                db.execute(insert(products), rows)
                codes = [{"tenant": slug, "code": code, "kind": kind, "value": value} for code, (kind, value) in DISCOUNTS.items()]
                db.execute(insert(discounts), codes)
                db.execute(insert(discounts), {"tenant": slug, "code": "FEW", "kind": "fixed", "value": 100, "max_uses": FEW_USES})
        engine.dispose()

    def _start_outside(self) -> str:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.chaos.outside", str(self.directory / "history")],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self._guard.watch(process.pid, signal.SIGTERM)
        assert process.stdout
        url = process.stdout.readline().strip()

        def stop() -> None:
            process.terminate()
            process.wait(20)
            assert process.stdout
            process.stdout.close()
            self._guard.forget(process.pid)

        self._stack.callback(stop)
        return url

    def launch(self, role: str, port: int, more: Mapping[str, str]) -> Part:
        environment = {
            **os.environ,
            "HAULIER_DATABASE_URL": log_in_as(self.to_postgres.url, f"chaos_{role}", "of no worth"),
            "HAULIER_BROKER_URL": self.to_rabbitmq.url,
            "HAULIER_REDIS_URL": self.redis.url,
            "HAULIER_HANDLERS": HANDLERS,
            "HAULIER_PORT": str(port),
            "HAULIER_SINK": self.outside,
            "HAULIER_GATEWAY_URL": self.outside,
            "HAULIER_CARRIER_URL": self.outside,
            "HAULIER_GATEWAY_TIMEOUT": "4",
            "HAULIER_CARRIER_TIMEOUT": "4",
            "HAULIER_CHAOS": self._token,
            **{f"HAULIER_{name.upper()}": str(value) for name, value in SETTINGS.items()},
            **more,
        }
        self._started += 1
        part = Part(role, environment, self._logs / f"{self._started:04}-{role}.log", module="console.main")
        self._guard.watch(part.pid, signal.SIGTERM)
        return part

    def forget(self, part: Part) -> None:
        self._guard.forget(part.pid)

    def of(self, role: str) -> list[Slot]:
        return [slot for slot in self.slots if slot.role == role]

    def _tend(self) -> None:
        """As a supervisor of processes does: what has ended by itself is started again, and told of."""
        while not self._over.wait(0.2):
            for slot in self.slots:
                slot.tend()

    # For whoever breaks things, past the proxies.

    def sql(self, statement: LiteralString, *values: object) -> list[tuple[Any, ...]]:
        with psycopg.connect(self.database_url, autocommit=True, connect_timeout=5) as connection:
            cursor = connection.execute(statement, values)
            return cursor.fetchall() if cursor.description else []

    def switch_outside(self, mode: str, seconds: float = 1) -> None:
        body = f'{{"mode": "{mode}", "seconds": {seconds}}}'.encode()
        with urlopen(Request(f"{self.outside}/faults", body, method="POST"), timeout=10):
            pass

    def depths(self) -> dict[str, int]:
        """Of our queues: ready and unacknowledged messages together."""
        lines = self.rabbitmq.ctl("list_queues", "name", "messages").splitlines()
        counts = dict(line.split("\t") for line in lines if "\t" in line)
        return {name: int(count) for name, count in counts.items() if name in self.queues}


class Slot:
    """One place for a process of a role: what runs there now."""

    def __init__(self, place: Place, role: str, port: int) -> None:
        self.role = role
        self.port = port
        self.part: Part | None = None
        self._place = place
        self._lock = threading.RLock()

    def start(self, more: Mapping[str, str] | None = None) -> None:
        with self._lock:
            self.part = self._place.launch(self.role, self.port, more or {})

    @contextlib.contextmanager
    def held(self) -> Iterator[Part]:
        """Nobody starts it again within."""
        with self._lock:
            if self.part is None:
                self.start()
            assert self.part
            yield self.part

    @contextlib.contextmanager
    def held_up(self) -> Iterator[Part]:
        """The same of one that has started: nobody can say anything before."""
        with self.held():
            until = time.monotonic() + STARTS_WITHIN
            while self.part and UP.get(self.role, "") not in self.part.log and time.monotonic() < until:
                self.tend()
                time.sleep(0.05)
            assert self.part
            yield self.part

    def kill(self) -> None:
        with self._lock:
            if self.part:
                self.part.kill()
                self._place.forget(self.part)
            self.part = None

    def stop(self, within: float = 30) -> int:
        """In order; its exit code."""
        with self._lock:
            part = self.part
            assert part
            try:
                return part.stop(within)
            except subprocess.TimeoutExpired:
                return -signal.SIGKILL
            finally:
                self.kill()

    def tend(self) -> None:
        if self._lock.acquire(blocking=False):
            try:
                if self.part and self.part.code is not None:
                    self._place.history.write("info", "run", key="exit", value={"role": self.role, "code": self.part.code})
                    self.kill()
                    self.start()
            finally:
                self._lock.release()

    def answers(self) -> bool:
        with contextlib.suppress(OSError), urlopen(f"http://127.0.0.1:{self.port}/livez", timeout=2) as answer:
            return answer.status == 200
        return False

    def end(self) -> None:
        with self._lock:
            if self.part:
                self.part.go_on()
                self.part.begin_to_stop()
                deadline = time.monotonic() + 5
                while self.part.code is None and time.monotonic() < deadline:
                    time.sleep(0.02)
            self.kill()


def eventually(holds: Callable[[], object], seconds: float, complaint: str) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > deadline:
            raise AssertionError(f"{complaint} within {seconds} s")
        time.sleep(0.05)
