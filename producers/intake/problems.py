"""Every error that the intake answers with: problem documents of RFC 9457, the framework's own errors among them."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast
from uuid import UUID

import orjson
import psycopg
import sqlalchemy.exc
import structlog
from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from ledger.keys import read_prefix
from producers.intake import metrics
from producers.submission import InvalidSubmission, UnknownCommandError, point_at

log = structlog.get_logger()

MEDIA_TYPE = "application/problem+json"

#: What a connection to the ledger raises when it is lost, or cannot be had.
LOST = (psycopg.OperationalError, psycopg.InterfaceError, sqlalchemy.exc.DBAPIError, sqlalchemy.exc.TimeoutError)


@dataclass(frozen=True, slots=True)
class Kind:
    status: int
    title: str


#: By the last part of the `type`, which is stable.
KINDS = {
    "malformed-json": Kind(400, "The body is not JSON that can be kept"),
    "malformed-request": Kind(400, "A query parameter, header or cursor is not as documented"),
    "unauthenticated": Kind(401, "No valid API key was given"),
    "forbidden": Kind(403, "The key's role may not do this"),
    "not-found": Kind(404, "There is no such thing here"),
    "method-not-allowed": Kind(405, "This method is not known here"),
    "not-acceptable": Kind(406, "There is no such representation"),
    "request-timeout": Kind(408, "The request did not arrive in time"),
    "key-in-flight": Kind(409, "The same Idempotency-Key is still being accepted"),
    "unique-held": Kind(409, "Another job holds the unique key"),
    "wrong-state": Kind(409, "The state does not allow it"),
    "unresolved-call": Kind(409, "The outcome of a call to the outside is unknown"),
    "slug-taken": Kind(409, "Another tenant has this slug"),
    "gone": Kind(410, "It was kept for its time and is gone"),
    "precondition-failed": Kind(412, "It has been changed since"),
    "too-large": Kind(413, "The body is over a limit"),
    "uri-too-long": Kind(414, "The URL is over its limit"),
    "unsupported-media-type": Kind(415, "The body's media type is not known here"),
    "invalid": Kind(422, "The body breaks its schema"),
    "key-reused": Kind(422, "The Idempotency-Key was used before for another body"),
    "unknown-command": Kind(422, "There is no such command"),
    "precondition-required": Kind(428, "The change does not say which version it is made from"),
    "too-many-waiting": Kind(429, "Too many requests of this tenant wait here"),
    "rate-limited": Kind(429, "More was submitted than the rate allows"),
    "backlog-full": Kind(429, "The tenant has as many open jobs as it may"),
    "headers-too-large": Kind(431, "The headers are over their limit"),
    "internal": Kind(500, "The intake made a mistake"),
    "outcome-unknown": Kind(503, "It may have been accepted: repeat it with your key"),
    "unavailable": Kind(503, "Nothing was accepted: try again later"),
}


class Problem(Exception):
    """Raised anywhere in a request; ends as its answer. `members` are further members of the document."""

    def __init__(
        self,
        kind: str,
        detail: str,
        *,
        errors: Sequence[tuple[str, str]] = (),
        headers: Mapping[str, str] | None = None,
        members: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(detail)
        self.kind = kind
        self.status = KINDS[kind].status
        self.detail = detail
        self.errors = errors
        self.headers = dict(headers or {})
        self.members = members or {}

    def document(self, path: str) -> dict[str, Any]:
        document: dict[str, Any] = {
            "type": f"/problems/{self.kind}",
            "title": KINDS[self.kind].title,
            "status": self.status,
            "detail": self.detail,
            "instance": path,
            **self.members,
        }
        if self.errors:
            document["errors"] = [{"pointer": pointer, "detail": detail} for pointer, detail in self.errors]
        return document

    def response(self, path: str) -> Response:
        headers = {"cache-control": "no-store", **self.headers}
        return Response(orjson.dumps(self.document(path)), self.status, headers, MEDIA_TYPE)


def unavailable(detail: str = "the ledger cannot be reached; nothing was accepted") -> Problem:
    return Problem("unavailable", detail, headers={"retry-after": "2"})


def outcome_unknown() -> Problem:
    detail = "the connection to the ledger was lost on the way; it may have been accepted, repeat it with the same Idempotency-Key"
    return Problem("outcome-unknown", detail, headers={"retry-after": "2"})


def in_flight(keys: str = "this Idempotency-Key") -> Problem:
    return Problem("key-in-flight", f"another request with {keys} is still being accepted", headers={"retry-after": "1"})


def not_found(what: str) -> Problem:
    return Problem("not-found", f"there is no {what}")


def absent_job(job_id: UUID, retention_days: int | None) -> Problem:
    """An id of ours carries the time it was made at. One that is older than retention is gone, whosever it was, even if it never was a job's:
    so nobody learns from it what others have.
    """
    made_at = (job_id.int >> 80) / 1000 if job_id.version == 7 else time.time()
    if retention_days is not None and made_at < time.time() - retention_days * 86_400:
        return Problem("gone", f"job {job_id} is older than the {retention_days} days for which ended jobs are kept")
    return not_found(f"job {job_id}")


def as_problem(error: Exception, request: Request) -> Problem:
    """What a client is told of an error. A denial is logged and counted."""
    problem = _as_problem(error, request)
    if problem.status in {401, 403}:
        _note_denial(request, problem)
    return problem


def _as_problem(error: Exception, request: Request) -> Problem:
    match error:
        case Problem():
            return error
        case UnknownCommandError():
            members = {"nearest": error.nearest} if error.nearest else {}
            return Problem("unknown-command", str(error), errors=[("/command", str(error))], members=members)
        case InvalidSubmission():
            return Problem("invalid", f"{len(error.errors)} things are wrong with the body; see errors", errors=error.errors)
        case RequestValidationError():
            return _of_validation(error)
        case HTTPException():
            return _of_framework(error, request)
        case ClientDisconnect():
            return Problem("malformed-request", "the client left before its body had arrived")
        case psycopg.OperationalError() | psycopg.InterfaceError() | sqlalchemy.exc.DBAPIError() | sqlalchemy.exc.TimeoutError():
            return _of_ledger(error, request)
        case _:
            detail = "the intake made a mistake and has logged it; nothing is known about what it did"
            return Problem("internal", detail, headers={"connection": "close"})  # as the server does then


def _of_ledger(error: Exception, request: Request) -> Problem:
    log.warning("a request met a ledger that is away", path=request.url.path, error=str(error).strip())
    answered = getattr(error, "sqlstate", None) is not None or isinstance(error, sqlalchemy.exc.TimeoutError)
    return unavailable() if answered or request.method == "GET" else outcome_unknown()


def _of_validation(error: RequestValidationError) -> Problem:
    found = cast("list[dict[str, Any]]", error.errors())
    if any(each["loc"][0] == "path" for each in found):
        return Problem("not-found", "there is no such thing; the id is not one")
    errors = [(point_at(each["loc"][1:]), each["msg"]) for each in found]
    return Problem("malformed-request", "; ".join(f"{point[1:]}: {detail}" for point, detail in errors), errors=errors)


def _of_framework(error: HTTPException, request: Request) -> Problem:
    path, headers = request.url.path, error.headers or {}
    if error.status_code == 404:
        return Problem("not-found", f"there is nothing at {path}")
    if error.status_code == 405:
        return Problem("method-not-allowed", f"{request.method} is not known at {path}", headers=headers)
    return Problem("malformed-request", str(error.detail), headers=headers)


def _note_denial(request: Request, problem: Problem) -> None:
    """Log and count it; of the credentials, no more than the prefix of what is formed as a key."""
    metrics.DENIED.labels(problem.status).inc()
    log.warning(
        "a request was denied",
        status=problem.status,
        why=problem.detail,
        key=read_prefix(request.headers.get("authorization", "").rpartition(" ")[2]),
        origin=request.client.host[:64] if request.client else None,
        method=request.method,
        path=request.url.path[:200],
    )


def handle(app: FastAPI) -> None:
    """Answer every error of this app with a problem document."""

    async def answer(request: Request, error: Exception) -> Response:
        return as_problem(error, request).response(request.url.path)

    for kind in (
        Problem,
        UnknownCommandError,
        InvalidSubmission,
        RequestValidationError,
        HTTPException,
        ClientDisconnect,
        *LOST,
        Exception,
    ):
        app.add_exception_handler(kind, answer)
