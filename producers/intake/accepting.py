"""`POST /v1/jobs`: check, submit, 202. Called past FastAPI (`express.py`), whose machinery would cost more than all the rest."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from ledger import reading
from ledger.jobs import Submission
from ledger.reading import FINAL
from producers.intake import metrics
from producers.intake.auth import SUBMIT, Access, authenticate
from producers.intake.contract import LIMITED, Responses, header, key_parameter, problems
from producers.intake.parsing import read_flag, read_json, read_key, read_traceparent
from producers.intake.parts import Parts, Tx, parts_of, tell_of
from producers.intake.problems import Problem
from producers.intake.representation import DEPRECATION, Viewer, answer, as_submitted, deprecation, polling
from producers.intake.views import ValidView
from producers.intake.waiting import Preference, read_preference, wait_for_end
from producers.intake.writing import Accepted
from producers.submission import Wish, fingerprint_of, prepare, read_wish, refuse_callbacks


async def accept_job(request: Request) -> Response:
    parts = parts_of(request)
    key = await authenticate(request, SUBMIT)
    assert key.tenant_id is not None
    await parts.limiter.charge(request.scope, key.tenant_id, key.prefix)
    preference = read_preference(request.headers)
    name = read_key(request.headers)
    body = await read_json(request, parts.settings)
    wish = prepare(
        read_wish(body),
        parts.handlers,
        key.tenant_id,
        key=name,
        fingerprint=fingerprint_of(body) if name else b"",
        who=f"key:{key.prefix}",
        traceparent=read_traceparent(request.headers),
    )
    if wish.callback is not None:
        for refusal in (await parts.door.use_aside(Access(key), lambda tx: refuse_callbacks(tx, [wish]))).values():
            raise refusal
    if read_flag(request.query_params, "validate_only"):
        return answer(_as_valid(wish))
    with parts.limiter.backlogs.admit(request.scope, wish.tenant_id):
        accepted = await parts.writers.submit(wish)
    access = Access(key)
    if accepted.times is not None:
        metrics.ACCEPTED.labels(wish.command).inc()
        tell_of(parts, wish.tenant_id, wish.id, accepted.replaced)
    told = _replayed(accepted) | deprecation(wish.command, parts.handlers)
    if preference.wait:
        return await _show_ended(request, access, accepted, preference, preference.wait, told)
    if accepted.times is None:
        return await _show_again(parts, access, accepted, told)
    job = as_submitted(wish, accepted.times)
    return _receipt(Viewer(access, parts).job(job), polling(job) | preference.applied | told)


async def _show_ended(
    request: Request, access: Access, accepted: Accepted, preference: Preference, wait: int, told: dict[str, str]
) -> Response:
    """The job when it has ended, or as it stands when the time is up."""
    try:
        viewer, job = await wait_for_end(request, access, accepted.job_id, wait)
    except Problem as problem:
        if problem.kind not in {"too-many-waiting", "unavailable", "not-found"}:
            raise
        return await _show_again(parts_of(request), access, accepted, told)  # it is accepted, whatever becomes of the waiting
    headers = polling(job) | preference.applied | told
    return _receipt(viewer.job(job), headers, 200 if job.state in FINAL else 202)


async def _show_again(parts: Parts, access: Access, accepted: Accepted, told: dict[str, str]) -> Response:
    """A repeat: the same job, as it stands now."""

    def read(tx: Tx) -> reading.Job | None:
        return reading.job(tx, accepted.job_id, access.tenants(tx))

    job = await parts.door.use_aside(access, read)
    if job is None:
        raise Problem("gone", "the job of this Idempotency-Key was kept for its time and is gone; nothing new was accepted")
    return _receipt(Viewer(access, parts).job(job), polling(job) | told)


def _as_valid(wish: Submission) -> dict[str, Any]:
    """What would be submitted."""
    now = datetime.now(UTC)
    due_at = max(now, wish.run_at or now + timedelta(seconds=wish.delay))
    return {
        "command": wish.command,
        "queue": wish.queue,
        "state": "scheduled" if due_at > now else "queued",
        "due_at": due_at,
        "expires_at": wish.expires_at,
        "priority": wish.priority,
        "max_failures": wish.max_failures,
        "labels": wish.labels or {},
    }


def _replayed(accepted: Accepted) -> dict[str, str]:
    if accepted.repeated:
        metrics.REPEATED.inc()
        return {"idempotency-replayed": "true"}
    return {"haulier-unique": "held"} if accepted.held else {}


def _receipt(shown: dict[str, Any], headers: dict[str, str], status: int = 202) -> Response:
    return answer(shown, status, {"location": f"/v1/jobs/{shown['id']}", "vary": "prefer", **headers})


def document() -> dict[str, Any]:
    """The route's part of the OpenAPI document."""
    responses: Responses = {
        "200": {
            "description": "It has ended while the answer waited for it, as `Prefer: wait` asked; or, with `validate_only`, what would be submitted",
            "headers": {
                "Location": header("the job"),
                "Idempotency-Replayed": header("true for a repeat with the same key and body"),
                "Haulier-Unique": header("held: this is the job that holds the unique key; nothing new was accepted"),
                "Preference-Applied": header("what of Prefer was honoured"),
                **DEPRECATION,
            },
            "content": {
                "application/json": {"schema": {"anyOf": [{"$ref": "#/components/schemas/JobView"}, ValidView.model_json_schema()]}}
            },
        },
        "202": {
            "description": "Accepted: the job is durably kept. With `Idempotency-Replayed: true` it was accepted before.",
            "headers": {
                "Location": header("the job"),
                "Idempotency-Replayed": header("true for a repeat with the same key and body"),
                "Haulier-Unique": header("held: this is the job that holds the unique key; nothing new was accepted"),
                "Retry-After": header("seconds until asking again is worthwhile"),
                "RateLimit": header("of a limited tenant: what is left of each quota"),
                "RateLimit-Policy": header("of a limited tenant: the quotas; one unit is one job"),
                "Preference-Applied": header("what of Prefer was honoured"),
                **DEPRECATION,
            },
            "content": {"application/json": {"schema": {"$ref": "#/components/schemas/JobView"}}},
        },
        **{
            str(status): problem
            for status, problem in problems(
                408, "key-in-flight", "unique-held", 410, 413, 415, "invalid", "key-reused", "unknown-command", *LIMITED
            ).items()
        },
    }
    operation: dict[str, Any] = {
        "operationId": "accept_job",
        "summary": "Submit a job",
        "description": "Checked, then durably kept; then carried out exactly once. What is repeated with its key is the same job.",
        "tags": ["jobs"],
        "x-roles": sorted(SUBMIT),
        "parameters": [
            key_parameter("the caller's name for this wish, kept for 7 days: the same key and body are the same job. Quoted or not."),
            {
                "name": "Prefer",
                "in": "header",
                "required": False,
                "description": "`wait=N` (RFC 7240): hold the answer for up to N seconds, at most 60, until the job has ended. `respond-async`.",
                "schema": {"type": "string"},
            },
            {
                "name": "validate_only",
                "in": "query",
                "required": False,
                "description": "check everything, store nothing. Keys are not looked at: neither Idempotency-Key nor `unique`",
                "schema": {"type": "boolean", "default": False},
            },
        ],
        "requestBody": {"required": True, "content": {"application/json": {"schema": Wish.model_json_schema()}}},
        "responses": responses,
    }
    return {"post": operation}
