"""The two loops that carry operations out, on httpx2: one for callers of their own thread, one for an event loop."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, AsyncIterator, Generator, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, Literal, Self, TypeVar
from urllib.parse import urlsplit
from uuid import UUID

import httpx2

from pipelines.command import Command
from producers.client import following, operations
from producers.client.following import Event, Following, Read
from producers.client.operations import Answer, Ask, Batch, Job, Lost, M, Pause, Reply, Steps

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

    `deadline`: seconds within which a call may try again. It comes back when the intake said, and gives up at once where that is later. One try may
    take 30 s. Safe to share between threads.
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
        """Submissions as the contract has them, each with an `idempotency_key` of its own if wanted.

        What is raised holds what was answered for until then (`batch`), and the `rest`, which may be submitted again.
        """
        return self._run(operations.submit_many(wishes, self._deadline))

    def job(self, job_id: UUID | str) -> Job:
        return self._run(operations.read(f"/v1/jobs/{job_id}", self._deadline))

    def wait(self, job_id: UUID | str, *, until: Until = "job", timeout: float = 300) -> Job:
        """The job once it has ended; with `until="family"`, once all that came of it has too. Raises TimeoutError."""
        return self._run(operations.wait(job_id, until, timeout, self._deadline))

    def result(self, job_id: UUID | str, model: type[M], *, timeout: float = 300) -> M:
        """What a job came to, once it has ended, as the model that its command names. The key must see payloads.

        Raises NoResultError where it ended otherwise, TimeoutError, and pydantic.ValidationError where the result is no such model.
        """
        return self._run(operations.result(job_id, model, timeout, self._deadline))

    def follow(self, job_id: UUID | str, *, until: Until = "job", after: str | None = None) -> Generator[Event, None, None]:
        """A job's events from its first on, or from behind that with the id `after`, as they happen, until it has ended; with `until="family"`,
        those of all that comes of it. Cut connections are taken up where they were cut. While it runs, `progress` comes too.
        """
        query = {"family": "true"} if until == "family" else {}
        return self._stream(following.follow(f"/v1/jobs/{job_id}/events", query, after, self._deadline))

    def events(self, *, after: str | None = None, **query: Any) -> Generator[Event, None, None]:
        """The events of all of the tenant's jobs, from now on or from behind that with the id `after`, without an end. `query`: state, command.

        After an hour or so away, what was missed is gone: ProblemError 410.
        """
        return self._stream(following.follow("/v1/events", query, after, self._deadline))

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

    def resolve(
        self, job_id: UUID | str, step: str, outcome: Literal["happened", "did_not_happen"], reason: str, *, result: Any = None
    ) -> Job:
        """Say how a dead job's call to the outside ended, if that is unknown; `result`: what it answered. Once nothing is unknown, the job goes on."""
        said = {"step": step, "outcome": outcome, "reason": reason, "result": result}
        return self._run(operations.write(f"/v1/dead-letters/{job_id}/resolve", said, self._deadline))

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

    def _stream(self, steps: Following) -> Generator[Event, None, None]:
        """Carry out a stream's steps and hand on what it tells. The connection is closed with the iterator."""
        reply: Reply = None
        pieces: Iterator[bytes] = iter(())
        with contextlib.ExitStack() as connection:
            while True:
                try:
                    step = steps.send(reply)
                except StopIteration:
                    return
                reply = None
                try:
                    match step:
                        case Event():
                            yield step
                        case Pause():
                            time.sleep(step.seconds)
                        case Ask():
                            connection.close()
                            response = connection.enter_context(self._http.stream(**_request(step)))
                            pieces = response.iter_bytes()
                            reply = Answer(response.status_code, response.headers, b"" if response.is_success else response.read())
                        case Read():
                            reply = next(pieces, None)
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

    async def result(self, job_id: UUID | str, model: type[M], *, timeout: float = 300) -> M:  # noqa: ASYNC109  (the server waits too)
        return await self._run(operations.result(job_id, model, timeout, self._deadline))

    def follow(self, job_id: UUID | str, *, until: Until = "job", after: str | None = None) -> AsyncGenerator[Event, None]:
        """`async for`. Who leaves it early closes it: `async with contextlib.aclosing(client.follow(…)) as events`."""
        query = {"family": "true"} if until == "family" else {}
        return self._stream(following.follow(f"/v1/jobs/{job_id}/events", query, after, self._deadline))

    def events(self, *, after: str | None = None, **query: Any) -> AsyncGenerator[Event, None]:
        return self._stream(following.follow("/v1/events", query, after, self._deadline))

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

    async def resolve(
        self, job_id: UUID | str, step: str, outcome: Literal["happened", "did_not_happen"], reason: str, *, result: Any = None
    ) -> Job:
        said = {"step": step, "outcome": outcome, "reason": reason, "result": result}
        return await self._run(operations.write(f"/v1/dead-letters/{job_id}/resolve", said, self._deadline))

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

    async def _stream(self, steps: Following) -> AsyncGenerator[Event, None]:
        reply: Reply = None
        pieces: AsyncIterator[bytes] | None = None
        async with contextlib.AsyncExitStack() as connection:
            while True:
                try:
                    step = steps.send(reply)
                except StopIteration:
                    return
                reply = None
                try:
                    match step:
                        case Event():
                            yield step
                        case Pause():
                            await asyncio.sleep(step.seconds)
                        case Ask():
                            await connection.aclose()
                            response = await connection.enter_async_context(self._http.stream(**_request(step)))
                            pieces = response.aiter_bytes()
                            reply = Answer(response.status_code, response.headers, b"" if response.is_success else await response.aread())
                        case Read():
                            assert pieces is not None
                            reply = await anext(pieces, None)
                except httpx2.TransportError as error:
                    reply = _lost(error)
