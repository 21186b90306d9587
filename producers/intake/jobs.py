"""What clients see of their jobs, and how they cancel one."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Annotated, Any, Literal
from uuid import UUID

from fastapi import APIRouter, Depends, Query
from starlette.requests import Request
from starlette.responses import Response

from ledger import jobs, reading
from ledger.reading import FINAL, Filter, Job
from pipelines.command import canonical
from producers.intake import final_jobs
from producers.intake.auth import Access, Canceller, Reader, Watcher
from producers.intake.contract import header, problems
from producers.intake.cursor import Cursor, Limit, cut, read_cursor
from producers.intake.parts import Tx, parts_of
from producers.intake.problems import Problem, absent_job, not_found
from producers.intake.representation import Viewer, answer, conditional, event, page, polling
from producers.intake.views import Attempts, Events, Jobs, JobView, State
from producers.intake.waiting import read_preference, show_when_changed
from producers.submission import YEAR, Moment

router = APIRouter(prefix="/v1/jobs", tags=["jobs"])

MOST_IDS = 500
Command = Annotated[str | None, Query(max_length=200, description="a command's name; without a version it is version 1")]
_ID = "[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}"
IDS = f"^{_ID}(,{_ID}){{0,{MOST_IDS - 1}}}$"


def read_labels(request: Request) -> dict[str, str] | None:
    """`label.source=web` in the query."""
    labels = {name.removeprefix("label."): value for name, value in request.query_params.items() if name.startswith("label.")}
    return labels or None


def find_job(tx: Tx, job_id: UUID, access: Access) -> Job:
    """Raises Problem `not-found`, for another tenant's job too and one that a watch token does not open, or `gone` for what is older than retention."""
    job = reading.job(tx, job_id, access.tenants(tx))
    if job is None or not access.sees(tx, job):
        raise absent_job(job_id, access.retention_days)
    return job


LABEL = {
    "name": "label.{name}",
    "in": "query",
    "required": False,
    "description": "the value of a label, as label.source=web; may be given for several labels",
    "schema": {"type": "string"},
}


def read_filter(
    labels: Annotated[dict[str, str] | None, Depends(read_labels)],
    state: Annotated[list[State] | None, Query(description="may be given more than once")] = None,
    command: Command = None,
    submitted_after: Annotated[Moment | None, Query(description="RFC 3339, with an offset")] = None,
    submitted_before: Annotated[Moment | None, Query(description="RFC 3339, with an offset")] = None,
) -> Filter:
    return Filter(state, command, labels, submitted_after, submitted_before)


@router.get("", response_model=Jobs, openapi_extra={"parameters": [LABEL]})
def list_jobs(
    request: Request,
    access: Reader,
    wanted: Annotated[Filter, Depends(read_filter)],
    limit: Limit = 50,
    cursor: Cursor = None,
    ids: Annotated[str | None, Query(pattern=IDS, description="up to 500, with commas between; instead of a filter")] = None,
) -> Response:
    """The newest first; with `ids`, those, in the order asked for."""
    if ids is not None:
        return _list_named(request, access, read_ids(ids))
    return list_page(request, access, wanted, limit, cursor)


def list_page(request: Request, access: Access, wanted: Filter, limit: int, cursor: str | None) -> Response:
    """One page of the jobs that a filter lets through."""
    parts = parts_of(request)
    wanted = replace(wanted, command=canonical(wanted.command) if wanted.command else None)
    about = f"{access.wanted} {wanted}"
    timeouts = (handler.timeout for handler in parts.handlers.values())
    here = replace(wanted, before=read_cursor(cursor, about), longest_run=min(YEAR, timedelta(seconds=max(timeouts, default=0))))

    def read(tx: Tx) -> Response:
        viewer = Viewer(access, parts, tx)
        found, next_cursor = cut(reading.list_jobs(tx, access.tenants(tx), here, limit + 1), limit, about, lambda job: job.id)
        return answer(page([viewer.job(job) for job in found], next_cursor))

    return parts.door.use_for(access, read)


def _list_named(request: Request, access: Access, ids: list[UUID]) -> Response:
    parts = parts_of(request)

    def read(tx: Tx) -> Response:
        viewer = Viewer(access, parts, tx)
        found = {job.id: job for job in reading.jobs(tx, ids, access.tenants(tx))}
        return answer(page([viewer.job(found[job_id]) for job_id in ids if job_id in found]))

    return parts.door.use_for(access, read)


def read_ids(text: str) -> list[UUID]:
    """Raises Problem for what is no list of ids."""
    try:
        ids = [UUID(part.strip()) for part in text.split(",")]
    except ValueError:
        raise Problem("malformed-request", "ids must be job ids with commas between them") from None
    if len(ids) > MOST_IDS:
        raise Problem("malformed-request", f"ids names at most {MOST_IDS} jobs, got {len(ids)}")
    return list(dict.fromkeys(ids))


PREFER = {
    "name": "Prefer",
    "in": "header",
    "required": False,
    "description": "`wait=N` (RFC 7240): hold the answer for up to N seconds, at most 60",
    "schema": {"type": "string"},
}
Until = Annotated[Literal["family"] | None, Query(description="with Prefer: wait, wait for the end of the family and not only the job's")]


@router.get(
    "/{job_id}",
    response_model=JobView,
    responses={
        200: {
            "headers": {
                "ETag": header("strong"),
                "Retry-After": header("seconds until asking again is worthwhile, while not final"),
                "Preference-Applied": header("wait=N, as far as it was honoured; at most 60"),
            }
        },
        304: {
            "description": "It is as If-None-Match says",
            "headers": {"ETag": header("strong"), "Preference-Applied": header("as in 200")},
        },
        **problems("too-many-waiting"),
    },
    openapi_extra={"parameters": [PREFER]},
    operation_id="show_job",
)
async def show_job(request: Request, access: Watcher, job_id: UUID, until: Until = None) -> Response:
    """As it stands. Poll with If-None-Match; an answer of 304 has no body.

    With `Prefer: wait=N` the answer waits, up to N seconds, until the state or progress differs from what If-None-Match names, or the job
    has ended (with `until=family`: until all that it submitted has ended too).
    """
    wait = read_preference(request.headers).wait
    if wait is not None:
        return await show_when_changed(request, access, job_id, wait, whole=until is not None)
    parts = parts_of(request)
    kept = await final_jobs.find(parts, access, job_id)
    if kept is not None:
        return conditional(request, Viewer(access, parts).job(kept), polling(kept))

    def read(tx: Tx) -> tuple[Viewer, Job]:
        return Viewer(access, parts, tx), find_job(tx, job_id, access)

    viewer, job = await parts.door.use_aside(access, read)
    await final_jobs.keep(parts, job)
    return conditional(request, viewer.job(job), polling(job))


@router.get(
    "/{job_id}/result",
    response_model=Any,
    responses={
        200: {"description": "What the handler returned; null for keys without `payloads`", "headers": {"ETag": header("strong")}},
        304: {"description": "It is as If-None-Match says", "headers": {"ETag": header("strong")}},
        **problems("wrong-state"),
    },
    operation_id="show_result",
)
def show_result(request: Request, access: Reader, job_id: UUID) -> Response:
    """The result alone. 409 while the job has not ended, 404 when it ended without one, 410 after the result's time to live."""
    parts = parts_of(request)

    def read(tx: Tx) -> Response:
        job = find_job(tx, job_id, access)
        if job.state not in FINAL:
            raise Problem(
                "wrong-state", f"job {job_id} is {job.state}; it has no result yet", headers=polling(job), members={"state": job.state}
            )
        if job.state != "succeeded":
            raise not_found(f"result of job {job_id}: it ended {job.state}")
        viewer = Viewer(access, parts, tx)
        if viewer.has_lost_its_result(job):
            raise Problem("gone", f"the result of job {job_id} was kept for its time and is gone")
        return conditional(request, viewer.job(job)["result"], {})

    return parts.door.use_for(access, read)


@router.get("/{job_id}/attempts", response_model=Attempts)
def list_attempts(request: Request, access: Reader, job_id: UUID) -> Response:
    """In order; the one that runs now comes last, without an end."""
    parts = parts_of(request)

    def read(tx: Tx) -> Response:
        find_job(tx, job_id, access)
        viewer = Viewer(access, parts)
        return answer(page([viewer.attempt(attempt) for attempt in reading.attempts(tx, job_id)]))

    return parts.door.use_for(access, read)


@router.get("/{job_id}/timeline", response_model=Events)
def show_timeline(request: Request, access: Watcher, job_id: UUID) -> Response:
    """Every change of state, gapless, with who caused it."""

    def read(tx: Tx) -> Response:
        find_job(tx, job_id, access)
        return answer(page([event(each) for each in reading.timeline(tx, job_id)]))

    return parts_of(request).door.use_for(access, read)


@router.get("/{job_id}/family", response_model=Jobs)
def show_family(request: Request, access: Watcher, job_id: UUID, limit: Limit = 500) -> Response:
    """The job and all that it and its follow-ups submitted, the oldest first."""
    parts = parts_of(request)

    def read(tx: Tx) -> Response:
        find_job(tx, job_id, access)
        viewer = Viewer(access, parts, tx)
        return answer(page([viewer.job(job) for job in reading.family(tx, job_id, access.tenants(tx), limit)]))

    return parts.door.use_for(access, read)


@router.post(
    "/{job_id}/cancel",
    response_model=JobView,
    responses={202: {"model": JobView, "description": "It runs; its handler was asked to stop"}, **problems("wrong-state")},
)
def cancel_job(request: Request, access: Canceller, job_id: UUID) -> Response:
    """What has not begun is cancelled at once (200); what runs is asked to stop (202)."""
    parts = parts_of(request)

    def cancel(tx: Tx) -> tuple[Response, Job]:
        job = _cancel(tx, find_job(tx, job_id, access), access)
        access.audit(tx, job.tenant_id, "job.cancel", job.id)
        return answer(Viewer(access, parts, tx).job(job), 200 if job.state in FINAL else 202), job

    shown, job = parts.door.use_for(access, cancel)
    parts.changes.tell(job.id, job.root_id, job.tenant_id)
    return shown


def _cancel(tx: Tx, job: Job, access: Access, tries: int = 3) -> Job:
    """The job as it stands then. A job may begin, or be handed back, between the two statements: then the other one applies."""
    tenants = [job.tenant_id]
    done = jobs.cancel(tx, job.id, tenants, access.who) or jobs.request_cancel(tx, job.id, tenants, access.who)
    now = find_job(tx, job.id, access)
    if done or (now.cancel_requested_at is not None and now.state not in FINAL):
        return now
    if now.state in FINAL or tries == 1:
        raise Problem("wrong-state", f"job {job.id} is {now.state}; nothing changed", members={"state": now.state})
    return _cancel(tx, now, access, tries - 1)
