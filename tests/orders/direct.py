"""The orders' handlers carried out directly: no broker and no ledger, but a real Postgres and real outside services.

What the worker would do around a handler (policy, follow-ups, recorded calls) is done here in its plainest form.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import httpx2
from pydantic import BaseModel
from sqlalchemy import Connection, Engine, insert, text
from sqlalchemy.orm import Session

from config.ids import uuid7
from pipelines.command import Command, Rejected, Snooze, Snoozed
from pipelines.orders.balance import Balance, Charge, balance, compare_with_gateway
from pipelines.orders.cart import Address, Line
from pipelines.orders.place import PlaceOrder
from pipelines.orders.schema import discounts, products
from pipelines.run import Refused
from pipelines.table import HANDLERS

ADDRESS = Address(name="Ada", street="1 Road", postal_code="10115", city="Berlin", country="DE")


#: Their numbers.
TENANTS = {"acme": 1, "globex": 2}


@dataclass
class Job:
    command: Command
    tenant: str = "acme"
    id: UUID = field(default_factory=uuid7)
    state: str = "queued"
    failures: int = 0
    attempt: int = 0
    error: Any = None
    result: Any = None
    parent: UUID | None = None

    @property
    def name(self) -> str:
        return self.command.command_name


class DirectRun:
    """A `pipelines.run.Run` on one connection."""

    def __init__(self, job: Job, engine: Engine, recorded: dict[tuple[UUID, str], Any]) -> None:
        self.job_id = self.root_id = job.id
        self.tenant = job.tenant
        self.attempt = job.attempt
        self.deadline = datetime.now(UTC) + timedelta(seconds=30)
        self.cancelled = False
        self.restored = None
        self.submitted: list[Job] = []
        self.open: Connection | None = None
        self._engine = engine
        self._recorded = recorded

    @contextmanager
    def transaction(self) -> Generator[Connection]:
        if self.open is None:
            self.open = self._engine.connect()
            self.open.execute(text("select set_config('haulier.tenant', :tenant, true)"), {"tenant": str(TENANTS[self.tenant])})
        yield self.open

    @contextmanager
    def session(self) -> Generator[Session]:
        raise NotImplementedError("no handler of this domain uses the ORM")

    def submit(self, command: Command, *, priority: int | None = None, delay: float = 0) -> UUID:
        self.submitted.append(Job(command, self.tenant, parent=self.job_id))
        return self.submitted[-1].id

    def once(self, step: str, call: Callable[[str], Any], *, honours_key: bool = True) -> Any:
        if self.open is not None:
            raise RuntimeError("once inside a transaction")
        if (self.job_id, step) not in self._recorded:
            result = call(f"{self.job_id}:{step}:0")
            assert not isinstance(result, BaseModel), "a result must be JSON"
            self._recorded[self.job_id, step] = result
        return self._recorded[self.job_id, step]

    def progress(self, done: int, total: int, message: str = "") -> None: ...

    def checkpoint(self, value: Any) -> None: ...

    def log(self, message: str, **facts: Any) -> None: ...

    def snooze(self, seconds: float) -> None:
        raise Snoozed(seconds)


class Shop:
    """Products, discounts and the jobs of a test. `engine` is for looking, and sees all tenants; `handlers` is what handlers have."""

    def __init__(self, engine: Engine, handlers: Engine) -> None:
        self.engine = engine
        self.handlers = handlers
        self.jobs: list[Job] = []
        self.recorded: dict[tuple[UUID, str], Any] = {}
        self.before_commit: Callable[[Job], None] = lambda _job: None
        self._lock = threading.Lock()

    def stock_up(self, sku: str = "MUG", *, price: int = 500, stock: int = 10, tenant: str = "acme") -> None:
        with self.engine.begin() as db:
            row = {
                "tenant_id": TENANTS[tenant],
                "tenant": tenant,
                "sku": sku,
                "name": sku,
                "price": price,
                "stock": stock,
                "available": stock,
            }
            db.execute(insert(products), row)

    def offer(self, code: str, kind: str, value: int, **rules: Any) -> None:
        with self.engine.begin() as db:
            db.execute(insert(discounts), {"tenant_id": 1, "tenant": "acme", "code": code, "kind": kind, "value": value, **rules})

    def order(self, *lines: tuple[str, int], tenant: str = "acme", card: str = "tok_visa", code: str | None = None) -> Job:
        """Submit an order (of one MUG, if nothing is said)."""
        cart = tuple(Line(sku=sku, quantity=quantity) for sku, quantity in lines or [("MUG", 1)])
        return self.submit(PlaceOrder(customer="ada", lines=cart, card_token=card, address=ADDRESS, discount_code=code), tenant)

    def submit(self, command: Command, tenant: str = "acme") -> Job:
        with self._lock:
            self.jobs.append(Job(command, tenant))
            return self.jobs[-1]

    def run(self, job: Job) -> Job:
        """One attempt."""
        handler = HANDLERS[job.name]
        job.attempt += 1
        run = DirectRun(job, self.handlers, self.recorded)
        try:
            job.result = handler.function(job.command, run)
            assert not isinstance(job.result, Rejected | Snooze)
            self.before_commit(job)
            if run.open is not None:
                run.open.commit()
        except Exception as error:  # noqa: BLE001
            self._judge(job, error)
        else:
            job.state = "succeeded"
            with self._lock:
                self.jobs += run.submitted
        finally:
            if run.open is not None:
                run.open.close()
        return job

    def _judge(self, job: Job, error: Exception) -> None:
        handler = HANDLERS[job.name]
        job.error = error
        if isinstance(error, handler.rejects):
            job.state = "rejected"
            self._follow(job, handler.on_rejected)
        elif isinstance(error, handler.buries):
            job.state = "dead"
            self._follow(job, handler.on_dead)
        elif isinstance(error, tuple(handler.snoozes)):
            job.state = "snoozed"
        else:
            assert not isinstance(error, Refused)
            job.state, job.failures = "failed", job.failures + 1

    def _follow(self, job: Job, command: type[Command] | None) -> None:
        if command is not None:
            payload = {name: value for name, value in job.command.model_dump().items() if name in command.model_fields}
            self.submit(command.model_validate(payload), job.tenant)

    def run_all(self, *also: str) -> None:
        """Run what is queued (and what is in the states named), and what that submits, until nothing is left."""
        while waiting := [job for job in self.jobs if job.state in {"queued", *also}]:
            for job in waiting:
                self.run(job)

    def only(self, name: str) -> Job:
        """The one job of this command."""
        (job,) = [job for job in self.jobs if job.name == name]
        return job

    def count(self, name: str, state: str) -> int:
        return sum(job.name == name and job.state == state for job in self.jobs)

    def scalar(self, query: str, **values: Any) -> Any:
        with self.engine.connect() as db:
            return db.scalar(text(query), values)

    def state_of(self, order: Job) -> str | None:
        return self.scalar("select state from orders.orders where id = :id", id=order.id)

    def stock_of(self, sku: str = "MUG", tenant: str = "acme") -> tuple[int, int, int]:
        """Available, reserved, sold."""
        with self.engine.connect() as db:
            query = "select available, reserved, sold from orders.products where sku = :sku and tenant = :tenant"
            row = db.execute(text(query), {"sku": sku, "tenant": tenant}).one()
            return row.available, row.reserved, row.sold

    def balance(self) -> Balance:
        with self.engine.connect() as db:
            return balance(db)

    def compare(self, gateway: Outside) -> tuple[str, ...]:
        charges = [Charge(charge["id"], charge["reference"], charge["amount"]) for charge in gateway.books()["charges"]]
        with self.engine.connect() as db:
            return compare_with_gateway(db, charges)


class Outside:
    """An outside service as its owner sees it."""

    def __init__(self, url: str) -> None:
        self.url = url

    def switch(self, mode: str, **more: Any) -> None:
        httpx2.post(f"{self.url}/faults", json={"mode": mode, **more}, trust_env=False).raise_for_status()

    def books(self) -> Mapping[str, Any]:
        return httpx2.get(f"{self.url}/books", trust_env=False).json()


def at_once(count: int, act: Callable[[int], object]) -> None:
    """Do it in so many threads that begin together. Raises what one of them raised."""
    barrier, errors = threading.Barrier(count), list[Exception]()

    def one(number: int) -> None:
        try:
            barrier.wait(30)
            act(number)
        except Exception as error:  # noqa: BLE001
            errors.append(error)

    threads = [threading.Thread(target=one, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not any(thread.is_alive() for thread in threads)
    if errors:
        raise errors[0]
