"""Watch tokens over HTTP: made by whoever may read the job, for whoever may see nothing but that job and its family."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Depends
from pydantic import ConfigDict, Field
from starlette.requests import Request
from starlette.responses import Response

from ledger import tokens
from producers.intake.auth import COOKIE, WATCH, Access, Reader, may, read_bearer, read_cookie
from producers.intake.contract import header, problems
from producers.intake.dead_letters import Body, body_of
from producers.intake.jobs import find_job
from producers.intake.parts import Tx, parts_of
from producers.intake.problems import Problem
from producers.intake.representation import answer
from producers.intake.tokens import Claims, expiry, sign
from producers.intake.views import WatchTokenView

router = APIRouter(prefix="/v1/jobs", tags=["jobs"])

#: Seconds.
LIFE = 900
LONGEST_LIFE = 86_400


class WantedToken(Body):
    model_config = ConfigDict(json_schema_extra={"examples": [{"expires_in": 600}]})

    expires_in: float = Field(LIFE, ge=10, le=LONGEST_LIFE, description="seconds")
    payloads: bool = Field(False, description="whether it shows payloads and results; takes a key that does")


async def read_wanted(request: Request) -> WantedToken:
    """The body may be left out."""
    sent = request.headers.get("content-length", "0") != "0" or "transfer-encoding" in request.headers
    return await body_of(WantedToken)(request) if sent else WantedToken()  # pyright: ignore[reportCallIssue]


@router.post(
    "/{job_id}/watch-token",
    status_code=201,
    response_model=WatchTokenView,
    responses=problems(408, 413, 415, 422),
    openapi_extra={"requestBody": {"required": False, "content": {"application/json": {"schema": WantedToken.model_json_schema()}}}},
)
def make_watch_token(request: Request, access: Reader, job_id: UUID, wanted: Annotated[WantedToken, Depends(read_wanted)]) -> Response:
    """A short-lived token that only reads this job and its family, for a browser. Send it as a bearer, never in a URL.

    It dies with the key that made it.
    """
    if wanted.payloads and not access.payloads:
        raise Problem("forbidden", "this key shows no payloads, and no more does a token of its own; leave `payloads` out")

    door = parts_of(request).door
    secret = door.use(tokens.list_secrets)[0]

    def make(tx: Tx) -> Response:
        job = find_job(tx, job_id, access)
        claims = Claims(job.id, job.tenant_id, access.key.prefix, wanted.payloads, expiry(wanted.expires_in))
        token = sign(claims, secret)
        return answer({"token": token, "job_id": job.id, "expires_at": claims.expires_at, "payloads": claims.payloads}, 201)

    return door.use_for(access, make)


@router.post(
    "/{job_id}/watch-cookie",
    status_code=204,
    response_class=Response,
    responses={204: {"headers": {"Set-Cookie": header("the token, for this job's routes, out of reach of scripts")}}},
)
def set_watch_cookie(request: Request, access: Annotated[Access, Depends(may(WATCH))], job_id: UUID) -> Response:
    """Keep the watch token of this request in a cookie, for EventSource, which cannot send a bearer.

    The cookie `haulier_watch` is HttpOnly, Secure and SameSite=Strict, for the routes of this job alone. It only ever reads.
    """
    parts_of(request).door.use_for(access, lambda tx: find_job(tx, job_id, access))
    assert access.key.expires_at is not None
    response = Response(None, 204, {"cache-control": "no-store"})
    response.set_cookie(
        COOKIE,
        read_bearer(request) or read_cookie(request) or "",
        max_age=max(0, int((access.key.expires_at - datetime.now(UTC)).total_seconds())),
        path=f"/v1/jobs/{job_id}",
        secure=True,
        httponly=True,
        samesite="strict",
    )
    return response
