"""What every route of an intake works with."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar, cast

import psycopg
from starlette.requests import Request

from config.changes import Changes
from config.redis import AsyncRedis
from config.settings import Settings
from ledger.connection import Database
from pipelines.command import Handler
from producers.intake.problems import LOST, unavailable

if TYPE_CHECKING:
    from producers.intake.auth import Access, Keyring
    from producers.intake.contract import Contract
    from producers.intake.hub import Hub
    from producers.intake.submitting import Writers

Tx = psycopg.Connection[Any]
T = TypeVar("T")

#: How long a read waits for a ledger that is away, before the client is told to come back.
PATIENCE = 2.0


class Door:
    """The way to the ledger: every use has a deadline, and begins on a connection that was just seen alive."""

    def __init__(self, database: Database, deadline: float) -> None:
        self.database = database
        self._deadline = deadline

    def use(self, call: Callable[[Tx], T]) -> T:
        """Call with a connection in autocommit. Raises Problem `unavailable` if none was alive: then nothing was done."""
        give_up = time.monotonic() + min(PATIENCE, self._deadline)
        while True:
            alive = False
            try:
                with self.database.plumbing(self._deadline) as tx:
                    tx.execute("select 1")
                    alive = True
                    return call(tx)
            except LOST as error:
                if alive:
                    raise
                if time.monotonic() > give_up:
                    raise unavailable() from error
            time.sleep(0.05)

    def use_for(self, access: Access, call: Callable[[Tx], T]) -> T:
        """The same on behalf of a caller: for all that reads or changes what tenants own."""
        del access
        return self.use(call)

    async def use_aside(self, access: Access, call: Callable[[Tx], T]) -> T:
        """The same from the event loop, in a thread."""
        return await asyncio.to_thread(self.use_for, access, call)


@dataclass(slots=True)
class Parts:
    settings: Settings
    door: Door
    handlers: Mapping[str, Handler]
    keyring: Keyring
    writers: Writers
    contract: Contract
    changes: Changes
    hub: Hub
    transport_problem: Callable[[], str | None] | None
    #: None where none is configured: everything then stays within this process.
    redis: AsyncRedis | None = None
    #: Set when the process was told to leave: it is not ready any more, and finishes what it has.
    leaving: bool = False


def parts_of(request: Request) -> Parts:
    return cast("Parts", request.app.state.parts)
