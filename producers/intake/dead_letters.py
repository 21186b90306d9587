"""Dead letters: jobs that need a person, who replays them, or says how a call of unknown outcome ended."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Literal, TypeVar
from uuid import UUID

import orjson
from fastapi import APIRouter, Depends, Query
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from starlette.requests import Request
from starlette.responses import Response

from config.failpoints import reach
from ledger import calls, dead_letters, reading
from ledger.dead_letters import NotDeadError, OutcomeUnknownError
from ledger.reading import Filter, Job
from ledger.unique import HeldError
from producers.intake.auth import Access, Operator, Reader
from producers.intake.contract import problems
from producers.intake.cursor import Cursor, Limit
from producers.intake.jobs import Command, find_job, list_page
from producers.intake.masking import restore
from producers.intake.parsing import read_json
from producers.intake.parts import Parts, Tx, parts_of
from producers.intake.problems import Problem, not_found
from producers.intake.representation import Viewer, answer
from producers.intake.views import DeadLetterView, Jobs, ReplayedView
from producers.submission import InvalidSubmission, Moment, check_payload, find_handler, list_errors

router = APIRouter(prefix="/v1/dead-letters", tags=["dead letters"])

B = TypeVar("B", bound=BaseModel)
Reason = Annotated[str, Field(min_length=1, max_length=1000, description="for the timeline")]


class Body(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class Replay(Body):
    model_config = ConfigDict(json_schema_extra={"examples": [{"reason": "the gateway is back"}]})

    reason: Reason
    payload: dict[str, Any] | None = Field(
        None, description="instead of the job's own, which is kept; what is sent back masked stays as it was"
    )


class Resolution(Body):
    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"step": "ship", "outcome": "did_not_happen", "reason": "the carrier has no such parcel"}],
            "if": {"properties": {"outcome": {"const": "did_not_happen"}}},
            "then": {"properties": {"result": {"type": "null"}}},
        }
    )

    step: str = Field(min_length=1, max_length=200)
    outcome: Literal["happened", "did_not_happen"]
    result: Any = Field(None, description="what the call would have returned, if it happened")
    reason: Reason

    @model_validator(mode="after")
    def _has_a_result_only_if_it_happened(self) -> Resolution:
        if self.outcome == "did_not_happen" and self.result is not None:
            raise ValueError("a call that did not happen has no result")
        return self


def body_of(model: type[B]) -> Callable[[Request], Any]:
    """A dependency: the request's body, through the one parser."""

    async def read(request: Request) -> B:
        value = await read_json(request, parts_of(request).settings)
        try:
            return model.model_validate(value)
        except ValidationError as error:
            raise InvalidSubmission(list_errors(error)) from None

    return read


def takes(model: type[BaseModel]) -> dict[str, Any]:
    """The body's part of the OpenAPI document."""
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": model.model_json_schema()}}}}


@router.get("", response_model=Jobs)
def list_dead_letters(
    request: Request,
    access: Reader,
    command: Command = None,
    code: Annotated[str | None, Query(max_length=200, description="of the error")] = None,
    message: Annotated[str | None, Query(alias="message~", max_length=200, description="a part of the error's message")] = None,
    died_after: Annotated[Moment | None, Query(description="RFC 3339, with an offset")] = None,
    limit: Limit = 50,
    cursor: Cursor = None,
) -> Response:
    """Dead jobs, the newest first."""
    wanted = Filter(["dead"], command, code=code, message=message, died_after=died_after)
    return list_page(request, access, wanted, limit, cursor)


@router.get("/{job_id}", response_model=DeadLetterView)
def show_dead_letter(request: Request, access: Reader, job_id: UUID) -> Response:
    """The job, all its attempts, and the calls whose outcome is unknown."""
    parts = parts_of(request)

    def read(tx: Tx) -> Response:
        job = find_job(tx, job_id, access)
        if job.state != "dead":
            raise Problem("not-found", f"job {job_id} is no dead letter; it is {job.state}")
        viewer = Viewer(access, parts, tx)
        attempts = [viewer.attempt(attempt) for attempt in reading.attempts(tx, job_id)]
        return answer({**viewer.job(job), "attempts": attempts, "unknown_steps": calls.unknown(tx, job_id)})

    return parts.door.use_for(access, read)


@router.post(
    "/{job_id}/replay",
    status_code=202,
    response_model=ReplayedView,
    responses=problems(408, "wrong-state", "unresolved-call", "unique-held", 413, 415, "invalid", "unknown-command"),
    openapi_extra=takes(Replay),
)
def replay_dead_letter(request: Request, access: Operator, job_id: UUID, wish: Annotated[Replay, Depends(body_of(Replay))]) -> Response:
    """Queue it again: the same job, its history kept. Refused while the outcome of a call to the outside is unknown."""
    parts = parts_of(request)

    def replay(tx: Tx) -> tuple[Response, Job]:
        job = find_job(tx, job_id, access)
        payload = None if wish.payload is None else _edit(parts, job, wish.payload)
        _replay(tx, job, access, wish.reason, payload)
        access.audit(tx, job.tenant_id, "job.replay", job.id, reason=wish.reason, edited=payload is not None)
        return _replayed(tx, parts, access, job), job

    shown, job = parts.door.use_for(access, replay)
    reach("intake.after_replay")
    parts.writers.after_commit()
    parts.changes.tell(job.id, job.root_id, job.tenant_id)
    return shown


@router.post(
    "/{job_id}/resolve",
    status_code=202,
    response_model=ReplayedView,
    responses={200: {"model": DeadLetterView, "description": "It stays dead: to be replayed, or other calls are open"}}
    | problems(408, "wrong-state", "unresolved-call", "unique-held", 413, 415, "invalid", "unknown-command"),
    openapi_extra=takes(Resolution),
)
def resolve_call(request: Request, access: Operator, job_id: UUID, found: Annotated[Resolution, Depends(body_of(Resolution))]) -> Response:
    """Say how a call of unknown outcome ended. A job that was dead for nothing else (`needs_review`) goes on."""
    parts = parts_of(request)
    result = orjson.dumps(found.result).decode() if found.outcome == "happened" else None

    def resolve(tx: Tx) -> tuple[Response | None, Job]:
        job = find_job(tx, job_id, access)
        if job.state != "dead":
            raise _not_dead(job)
        happened = found.outcome == "happened"
        if not dead_letters.resolve(
            tx, job_id, [job.tenant_id], access.who, found.step, happened=happened, result=result, reason=found.reason
        ):
            open_steps = ", ".join(calls.unknown(tx, job_id)) or "none"
            raise not_found(f"step {found.step!r} of unknown outcome in job {job_id}; there are: {open_steps}")
        access.audit(tx, job.tenant_id, "job.resolve", job.id, reason=found.reason, step=found.step, outcome=found.outcome)
        if job.reason != "needs_review" or calls.unknown(tx, job_id):
            return None, job
        _replay(tx, job, access, found.reason, None)
        return _replayed(tx, parts, access, job), job

    shown, job = parts.door.use_for(access, resolve)
    parts.changes.tell(job.id, job.root_id, job.tenant_id)
    if shown is None:
        return show_dead_letter(request, access, job_id)
    parts.writers.after_commit()
    return shown


def _edit(parts: Parts, job: Job, edited: dict[str, Any]) -> str:
    """The edited payload as JSON text, checked against the command's schema."""
    payload = orjson.dumps(restore(edited, job.payload))
    check_payload(find_handler(job.command, parts.handlers), payload, "/payload")
    return payload.decode()


def _replay(tx: Tx, job: Job, access: Access, reason: str, payload: str | None) -> None:
    try:
        dead_letters.replay(tx, job.id, [job.tenant_id], access.who, reason, payload)
    except NotDeadError:
        raise _not_dead(job) from None
    except OutcomeUnknownError as error:
        raise Problem("unresolved-call", str(error), members={"steps": error.steps}) from None
    except HeldError as error:
        raise Problem("unique-held", str(error), members={"job_id": str(error.holder)}) from None


def _replayed(tx: Tx, parts: Parts, access: Access, before: Job) -> Response:
    shown = Viewer(access, parts, tx).job(find_job(tx, before.id, access))
    return answer({**shown, "expiry_dropped": before.expires_at is not None}, 202, {"location": f"/v1/jobs/{before.id}"})


def _not_dead(job: Job) -> Problem:
    return Problem("wrong-state", f"job {job.id} is not dead; nothing changed", members={"state": job.state})
