"""A real intake on a real port, over a database of the test's own."""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import httpx2
import pytest

from config.ids import uuid7
from config.settings import Settings
from console.servers.postgres import PostgresServer
from ledger import archive, attempts, keys, workers
from ledger.attempts import End, Lease
from ledger.connection import Database, Deadlines
from ledger.migrate import migrate
from ledger.roles import Role
from pipelines.command import Handler
from pipelines.load import describe
from producers.intake.serve import IntakeServer, make_server
from tests.intake.commands import HANDLERS
from tests.intake.proxy import Proxy
from tests.servers import fresh_database

NOTE: dict[str, Any] = {"command": "tests.note", "payload": {"text": "hello"}}
PAY: dict[str, Any] = {"command": "tests.pay", "payload": {"lines": [{"sku": "MUG", "quantity": 1}], "token": "tok_secret"}}


@dataclass
class Api:
    """A client whose every answer must have a documented status, and a problem document for every error."""

    url: str
    keys: dict[str, str] = field(default_factory=dict)
    slug: str = ""
    server: IntakeServer | None = None

    def __post_init__(self) -> None:
        self.client = httpx2.Client(base_url=self.url, timeout=30)
        self.document = self.client.get("/openapi.json").json()

    def call(self, method: str, path: str, role: str | None = "submitter", **arguments: Any) -> httpx2.Response:
        headers = dict(arguments.pop("headers", {}))
        if role is not None:
            headers.setdefault("authorization", f"Bearer {self.keys[role]}")
        answer = self.client.request(method, path, headers=headers, **arguments)
        self._check(method, path.partition("?")[0], answer)
        return answer

    def get(self, path: str, role: str = "viewer", **arguments: Any) -> httpx2.Response:
        return self.call("GET", path, role, **arguments)

    def post(self, path: str, json: Any = None, role: str = "submitter", **arguments: Any) -> httpx2.Response:
        return self.call("POST", path, role, **({"json": json} if json is not None else {}), **arguments)

    def submit(self, body: Any = NOTE, key: str | None = None, role: str = "submitter") -> httpx2.Response:
        return self.post("/v1/jobs", body, role, headers={"idempotency-key": key} if key else {})

    def accepted(self, body: Any = NOTE, role: str = "submitter") -> str:
        answer = self.submit(body, role=role)
        assert answer.status_code == 202, answer.text
        return answer.json()["id"]

    def _check(self, method: str, path: str, answer: httpx2.Response) -> None:
        known = self.document["paths"]
        found = next((template for template in known if _matches(template, path) and method.lower() in known[template]), None)
        if found:
            assert str(answer.status_code) in known[found][method.lower()]["responses"], (method, path, answer.status_code)
        if answer.status_code >= 400 and path != "/readyz":
            problem = answer.json()
            assert answer.headers["content-type"] == "application/problem+json"
            assert problem["status"] == answer.status_code
            assert problem["type"] in self.document["components"]["schemas"]["Problem"]["properties"]["type"]["enum"]
            assert "Traceback" not in answer.text


def _matches(template: str, path: str) -> bool:
    wanted, given = template.split("/"), path.split("/")
    return len(wanted) == len(given) and all(part.startswith("{") or part == other for part, other in zip(wanted, given, strict=True))


@contextmanager
def running_intake(database: Database, handlers: Mapping[str, Handler] = HANDLERS, **settings: Any) -> Iterator[Api]:
    ready = threading.Event()
    urls: list[str] = []
    everything = Settings(database_url=database.url, port=0, **settings)  # pyright: ignore[reportCallIssue, reportArgumentType]

    def note(url: str) -> None:
        urls.append(url)
        ready.set()

    server = make_server(everything, database, handlers, note, lambda: "RabbitMQ is away")
    thread = threading.Thread(target=server.run)
    thread.start()
    assert ready.wait(10)
    api = Api(urls[0], server=server)
    try:
        yield api
    finally:
        api.client.close()
        server.should_exit = True
        thread.join(30)
        assert not thread.is_alive()


def make_keys(database: Database) -> tuple[str, dict[str, str]]:
    """A tenant's slug, and keys by role; `foreign` is another tenant's admin, `seeing` an operator with `payloads`."""
    slug = f"acme-{secrets.token_hex(4)}"
    with database.plumbing() as tx:
        mine, other = keys.add_tenant(tx, slug, "Acme"), keys.add_tenant(tx, f"other-{slug}", "Other")
        assert mine
        assert other
        workers.remember_commands(tx, describe(HANDLERS))
        made = {role: keys.add_key(tx, mine.id, role, role)[1] for role in keys.ROLES if role != "platform"}
        made["platform"] = keys.add_key(tx, None, "platform", "platform", payloads=True)[1]
        made["foreign"] = keys.add_key(tx, other.id, "admin", "foreign")[1]
        made["seeing"] = keys.add_key(tx, mine.id, "operator", "seeing", payloads=True)[1]
    return slug, made


DEADLINES = Deadlines(connect=2, call=3, statement=3, lock=3)


@pytest.fixture(scope="session")
def intake(postgres_server: PostgresServer) -> Iterator[tuple[Database, Api]]:
    """One intake for all tests that leave it running; each has tenants of its own. The database is for looking, as superuser."""
    with fresh_database(postgres_server, "template0") as url:
        migrate(url)
        database, own = Database(url, size=8, deadlines=DEADLINES), Database(url, Role.INTAKE, size=8, deadlines=DEADLINES)
        with running_intake(own, request_deadline=10) as running:
            yield database, running
        database.close()
        own.close()


@pytest.fixture
def database(intake: tuple[Database, Api]) -> Database:
    return intake[0]


@pytest.fixture
def api(intake: tuple[Database, Api]) -> Iterator[Api]:
    database, running = intake
    slug, made = make_keys(database)
    own = Api(running.url, made, slug, running.server)
    yield own
    own.client.close()


@contextmanager
def running_behind(proxy: Proxy, request_deadline: float) -> Iterator[Api]:
    """An intake that reaches its ledger through the proxy; its keys are for the test to say."""
    with (
        closing(Database(proxy.url, Role.INTAKE, size=4, deadlines=DEADLINES)) as own,
        running_intake(own, request_deadline=request_deadline) as running,
    ):
        yield running
        proxy.let_through()


@dataclass
class Worker:
    """Stands in for a worker: begins and settles by hand."""

    database: Database
    id: UUID = field(default_factory=uuid7)

    def begin(self, job_id: str, attempt: int = 1) -> Lease:
        with self.database.plumbing() as tx:
            workers.register(tx, self.id, "worker", "0")
            begun, _ = attempts.begin(tx, self.id, [(UUID(job_id), attempt)], dict.fromkeys(HANDLERS, 30.0))
        assert begun
        return Lease(UUID(job_id), attempt, self.id)

    def complete(self, lease: Lease, result: str) -> None:
        with self.database.plumbing() as tx:
            attempts.complete(tx, lease, result)

    def bury(self, lease: Lease, reason: str = "permanent", error: str | None = None) -> None:
        error = error or '{"code": "broken", "type": "ValueError", "message": "it Broke", "traceback": "Trace of ValueError"}'
        with self.database.plumbing() as tx:
            attempts.settle(tx, [End(lease.job_id, lease.attempt, self.id, "dead", "buried", reason, blame=True, error=error)])

    def kill(self, job_id: str, reason: str = "permanent") -> Lease:
        """Make a dead letter of a queued job."""
        lease = self.begin(job_id)
        self.bury(lease, reason)
        return lease


@pytest.fixture
def worker(database: Database) -> Worker:
    return Worker(database)


def count(database: Database, api: Api, table: str = "jobs") -> int:
    """Rows of the test's own tenant."""
    query = f"select count(*) from haulier.{table} where tenant_id = (select id from haulier.tenants where slug = %s)"
    with database.plumbing() as tx:
        row = tx.execute(query, (api.slug,)).fetchone()  # pyright: ignore[reportArgumentType, reportCallIssue]
    assert row
    return row[0]


def archive_all(database: Database) -> None:
    """Everything that has ended leaves the live tables, though nobody here tells the webhooks that other tests have left."""
    with database.plumbing(60) as tx:
        tx.execute("update haulier.webhooks set enabled = false, disabled_reason = 'nobody tells it' where enabled")
        archive.open_partitions(tx, datetime.now(UTC).date())
        after = None
        while (step := archive.archive(tx, timedelta(0), after, limit=10_000)).after is not None:
            after = step.after


def eventually(holds: Callable[[], object], seconds: float = 10) -> None:
    """Returns when it holds; fails when it does not in time."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, f"did not come true within {seconds} s"
        time.sleep(0.01)
