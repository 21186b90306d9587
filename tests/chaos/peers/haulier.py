"""Haulier's side: a handler as trusting as the others', and a caller who uses the Python client with an idempotency key."""

from __future__ import annotations

import os
import time
from functools import cache
from typing import Any, ClassVar

from benchmarks import haulier
from benchmarks.contender import Place
from benchmarks.peers.safe.effects import REST
from ledger import workers
from pipelines.command import Command, Handler, handles
from pipelines.load import describe
from pipelines.run import Run
from producers.client import Client


class Take(Command):
    command_name: ClassVar[str] = "peers.take"
    example: ClassVar[dict[str, Any]] = {"number": 1}

    number: int


@handles(Take, queue="peers")
def take(command: Take, run: Run) -> None:
    """The same statement, in the transaction that ends the job (`run.transaction()` would be the same)."""
    run.execute("insert into bench.effects (number) values ($1)", command.number)
    time.sleep(REST)


HANDLERS: dict[str, Handler] = {take.name: take}


class Haulier(haulier.Haulier):
    """An intake, a relay, upkeep and a worker of two processes with eight threads; all settings as they are by default."""

    def __init__(self, place: Place) -> None:
        super().__init__(place, works=False, over_http=True)
        workers.remember_commands(self._database, describe(HANDLERS))
        self.start("relay")
        self.start("upkeep")
        self.start("work", HAULIER_PROCESSES="2", HAULIER_THREADS="8")

    def start(self, role: str, **environment: str) -> Any:
        return super().start(role, **environment, HAULIER_HANDLERS="tests.chaos.peers.haulier:HANDLERS")


def submit(number: int) -> None:
    client().submit("peers.take", {"number": number}, idempotency_key=f"number-{number}")


@cache
def client() -> Client:
    return Client(os.environ["PEER_URL"], os.environ["PEER_KEY"])
