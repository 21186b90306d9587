"""Answers that wait: `Prefer: wait=N` (RFC 7240) holds one until the job has changed, or ended, or the time is up."""

from __future__ import annotations

import asyncio
import contextlib
import re
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from uuid import UUID

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import Response

from ledger import reading
from ledger.reading import FINAL, Job, family_state
from producers.intake.auth import KEY_KEEPS, READ, WATCH, Access, authenticate
from producers.intake.hub import Waiter
from producers.intake.parts import Tx, parts_of
from producers.intake.problems import Problem, absent_job
from producers.intake.representation import Viewer, conditional, polling

#: Seconds that a request may wait at most.
LONGEST = 60

_PREFERENCE = re.compile(r'\s*([!#$%&\'*+.^_`|~0-9A-Za-z-]+)\s*(?:=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s";,]*)))?\s*')


@dataclass(frozen=True, slots=True)
class Preference:
    """What of `Prefer` is known here. `wait`: seconds, None when it was not asked for."""

    wait: int | None = None
    respond_async: bool = False

    @property
    def applied(self) -> dict[str, str]:
        """The header that says which was honoured."""
        known = (["respond-async"] if self.respond_async else []) + ([f"wait={self.wait}"] if self.wait is not None else [])
        return {"preference-applied": ", ".join(known)} if known else {}


def read_preference(headers: Headers) -> Preference:
    """Raises Problem for a wait that is no number of seconds; what is unknown is ignored, as the standard asks."""
    if "prefer" not in headers:  # nearly all
        return Preference()
    known: dict[str, str] = {}
    for text in _split(",".join(headers.getlist("prefer"))):
        found = _PREFERENCE.match(text)
        if found:
            known.setdefault(found[1].lower(), found[2] if found[2] is not None else found[3] or "")
    wait = known.get("wait")
    if wait is not None and not re.fullmatch(r"[0-9]{1,9}", wait):
        raise Problem("malformed-request", f"Prefer: wait takes a whole number of seconds, as wait=20, got {wait[:100]!r}")
    return Preference(None if wait is None else min(int(wait), LONGEST), "respond-async" in known)


def _split(text: str) -> list[str]:
    """At commas that are not within quotes."""
    return re.findall(r'(?:[^,"]|"(?:[^"\\]|\\.)*"?)+', text)


async def show_when_changed(request: Request, access: Access, job_id: UUID, wait: int, *, whole: bool) -> Response:
    """The job, as soon as its state or progress differs from what If-None-Match names, or it has (`whole`: its family has) ended."""
    applied = {"preference-applied": f"wait={wait}"}
    only_changed = "if-none-match" in request.headers

    async with _waiting(request, access, job_id, whole=whole) as (waiter, viewer, job):

        def show(job: Job) -> Response:
            return conditional(request, viewer.job(job), {**polling(job), **applied})

        def is_answer(now: Job) -> bool:
            if _has_ended(now, whole=whole):
                return True
            # Not the tag alone: the numbers of a large family change all the time, and are no answer to who waits for the job.
            return only_changed and (now is job or (now.seq, now.progress) != (job.seq, job.progress)) and show(now).status_code == 200

        began = time.monotonic()
        answer = show(await _wait(request, waiter, job, wait, is_answer))
        await _recheck(request, began)
        return answer


async def wait_for_end(request: Request, access: Access, job_id: UUID, wait: int) -> tuple[Viewer, Job]:
    """The job when it has ended, or when the time is up. Raises Problem `not-found`, and when one waiter more is too many."""
    async with _waiting(request, access, job_id, whole=False) as (waiter, viewer, job):
        began = time.monotonic()
        now = await _wait(request, waiter, job, wait, lambda now: _has_ended(now, whole=False))
        try:
            await _recheck(request, began)
        except Problem:
            return viewer, job  # it is accepted all the same, and this much the key was good for
        return viewer, now


async def _recheck(request: Request, began: float) -> None:
    """A key that was revoked meanwhile sees nothing more. Raises Problem."""
    if time.monotonic() - began > KEY_KEEPS:
        await authenticate(request, READ | WATCH)


@contextlib.asynccontextmanager
async def _waiting(request: Request, access: Access, job_id: UUID, *, whole: bool) -> AsyncIterator[tuple[Waiter, Viewer, Job]]:
    """A waiter, and the job as it stood after that was made."""
    parts = parts_of(request)

    def read(tx: Tx) -> tuple[Viewer, Job]:
        job = reading.job(tx, job_id, access.tenants(tx))
        if job is None or not access.sees(tx, job):
            raise absent_job(job_id, access.retention_days)
        return Viewer(access, parts, tx), job

    request.scope["held"] = True
    with parts.hub.admit(access.key.tenant_id), parts.hub.waiting(job_id, whole=whole) as waiter:
        viewer, job = await parts.door.use_aside(access, read)
        waiter.arm(job)
        yield waiter, viewer, job


async def _wait(request: Request, waiter: Waiter, job: Job, seconds: float, is_answer: Callable[[Job], bool]) -> Job:
    """The first that is an answer, or the job as it stands when the time is up."""
    if seconds == 0 or is_answer(job):
        return job
    gone = asyncio.create_task(_leave(request, waiter))
    now = job
    try:
        async with asyncio.timeout(seconds):
            while not is_answer(now := await waiter.next()):
                pass
    except TimeoutError:
        if not waiter.is_dismissed:
            now = await waiter.look() or now
    finally:
        gone.cancel()
    return now


async def _leave(request: Request, waiter: Waiter) -> None:
    """The client has gone: nobody waits any more."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
    waiter.dismiss()


def _has_ended(job: Job, *, whole: bool) -> bool:
    return job.state in FINAL and (not whole or family_state(job.family) != "active")
