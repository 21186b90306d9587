"""Both clients against a real intake: the same calls, whichever loop carries them out."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any

import pytest

from producers.client import AsyncClient, Client, Event
from tests.intake.conftest import Api, api, database, intake, worker

__all__ = ["api", "database", "intake", "worker"]

Call = Callable[..., Any]


def with_client(url: str, key: str, deadline: float, name: str, *arguments: Any, **named: Any) -> Any:
    with Client(url, key, deadline=deadline) as client:
        found = getattr(client, name)(*arguments, **named)
        return list(found) if name == "jobs" else found


def with_async_client(url: str, key: str, deadline: float, name: str, *arguments: Any, **named: Any) -> Any:
    async def run() -> Any:
        async with AsyncClient(url, key, deadline=deadline) as client:
            found = getattr(client, name)(*arguments, **named)
            return [job async for job in found] if name == "jobs" else await found

    return asyncio.run(run())


@pytest.fixture(params=[with_client, with_async_client], ids=["sync", "async"])
def call(request: pytest.FixtureRequest, api: Api) -> Call:
    """`call("submit", …)`, with the submitter's key, or that of `role`; `url` and `key` stand in for the intake's own."""

    def run(
        name: str,
        *arguments: Any,
        role: str = "submitter",
        url: str | None = None,
        key: str | None = None,
        deadline: float = 10,
        **named: Any,
    ) -> Any:
        return request.param(url or api.url, key or api.keys[role], deadline, name, *arguments, **named)

    return run


def listen_with_client(url: str, key: str, each: Callable[[Event], object], name: str, *arguments: Any, **named: Any) -> list[Event]:
    heard: list[Event] = []
    with Client(url, key, deadline=10) as client, contextlib.closing(getattr(client, name)(*arguments, **named)) as events:
        for event in events:
            heard.append(event)
            if each(event):
                break
    return heard


def listen_with_async_client(url: str, key: str, each: Callable[[Event], object], name: str, *arguments: Any, **named: Any) -> list[Event]:
    heard: list[Event] = []

    async def run() -> None:
        async with (
            AsyncClient(url, key, deadline=10) as client,
            contextlib.aclosing(getattr(client, name)(*arguments, **named)) as events,
        ):
            async for event in events:
                heard.append(event)
                if await asyncio.to_thread(each, event):
                    break

    asyncio.run(run())
    return heard


@pytest.fixture(params=[listen_with_client, listen_with_async_client], ids=["sync", "async"])
def listen(request: pytest.FixtureRequest, api: Api) -> Call:
    """`listen("follow", …)`: the events. Each is shown to `each`, which ends it by saying so."""

    def run(
        name: str,
        *arguments: Any,
        each: Callable[[Event], object] = lambda _: False,
        role: str = "viewer",
        url: str | None = None,
        **named: Any,
    ) -> list[Event]:
        return request.param(url or api.url, api.keys[role], each, name, *arguments, **named)

    return run
