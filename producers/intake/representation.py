"""A job as clients see it, exactly as the contract says."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from email.utils import format_datetime
from typing import Any

import orjson
from starlette.requests import Request
from starlette.responses import Response

from ledger import reading
from ledger.jobs import Submission, Times
from ledger.reading import FINAL, Attempt, Event, Job, family_state
from pipelines.command import Handler
from pipelines.load import versions_of
from producers.intake.auth import Access
from producers.intake.contract import header
from producers.intake.masking import mask
from producers.intake.parts import Parts, Tx


def answer(content: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    return Response(encode(content), status, {"cache-control": "no-store", **(headers or {})}, "application/json")


def encode(content: Any) -> bytes:
    return orjson.dumps(content, option=orjson.OPT_UTC_Z)


def conditional(request: Request, content: Any, headers: Mapping[str, str]) -> Response:
    """An answer with a strong ETag, or 304 to whoever has it already."""
    body = encode(content)
    tag = f'"{hashlib.blake2b(body, digest_size=12).hexdigest()}"'
    common = {"etag": tag, "cache-control": "private, no-cache", "vary": "authorization, cookie, prefer", **headers}
    known = {part.strip().removeprefix("W/") for value in request.headers.getlist("if-none-match") for part in value.split(",")}
    if tag in known or "*" in known:
        return Response(None, 304, common)
    return Response(body, 200, common, "application/json")


def utc(moment: datetime | None) -> datetime | None:
    return None if moment is None else moment.astimezone(UTC)


class Viewer:
    """Shows jobs to one caller: payloads, results and tracebacks only to a key that has `payloads`, tenants only to the platform's."""

    def __init__(self, access: Access, parts: Parts, tx: Tx | None = None) -> None:
        """`tx` is needed for platform keys, who see more than one tenant."""
        self._payloads = access.payloads
        self._slugs = access.slugs(tx) if tx is not None else {}
        self._handlers = parts.handlers
        self._results = parts.results

    def job(self, job: Job) -> dict[str, Any]:
        shown: dict[str, Any] = {
            "id": job.id,
            "command": job.command,
            "state": job.state,
            "reason": job.reason,
            "priority": job.priority,
            "attempt": job.attempt,
            "failures": job.failures,
            "max_failures": job.max_failures,
            "labels": job.labels or {},
            "submitted_at": utc(job.submitted_at),
            "due_at": utc(job.due_at),
            "started_at": utc(job.started_at),
            "finished_at": utc(job.finished_at),
            "cancel_requested_at": utc(job.cancel_requested_at),
            "progress": job.progress,
            "result": job.result if self._payloads and not self.has_lost_its_result(job) else None,
            "result_expires_at": utc(self._results.ends_at(job.command, job.state, job.finished_at)),
            "error": _error(job),
            "root_id": job.root_id,
            "parent_id": job.parent_id,
            "family": {"state": family_state(job.family), "counts": job.family},
            "run_id": None,
            "links": _links(job),
        }
        if job.tenant_id in self._slugs:
            shown["tenant"] = self._slugs[job.tenant_id]
        if self._payloads:
            handler = self._handlers.get(job.command)
            shown["payload"] = mask(job.payload, handler)
            shown["original_payload"] = mask(job.original_payload, handler)
        return shown

    def has_lost_its_result(self, job: Job) -> bool:
        """Whether its time to live is over: from then on it is not shown, whenever upkeep takes it away."""
        expires_at = self._results.ends_at(job.command, job.state, job.finished_at)
        return expires_at is not None and expires_at < datetime.now(UTC)

    def attempt(self, attempt: Attempt) -> dict[str, Any]:
        error = attempt.error
        if error is not None:
            error = {name: error.get(name) for name in ("code", "type", "message")}
            error["traceback"] = (attempt.error or {}).get("traceback") if self._payloads else None
        return {
            "number": attempt.number,
            "worker": attempt.worker_id,
            "started_at": utc(attempt.started_at),
            "finished_at": utc(attempt.finished_at),
            "outcome": attempt.outcome,
            "error": error,
            "log": attempt.log or [],
        }


def event(event: Event) -> dict[str, Any]:
    return {
        "seq": event.seq,
        "at": utc(event.at),
        "kind": event.kind,
        "state": event.state,
        "attempt": event.attempt,
        "who": event.who,
        "data": event.data,
    }


def page(items: Sequence[Any], next_cursor: str | None = None) -> dict[str, Any]:
    return {"items": items, "next_cursor": next_cursor}


def as_submitted(wish: Submission, times: Times) -> Job:
    """A job that has just been committed, without reading it."""
    state = "scheduled" if times.due_at > times.submitted_at else "queued"
    return reading.Job(
        id=wish.id, tenant_id=wish.tenant_id, root_id=wish.id, parent_id=None, command=wish.command, queue=wish.queue, state=state,
        reason=None, priority=wish.priority, attempt=0, failures=0, max_failures=wish.max_failures, seq=1, labels=wish.labels,
        submitted_at=times.submitted_at, due_at=times.due_at, expires_at=wish.expires_at, started_at=None, finished_at=None,
        cancel_requested_at=None, progress=None, payload=orjson.loads(wish.payload), original_payload=None, result=None, error=None,
        traceparent=wish.traceparent, family={state: 1},
    )  # fmt: skip


def polling(job: Job) -> dict[str, str]:
    """When asking again is worthwhile, while the job is not final."""
    if job.state in FINAL:
        return {}
    wait = (job.due_at - datetime.now(UTC)).total_seconds() if job.state == "scheduled" else 1
    return {"retry-after": str(int(min(60, max(1, wait))))}


#: For the document.
DEPRECATION = {
    "Deprecation": header("since when this version of the command should not be used any more (RFC 9745)"),
    "Sunset": header("until when it is there (RFC 8594)"),
    "Link": header("with rel=successor-version: the latest version of a deprecated command"),
}


def deprecation(command: str, handlers: Mapping[str, Handler]) -> dict[str, str]:
    """What a submission of a deprecated version is told (RFC 9745, 8594, and 5829 for the link)."""
    if handlers[command].deprecated is None and handlers[command].sunset is None:
        return {}  # nearly all: nothing is to be made for them
    links = [f'</v1/commands/{latest}>; rel="successor-version"' for _, latest in _successors([command], handlers)]
    return _told([handlers[command]], links)


def deprecations(commands: Iterable[str], handlers: Mapping[str, Handler]) -> dict[str, str]:
    """The same of a batch: the earliest of the dates, and for each deprecated version a link that says whose successor it leads to."""
    used = sorted(commands)
    links = [
        f'</v1/commands/{latest}>; rel="successor-version"; anchor="/v1/commands/{command}"'
        for command, latest in _successors(used, handlers)
    ]
    return _told([handlers[command] for command in used], links)


def _successors(commands: Iterable[str], handlers: Mapping[str, Handler]) -> Iterator[tuple[str, str]]:
    """Each deprecated version with the latest one, if that is another."""
    for command in commands:
        if handlers[command].deprecated is not None and (latest := versions_of(command, handlers)[-1]) != command:
            yield command, latest


def _told(used: Sequence[Handler], links: Sequence[str]) -> dict[str, str]:
    told: dict[str, str] = {"link": ", ".join(links)} if links else {}
    deprecated = [handler.deprecated for handler in used if handler.deprecated is not None]
    if deprecated:
        told["deprecation"] = f"@{int(min(deprecated).timestamp())}"
    sunset = [handler.sunset for handler in used if handler.sunset is not None]
    if sunset:
        told["sunset"] = format_datetime(min(sunset).astimezone(UTC), usegmt=True)
    return told


def _error(job: Job) -> dict[str, Any] | None:
    if job.error is None:
        return None
    return {"code": job.error.get("code"), "message": job.error.get("message"), "attempt": job.error.get("attempt", job.attempt)}


def _links(job: Job) -> dict[str, str]:
    own = f"/v1/jobs/{job.id}"
    links = {"self": own, "attempts": f"{own}/attempts", "timeline": f"{own}/timeline", "family": f"{own}/family"}
    if job.state not in FINAL:
        links["cancel"] = f"{own}/cancel"
    if job.state == "dead":
        links["dead_letter"] = f"/v1/dead-letters/{job.id}"
        links["replay"] = f"/v1/dead-letters/{job.id}/replay"
    return links
