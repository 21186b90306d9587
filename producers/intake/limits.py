"""`/v1/limits`: what a tenant may take, seen by its admins, granted by the platform, tightened by either."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header
from pydantic import ConfigDict, Field
from starlette.requests import Request
from starlette.responses import Response

from ledger import limits
from ledger.limits import Kept
from producers.intake.auth import Administrator
from producers.intake.contract import header, problems
from producers.intake.dead_letters import Body, body_of, takes
from producers.intake.limiting import Policy, Rate
from producers.intake.parts import Parts, Tx, parts_of
from producers.intake.problems import Problem
from producers.intake.representation import answer
from producers.intake.views import LimitsView
from producers.submission import WHOLE

router = APIRouter(prefix="/v1", tags=["tenants and keys"])

ETAG = {"headers": {"ETag": header("for If-Match of a change")}}


class RateWish(Body):
    rate: float = Field(gt=0, le=100_000, allow_inf_nan=False, description="jobs a second, on average")
    burst: Annotated[int, Field(ge=1, le=1_000_000), WHOLE] = Field(description="jobs at once, after a rest")


class LimitsWish(Body):
    """What is left out or null is not limited here."""

    model_config = ConfigDict(
        title="Limits", json_schema_extra={"examples": [{"submissions": {"rate": 50, "burst": 100}, "open_jobs": 100_000}]}
    )

    submissions: RateWish | None = Field(None, description="of the whole tenant")
    each_key: RateWish | None = Field(None, description="of each key of the tenant by itself")
    open_jobs: Annotated[int, Field(ge=1, le=1_000_000_000), WHOLE] | None = Field(None, description="jobs that wait or run at a time")


@router.get("/limits", response_model=LimitsView, responses={200: ETAG})
def show_limits(request: Request, access: Administrator) -> Response:
    """What was granted, what the tenant set for itself, and what holds: the tighter of the two."""
    parts = parts_of(request)
    return parts.door.use_for(access, lambda tx: _show(parts, limits.find(tx, access.tenant_id(tx))))


@router.put(
    "/limits",
    response_model=LimitsView,
    responses={200: ETAG, **problems(408, 412, 413, 415, "invalid", 428)},
    openapi_extra=takes(LimitsWish),
)
def change_limits(
    request: Request,
    access: Administrator,
    wish: Annotated[LimitsWish, Depends(body_of(LimitsWish))],
    if_match: Annotated[str | None, Header(max_length=200, description="the ETag of what is to be replaced; required")] = None,
) -> Response:
    """Replace what was granted (a platform key, with ?tenant=<slug>) or what the tenant set for itself (an admin). It holds within seconds."""
    parts = parts_of(request)
    wanted = wish.model_dump(exclude_none=True)

    def change(tx: Tx) -> Response:
        tenant_id = access.tenant_id(tx)
        before = limits.find(tx, tenant_id)
        _check(if_match, before)
        after = before._replace(granted=wanted) if access.key.tenant_id is None else before._replace(own=wanted)
        if not limits.put(tx, tenant_id, after):
            raise _changed()
        access.audit(tx, tenant_id, "limits.change", access.wanted or access.key.tenant, before=before._asdict(), after=after._asdict())
        return _show(parts, limits.find(tx, tenant_id))

    return parts.door.use_for(access, change)


def _check(if_match: str | None, kept: Kept) -> None:
    if if_match is None:
        raise Problem("precondition-required", "a change names the state that it replaces: send the ETag of GET /v1/limits as If-Match")
    if if_match.strip() not in {"*", _tag(kept)}:
        raise _changed()


def _changed() -> Problem:
    return Problem("precondition-failed", "somebody else has changed it since; nothing changed, look again")


def _tag(kept: Kept) -> str:
    return f'"limits-{kept.version}"'


def _show(parts: Parts, kept: Kept) -> Response:
    default = parts.settings.default_limits()
    granted = {**default, **kept.granted}
    holds = Policy.of(kept, default)
    shown = {"granted": _complete(granted), "own": _complete(kept.own), "holds": _complete(_plain(holds))}
    return answer(shown, headers={"etag": _tag(kept)})


def _plain(policy: Policy) -> dict[str, Any]:
    return {name: value._asdict() if isinstance(value, Rate) else value for name, value in policy._asdict().items()}


def _complete(given: dict[str, Any]) -> dict[str, Any]:
    return {name: given.get(name) for name in ("submissions", "each_key", "open_jobs")}
