"""An outside service's answers that no contract knows."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from pydantic import BaseModel
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response, StreamingResponse
from starlette.routing import Route

from console.demo.serving import running
from pipelines.orders.breaker import Unavailable
from pipelines.orders.service import MAX_ANSWER, CallRefused, GarbledAnswer, Service, retry_after


class Yes(BaseModel):
    yes: bool


async def drip(_request: Request) -> Response:
    async def parts() -> AsyncIterator[bytes]:
        while True:
            yield b" "
            await asyncio.sleep(0.05)

    return StreamingResponse(parts(), 200)


def answer(content: bytes, status: int, **headers: str) -> Route:
    async def endpoint(_request: Request) -> Response:
        return Response(content, status, headers={name.replace("_", "-"): value for name, value in headers.items()})

    return Route(f"/{status}", endpoint, methods=["POST"])


async def redirect(_request: Request) -> Response:
    return RedirectResponse("/200", 307)


async def flood(_request: Request) -> Response:
    return Response(b" " * (MAX_ANSWER + 1))


@pytest.fixture(scope="module")
def odd() -> Iterator[Service]:
    routes = [
        answer(b'{"yes": true}', 200), answer(b"\xff", 418), answer(b"", 409), answer(b"", 429, retry_after="17"), answer(b"", 503),
        Route("/drip", drip, methods=["POST"]), Route("/redirect", redirect, methods=["POST"]), Route("/flood", flood, methods=["POST"]),
    ]  # fmt: skip
    with running(Starlette(routes=routes)) as url:
        service = Service("it", url, timeout=0.5)
        yield service
        service._client.close()


def test_an_answer_of_the_known_shape_is_read(odd: Service):
    assert odd.post("/200", {}, "key", {200: Yes}) == Yes(yes=True)


@pytest.mark.parametrize(
    ("path", "error", "says"),
    [
        ("/flood", GarbledAnswer, "it answered more than 65536 bytes"),
        ("/redirect", GarbledAnswer, "it answered 307"),
        ("/418", CallRefused, "it answered 418"),
        ("/409", Unavailable, "it answered 409"),
        ("/503", Unavailable, "it answered 503"),
        ("/drip", Unavailable, "it was still answering after 0.5 s"),
    ],
)
def test_any_other_answer_is_an_error_that_says_what_to_do_with_the_job(odd: Service, path: str, error: type[Exception], says: str):
    with pytest.raises(error, match=says):
        odd.post(path, {}, "key", {200: Yes})


def test_too_many_requests_is_tried_again_when_the_service_says(odd: Service):
    with pytest.raises(Unavailable) as error:
        odd.post("/429", {}, "key", {200: Yes})

    assert error.value.retry_after == 17


def test_a_retry_after_is_a_number_or_a_date_and_bounded():
    soon = format_datetime(datetime.now(UTC) + timedelta(seconds=90), usegmt=True)
    past = format_datetime(datetime.now(UTC) - timedelta(seconds=90), usegmt=True)

    read = [retry_after(value) for value in ("0", "7", "999999", past, "soon", "-3", None)]

    assert read == [0, 7, 3600, 0, None, None, None]
    assert 80 < (retry_after(soon) or 0) <= 90
