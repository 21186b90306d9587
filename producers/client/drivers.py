"""The two loops that carry operations out, on httpx2: one for callers of their own thread, one for an event loop."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, Literal, Self, TypeVar
from urllib.parse import urlsplit
from uuid import UUID

import httpx2

from pipelines.command import Command
from producers.client import operations
from producers.client.operations import Answer, Ask, Batch, Job, Lost, Pause, Reply, Steps

T = TypeVar("T")
Until = Literal["job", "family"]

#: A proxy for the world outside cannot reach these.
LOOPBACK = {"127.0.0.1", "localhost", "::1"}
#: Nothing of the request has left this machine.
NOT_SENT = (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.PoolTimeout)


def _settings(url: str, key: str) -> dict[str, Any]:
    return {"base_url": url, "headers": {"authorization": f"Bearer {key}"}, "trust_env": urlsplit(url).hostname not in LOOPBACK}


def _request(ask: Ask) -> dict[str, Any]:
    return {
        "method": ask.method, "url": ask.path, "params": dict(ask.query), "headers": dict(ask.headers), "content": ask.body, "timeout": ask.timeout,
    }  # fmt: skip


def _answer(response: httpx2.Response) -> Answer:
    return Answer(response.status_code, response.headers, response.content)


def _lost(error: httpx2.TransportError) -> Lost:
    return Lost(error, reached=not isinstance(error, NOT_SENT))


class Client:
    """Talks to one intake with one key (or watch token). Every call may raise ProblemError, UnreachableError.

    `deadline`: seconds that a call may go on trying. Safe to share between threads.
    """

    def __init__(self, url: str, key: str, *, deadline: float = 60) -> None:
        self._http = httpx2.Client(**_settings(url, key))
        self._deadline = deadline

    def submit(
        self, command: str | Command, payload: Mapping[str, Any] | None = None, *, idempotency_key: str | None = None, **fields: Any
    ) -> Job:
        """Submit a job; returns once it is accepted. `fields` are the further members of a submission (priority, delay, labels, …)."""
        return self._run(operations.submit(operations.wish_of(command, payload, fields), idempotency_key, self._deadline))

    def submit_many(self, wishes: Sequence[Mapping[str, Any]]) -> Batch:
        """Submissions as the contract has them, each with an `idempotency_key` of its own if wanted."""
        return self._run(operations.submit_many(wishes, self._deadline))

    def job(self, job_id: UUID | str) -> Job:
        return self._run(operations.read(f"/v1/jobs/{job_id}", self._deadline))

    def wait(self, job_id: UUID | str, *, until: Until = "job", timeout: float = 300) -> Job:
        """The job once it has ended; with `until="family"`, once all that came of it has too. Raises TimeoutError."""
        return self._run(operations.wait(job_id, until, timeout, self._deadline))

    def jobs(self, **query: Any) -> Iterator[Job]:
        """All that a filter lets through, the newest first, page by page."""
        cursor = None
        while True:
            page = self._run(operations.read("/v1/jobs", self._deadline, **query, cursor=cursor))
            yield from page["items"]
            cursor = page["next_cursor"]
            if cursor is None:
                return

    def cancel(self, job_id: UUID | str) -> Job:
        return self._run(operations.write(f"/v1/jobs/{job_id}/cancel", {}, self._deadline))

    def replay(self, job_id: UUID | str, reason: str, **fields: Any) -> Job:
        return self._run(operations.write(f"/v1/dead-letters/{job_id}/replay", {"reason": reason, **fields}, self._deadline))

    def watch_token(self, job_id: UUID | str, **wanted: Any) -> dict[str, Any]:
        """A token for a browser: `{"token", "job_id", "expires_at", "payloads"}`."""
        return self._run(operations.write(f"/v1/jobs/{job_id}/watch-token", wanted, self._deadline, repeatable=True))

    def close(self) -> None:
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _run(self, steps: Steps[T]) -> T:
        reply: Reply = None
        while True:
            try:
                step = steps.send(reply)
            except StopIteration as end:
                return end.value
            match step:
                case Pause():
                    time.sleep(step.seconds)
                    reply = None
                case Ask():
                    try:
                        reply = _answer(self._http.request(**_request(step)))
                    except httpx2.TransportError as error:
                        reply = _lost(error)


class AsyncClient:
    """`Client` for an event loop: the same calls, awaited."""

    def __init__(self, url: str, key: str, *, deadline: float = 60) -> None:
        self._http = httpx2.AsyncClient(**_settings(url, key))
        self._deadline = deadline

    async def submit(
        self, command: str | Command, payload: Mapping[str, Any] | None = None, *, idempotency_key: str | None = None, **fields: Any
    ) -> Job:
        return await self._run(operations.submit(operations.wish_of(command, payload, fields), idempotency_key, self._deadline))

    async def submit_many(self, wishes: Sequence[Mapping[str, Any]]) -> Batch:
        return await self._run(operations.submit_many(wishes, self._deadline))

    async def job(self, job_id: UUID | str) -> Job:
        return await self._run(operations.read(f"/v1/jobs/{job_id}", self._deadline))

    async def wait(self, job_id: UUID | str, *, until: Until = "job", timeout: float = 300) -> Job:  # noqa: ASYNC109  (the server waits too)
        return await self._run(operations.wait(job_id, until, timeout, self._deadline))

    async def jobs(self, **query: Any) -> AsyncIterator[Job]:
        cursor = None
        while True:
            page = await self._run(operations.read("/v1/jobs", self._deadline, **query, cursor=cursor))
            for job in page["items"]:
                yield job
            cursor = page["next_cursor"]
            if cursor is None:
                return

    async def cancel(self, job_id: UUID | str) -> Job:
        return await self._run(operations.write(f"/v1/jobs/{job_id}/cancel", {}, self._deadline))

    async def replay(self, job_id: UUID | str, reason: str, **fields: Any) -> Job:
        return await self._run(operations.write(f"/v1/dead-letters/{job_id}/replay", {"reason": reason, **fields}, self._deadline))

    async def watch_token(self, job_id: UUID | str, **wanted: Any) -> dict[str, Any]:
        return await self._run(operations.write(f"/v1/jobs/{job_id}/watch-token", wanted, self._deadline, repeatable=True))

    async def close(self) -> None:
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.close()

    async def _run(self, steps: Steps[T]) -> T:
        reply: Reply = None
        while True:
            try:
                step = steps.send(reply)
            except StopIteration as end:
                return end.value
            match step:
                case Pause():
                    await asyncio.sleep(step.seconds)
                    reply = None
                case Ask():
                    try:
                        reply = _answer(await self._http.request(**_request(step)))
                    except httpx2.TransportError as error:
                        reply = _lost(error)
