"""A tenant with receivers: a real ledger, the dispatcher, and a worker's insides to whom deliveries are handed by the test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar
from uuid import UUID

import pytest

from ledger import deliveries, webhooks
from ledger.connection import Database
from ledger.deliveries import Shown
from ledger.roles import Role
from ledger.webhooks import Webhook
from pipelines.command import Command, Rejected, Retry, handles
from pipelines.run import Run
from pipelines.webhooks import OWN, deliver
from pipelines.webhooks.signing import make_secret
from tests.webhooks.receiver import Receiver
from tests.workers.conftest import Shop, shop  # noqa: F401  # pyright: ignore[reportUnusedImport]
from workers.webhooks import Dispatched, dispatch


class Do(Command):
    """Ends as it is told to."""

    command_name: ClassVar[str] = "tests.do"
    example: ClassVar[dict[str, Any]] = {}
    end: str = "succeeded"
    follow_ups: int = 0


class Other(Command):
    """Succeeds."""

    command_name: ClassVar[str] = "tests.other"
    example: ClassVar[dict[str, Any]] = {}


@handles(Do, queue="test", retry=Retry(max_failures=1))
def do(command: Do, run: Run) -> Rejected | dict[str, str] | None:
    if command.end == "rejected":
        return Rejected("no", code="declined")
    if command.end == "dead":
        raise RuntimeError("broken, with a customer's name in it")
    for _ in range(command.follow_ups):
        run.submit(Other())
    return {"secret": "a result that nobody else shall see"}


@handles(Other, queue="test")
def other(command: Other, run: Run) -> None:
    return None


@dataclass
class Office:
    """One tenant's, with the `shop` that carries everything out."""

    shop: Shop
    tenant: int
    upkeep: Database

    def webhook(self, url: str, *events: str, commands: list[str] | None = None, secret: str | None = None) -> Webhook:
        wanted = list(events) or ["job.succeeded", "job.rejected", "job.dead", "job.cancelled"]
        with self.shop.database.plumbing() as tx, tx.transaction():
            return webhooks.add(tx, self.tenant, "", url, wanted, commands, secret or make_secret())

    def find(self, webhook: Webhook) -> Webhook:
        with self.shop.database.plumbing() as tx:
            found = webhooks.find(tx, webhook.id, None)
        assert found is not None
        return found

    def dispatch(self) -> int:
        """All there is to be seen; returns how many deliveries came of it."""
        submitted = 0
        more = True
        while more:
            with self.upkeep.plumbing() as tx, tx.transaction():
                step: Dispatched = dispatch(tx)
            submitted, more = submitted + step.submitted, step.more
        return submitted

    def carry_out(self, *, waiting: bool = False) -> int:
        """One attempt at each delivery that is due; `waiting`: at those that wait for their time, too. Returns how many."""
        if waiting:
            self.shop.due_now()
        with self.shop.database.plumbing() as tx:
            due = tx.execute(
                "select job_id, attempt from haulier.outbox where not scheduled and command like 'webhooks.%' order by job_id"
            ).fetchall()
        for job_id, attempt in due:
            self.shop.deliver(job_id, attempt=attempt)
        return len(due)

    def run(self, command: Command | None = None, **facts: Any) -> UUID:
        return self.shop.run(command or Do(), **facts).id

    def told(self, webhook: Webhook) -> list[Shown]:
        """What it was told, the oldest first."""
        with self.shop.database.plumbing() as tx:
            return deliveries.list_deliveries(tx, webhook.tenant_id, webhook.id, None, None, 500)[::-1]


@pytest.fixture
def office(shop: Callable[..., Shop], monkeypatch: pytest.MonkeyPatch) -> Iterator[Office]:  # noqa: F811
    monkeypatch.setenv("HAULIER_WEBHOOK_NETWORKS", "127.0.0.0/8")
    monkeypatch.setenv("HAULIER_WEBHOOK_HTTP", "true")
    monkeypatch.setenv("HAULIER_WEBHOOK_TIMEOUT", "1")
    deliver.forget()
    opened = shop(do, other, *OWN.values())
    upkeep = Database(opened.database.url, Role.UPKEEP, by_index=True)
    yield Office(opened, opened.tenant, upkeep)
    upkeep.close()
    deliver.forget()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    made = Receiver()
    yield made
    made.close()
