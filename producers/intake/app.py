"""The intake put together: its routes, what they work with, and the order in which it comes and goes."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from starlette.routing import Route
from starlette.types import ASGIApp

from config import changes
from config.changes import Changes, Hints
from config.redis import AsyncRedis
from config.settings import RELEASE, Settings
from ledger import keys, limits, tokens
from ledger.connection import Database
from ledger.waking import Waker
from pipelines.command import Handler
from pipelines.load import load
from pipelines.results import ResultTimes
from producers.intake import (
    auditing,
    batches,
    batching,
    dead_letters,
    explaining,
    jobs,
    metrics,
    operating,
    pages,
    problems,
    streams,
    tenants,
    watching,
    webhooks,
)
from producers.intake import limits as limit_routes
from producers.intake.accepting import accept_job, document
from producers.intake.auth import Keyring
from producers.intake.background import Background
from producers.intake.contract import Contract
from producers.intake.cors import Cors
from producers.intake.document import as_text, describe
from producers.intake.express import Express
from producers.intake.gate import Gate
from producers.intake.hub import Hub
from producers.intake.limiting import COUNT_EVERY, LOOK_EVERY, Limiter
from producers.intake.parts import Door, Parts
from producers.intake.submitting import Writers
from producers.intake.tail import Tail
from producers.intake.tokens import TokenReader


def create_app(
    settings: Settings,
    database: Database,
    handlers: Mapping[str, Handler],
    *,
    transport_problem: Callable[[], str | None] | None = None,
    bus: Changes | None = None,
) -> tuple[ASGIApp, Parts]:
    """The ASGI app, and what it works with. `transport_problem` says what is wrong with the broker, which an intake shows and does not need.

    `bus` is the changes bus that this process has already; without one, the settings say.
    """
    app, contract = route(handlers)
    problems.handle(app)
    parts = app.state.parts = _assemble(
        settings, database, handlers, contract, transport_problem, bus or changes.connect(settings.redis_url)
    )
    whole = Gate(Express(app, "/v1/jobs", accept_job), contract)
    return (Cors(whole, settings.cors_origins) if settings.cors_origins else whole), parts


def route(handlers: Mapping[str, Handler]) -> tuple[FastAPI, Contract]:
    """The routes, and the document of them."""
    app = FastAPI(
        title="Haulier",
        version=RELEASE,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        lifespan=_live,
        generate_unique_id_function=lambda route: route.name,
    )
    for module in (jobs, batches, streams, dead_letters, operating, explaining, tenants, limit_routes, auditing, watching, webhooks):
        app.include_router(module.router)
    contract = Contract(describe(app, handlers, {"/v1/jobs": document(), "/v1/jobs/batch": batches.document()}))
    app.router.routes.insert(0, Route("/v1/jobs/batch", batching.accept_batch, methods=["POST"]))
    app.router.routes.insert(1, Route("/v1/jobs/batch", batches.AnotherMethod))
    app.router.routes.extend(pages.routes)
    app.openapi = lambda: contract.document
    return app, contract


def _assemble(
    settings: Settings,
    database: Database,
    handlers: Mapping[str, Handler],
    contract: Contract,
    transport_problem: Callable[[], str | None] | None,
    bus: Changes,
) -> Parts:
    door = Door(database, min(settings.request_deadline, database.deadlines.call))
    keyring = Keyring(
        lambda text: door.use(lambda tx: keys.find_key(tx, text)),
        lambda uses: door.use(lambda tx: keys.note_uses(tx, uses)),
        find_prefix=lambda prefix: door.use(lambda tx: keys.find_prefix(tx, prefix)),
    )
    watch_tokens = TokenReader(lambda: door.use(tokens.list_secrets))
    background = Background()
    background.every(5, keyring.note_uses)
    writers = Writers(database, settings.request_deadline, Waker(database))
    redis = AsyncRedis(settings.redis_url.get_secret_value()) if settings.redis_url else None
    limiter = Limiter(settings.default_limits(), redis)
    background.every(LOOK_EVERY, lambda: limiter.refresh(lambda: door.use(limits.read_all)))
    background.every(COUNT_EVERY, lambda: limiter.backlogs.refresh(lambda tenants: door.use(lambda tx: limits.count_open(tx, tenants))))
    hub, tail = Hub(settings, door), Tail(settings, door)
    results = ResultTimes(handlers, settings.result_ttl)
    return Parts(
        settings, door, handlers, results, keyring, watch_tokens, writers, contract, bus, hub, tail, transport_problem, background, limiter,
        redis,
    )  # fmt: skip


@contextlib.asynccontextmanager
async def _live(app: FastAPI) -> AsyncIterator[dict[str, Any]]:
    parts: Parts = app.state.parts
    parts.writers.start()
    parts.background.start()

    def take(hints: Hints) -> None:
        metrics.HINT_LAG.observe(max(0.0, time.time() - hints.since))
        parts.hub.take(hints)
        parts.tail.take(hints)

    beside = [asyncio.create_task(each) for each in (parts.changes.listen(take), parts.hub.run(), parts.tail.run())]
    try:
        yield {}
    finally:
        for task in beside:
            task.cancel()
        await asyncio.gather(*beside, return_exceptions=True)
        await asyncio.to_thread(parts.background.close)
        await asyncio.to_thread(parts.writers.close)
        await asyncio.to_thread(parts.changes.close)
        if parts.redis is not None:
            await parts.redis.close()


if __name__ == "__main__":  # `make openapi`
    Path(sys.argv[1]).write_text(as_text(route(load(Settings.model_fields["handlers"].default))[1].document))
