"""What every route of an intake works with."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar, cast
from uuid import UUID

import psycopg
from starlette.requests import Request

from config.changes import Changes
from config.redis import AsyncRedis
from config.settings import Settings
from ledger.connection import Database
from ledger.roles import Role
from pipelines.command import Handler
from pipelines.results import ResultTimes
from producers.intake.problems import LOST, unavailable

if TYPE_CHECKING:
    from producers.intake.auth import Access, Keyring
    from producers.intake.background import Background
    from producers.intake.contract import Contract
    from producers.intake.hub import Hub
    from producers.intake.limiting import Limiter
    from producers.intake.submitting import Writers
    from producers.intake.tail import Tail
    from producers.intake.tokens import TokenReader

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
        """Call with the intake's own rights (keys, and what is written without being read), in autocommit.

        Raises Problem `unavailable` if no connection was alive: then nothing was done.
        """

        @contextlib.contextmanager
        def seen_alive() -> Iterator[Tx]:
            with self.database.plumbing(self._deadline) as tx:
                tx.execute("select 1")
                yield tx

        return self._use(seen_alive, call)

    def use_for(self, access: Access, call: Callable[[Tx], T]) -> T:
        """The same on behalf of a caller, for all that reads or changes what tenants own: one transaction, which commits when the call
        returns. A tenant's key sees its tenant alone, whatever a query asks for (row-level security); a platform key goes as operator.

        What others should see of it (a relay that is woken, waiters who are told) comes after this, not within the call.
        """
        tenant_id = access.key.tenant_id
        role = Role.OPERATOR if tenant_id is None else Role.CLIENT
        return self._use(lambda: self.database.transaction(role, tenant_id, self._deadline), call)

    def use_for_all(self, call: Callable[[Tx], T]) -> T:
        """The same for what the intake itself looks after, for callers of all tenants at once: it sees every tenant."""
        return self._use(lambda: self.database.transaction(Role.OPERATOR, None, self._deadline), call)

    def _use(self, borrow: Callable[[], contextlib.AbstractContextManager[Tx]], call: Callable[[Tx], T]) -> T:
        give_up = time.monotonic() + min(PATIENCE, self._deadline)
        while True:
            alive = False
            try:
                with borrow() as tx:
                    alive = True
                    return call(tx)
            except LOST as error:
                if alive:
                    raise
                if time.monotonic() > give_up:
                    raise unavailable() from error
            time.sleep(0.05)

    async def use_aside(self, access: Access, call: Callable[[Tx], T]) -> T:
        """The same from the event loop, in a thread."""
        return await asyncio.to_thread(self.use_for, access, call)


@dataclass(slots=True)
class Parts:
    settings: Settings
    door: Door
    handlers: Mapping[str, Handler]
    results: ResultTimes
    keyring: Keyring
    tokens: TokenReader
    writers: Writers
    contract: Contract
    changes: Changes
    hub: Hub
    tail: Tail
    transport_problem: Callable[[], str | None] | None
    background: Background
    limiter: Limiter
    #: None where none is configured: everything then stays within this process.
    redis: AsyncRedis | None = None
    #: Set when the process was told to leave: it is not ready any more, and finishes what it has.
    leaving: bool = False


def tell_of(parts: Parts, tenant_id: int, *ids: UUID | None) -> None:
    """To whoever waits: these jobs have just been committed, each the first of its family."""
    for job_id in ids:
        if job_id is not None:
            parts.changes.tell(job_id, job_id, tenant_id)


def parts_of(request: Request) -> Parts:
    return cast("Parts", request.app.state.parts)
