"""Before any route: the limits on URL and headers, representations and query parameters that are not documented; and the counting."""

from __future__ import annotations

import time
from urllib.parse import parse_qsl

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from producers.intake import metrics
from producers.intake.contract import Contract, Documented
from producers.intake.parsing import accepts
from producers.intake.problems import Problem

MAX_URL = 8 << 10
#: 500 ids, their commas written as %2C, and what else a list may ask for. uvicorn's parser (llhttp) has no limit of its own.
MAX_URL_WITH_IDS = 24 << 10
MAX_HEADERS = 16 << 10


class Gate:
    """ASGI, around the whole app."""

    def __init__(self, app: ASGIApp, contract: Contract) -> None:
        self._app = app
        self._contract = contract

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        status = 500
        documented = self._contract.find(scope["path"])

        async def watch(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], (b"x-content-type-options", b"nosniff")]
                message["headers"] += scope.get("rate_limit", ())
                _name_methods(message, documented)
            await send(message)

        problem = _check(scope, documented)
        try:
            await (self._app if problem is None else problem.response(scope["path"]))(scope, receive, watch)
        finally:
            route = documented.template if documented else "other"
            method = scope["method"] if scope["method"] in {"GET", "POST", "PUT", "PATCH", "DELETE"} else "other"
            metrics.REQUESTS.labels(method, route, status).inc()
            if "held" not in scope:  # what waits for a job takes as long as that
                metrics.SECONDS.labels(method, route).observe(time.perf_counter() - started)


def _check(scope: Scope, documented: Documented | None) -> Problem | None:
    query: bytes = scope["query_string"]
    most = MAX_URL_WITH_IDS if scope["path"] == "/v1/jobs" and b"ids=" in query else MAX_URL
    if len(scope.get("raw_path") or b"") + len(query) > most:
        return Problem("uri-too-long", f"the URL must be at most {most} bytes")
    if sum(len(name) + len(value) for name, value in scope["headers"]) > MAX_HEADERS:
        return Problem("headers-too-large", f"the headers must be at most {MAX_HEADERS} bytes together")
    if documented is None or scope["method"] not in documented.queries:
        return None
    if b"%00" in query or b"\0" in query:
        return Problem("malformed-request", "a query parameter must not hold the character NUL (%00)")
    if query:
        names = [name for name, _ in parse_qsl(query.decode("latin-1"), keep_blank_values=True)]
        unknown = documented.unknown(scope["method"], names)
        if unknown is not None:
            return Problem("malformed-request", f"the query parameter {unknown[:100]!r} is not known here")
    media = documented.media[scope["method"]]
    if documented.template.startswith("/v1/") and not accepts(Headers(scope=scope), media):
        return Problem("not-acceptable", f"the answer is {' or '.join(media)}, and nothing else")
    return None


def _name_methods(message: Message, documented: Documented | None) -> None:
    """A path may have routes of several kinds, each of which knows its own methods only; Allow names them all."""
    if message["status"] == 405 and documented is not None:
        others = [(name, value) for name, value in message["headers"] if name.lower() != b"allow"]
        message["headers"] = [*others, (b"allow", ", ".join(sorted(documented.queries)).encode())]
