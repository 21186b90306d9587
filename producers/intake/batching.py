"""`POST /v1/jobs/batch`: read, check and write up to 10,000 submissions as they arrive, a set at a time.

What is kept of a batch is the set under way, the two before it that are being written, and a short answer for each item.
"""

from __future__ import annotations

import asyncio
import contextlib
import pickle
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import replace
from typing import IO
from uuid import UUID

import orjson
from starlette.requests import Request
from starlette.responses import Response

from config.ids import uuid7
from ledger import batches
from ledger.batches import Batch, BatchReusedError
from ledger.jobs import Submission
from producers.intake import metrics
from producers.intake.auth import SUBMIT, Access, authenticate
from producers.intake.parsing import read_flag, read_key, read_traceparent
from producers.intake.parts import Tx, parts_of, tell_of
from producers.intake.problems import LOST, Problem, as_problem, unavailable
from producers.intake.receiving import SET_BYTES, Receiving, items, reused, splitter_of
from producers.intake.representation import answer, deprecations
from producers.intake.splitting import BrokenError
from producers.intake.submitting import key_taken, unique_held
from producers.intake.writing import Accepted, Answer, KeyTaken, Part, UniqueHeld, write_part
from producers.submission import refuse_callbacks

#: Items in one set.
SET_ITEMS = 500
#: Batches that one intake receives at a time; each may hold three sets.
MOST_BATCHES = 64
#: Errors of an atomic batch that are told.
MOST_ERRORS = 100


async def accept_batch(request: Request) -> Response:
    parts = parts_of(request)
    key = await authenticate(request, SUBMIT)
    atomic = read_flag(request.query_params, "atomic")
    name = read_key(request.headers)
    splitter = splitter_of(request, parts.settings)
    tenant_id = key.tenant_id
    assert tenant_id is not None
    access = Access(key)
    known = await parts.door.use_aside(access, lambda tx: batches.find(tx, tenant_id, name)) if name else None
    if known is not None and known.atomic != atomic:
        raise reused()
    batch = Batch(tenant_id, known.id if known else uuid7(), name, atomic, f"key:{key.prefix}")
    most = SET_ITEMS if atomic else parts.limiter.policy(tenant_id).set_size(SET_ITEMS)
    receiving = Receiving(request, parts, access, batch, known, splitter, read_traceparent(request.headers), most)
    sets = parts.writers.sets
    if sets.receiving >= MOST_BATCHES:
        raise unavailable("too many batches are being received; nothing was accepted")
    with sets.receive():
        return await (_accept_all_or_none(receiving) if atomic else _accept_each(receiving))


async def _accept_each(receiving: Receiving) -> Response:
    """Item by item: what is refused does not touch the others, and what was written before the body breaks stands."""
    stopped: Problem | None = None
    try:
        async for raw in items(receiving):
            problem = receiving.add(raw)
            receiving.answers.append(b"" if problem is None else _refusal(receiving, problem))
            if receiving.is_full() and not await _hand_over(receiving, receiving.take()):
                break
    except (Problem, BrokenError, BatchReusedError) as error:
        stopped = _stop(error)
    finally:
        await receiving.settle()
    if (receiving.wishes or (receiving.items and stopped is None)) and not receiving.failed:
        await _hand_over(receiving, receiving.take(last=stopped is None))
        await receiving.settle()
    stopped = receiving.failed or stopped
    if stopped is None and not receiving.answers:
        raise _empty()
    if stopped is not None and (receiving.accepted == 0 or (stopped.kind == "key-reused" and receiving.new == 0)):
        raise stopped
    return _told(receiving, stopped)


async def _hand_over(receiving: Receiving, part: Part) -> bool:
    """Have a set written, once those before it are: meanwhile, the next is read, and no more. False if one of them was not."""
    if receiving.earlier is not None:
        await receiving.earlier
    receiving.earlier = receiving.writing
    if receiving.failed is None:
        receiving.writing = asyncio.create_task(_write_behind(receiving.writing, receiving, part))
    return receiving.failed is None


async def _write_behind(before: asyncio.Task[None] | None, receiving: Receiving, part: Part) -> None:
    if before is not None:
        await before
    if receiving.failed is None:
        await _write(receiving, part)


async def _write(receiving: Receiving, part: Part) -> None:
    batch = receiving.batch
    try:
        part, refused = await _check_callbacks(receiving, part)
        there = receiving.jobs_of([part.start])
        async with _within_limits(receiving, sum(wish is not None for wish in part.wishes) - there):
            batch_id, answers = await receiving.parts.writers.sets.submit(lambda tx: write_part(tx, batch, part))
    except (Problem, BatchReusedError) as error:
        receiving.failed = error if isinstance(error, Problem) else receiving.meets_another(part.start)
        receiving.whole = part.start
        return
    receiving.batch = replace(batch, id=batch_id)
    _count(receiving, part, answers)
    for place, problem in refused:
        receiving.answers[place] = _refusal(receiving, problem)
    for place, (wish, each) in enumerate(zip(part.wishes, answers, strict=True), start=part.start):
        if each is not None:
            receiving.answers[place] = _result(receiving, wish, each)


async def _check_callbacks(receiving: Receiving, part: Part) -> tuple[Part, list[tuple[int, Problem]]]:
    """The set without those items that call back what is no webhook of the tenant's, and what is said of these. One look a set, if any asks."""
    wishes = [wish for wish in part.wishes if wish is not None and wish.callback is not None]
    if not wishes:
        return part, []
    try:
        refused = await receiving.parts.door.use_aside(receiving.access, lambda tx: refuse_callbacks(tx, wishes))
    except LOST:
        raise unavailable() from None  # nothing of this set was written; what was written before stands
    problems = [
        (place, as_problem(refused[wish.id], receiving.request))
        for place, wish in enumerate(part.wishes, start=part.start)
        if wish is not None and wish.id in refused
    ]
    return replace(part, wishes=[None if wish is None or wish.id in refused else wish for wish in part.wishes]), problems


@contextlib.asynccontextmanager
async def _within_limits(receiving: Receiving, number: int) -> AsyncIterator[None]:
    """Around the writing of so many jobs. Raises Problem `rate-limited` or `backlog-full`."""
    limiter, batch, scope = receiving.parts.limiter, receiving.batch, receiving.request.scope
    if number > 0:
        await limiter.charge(scope, batch.tenant_id, (batch.who or "").removeprefix("key:"), number)
        with limiter.backlogs.admit(scope, batch.tenant_id, number):
            yield
    else:
        yield


def _count(receiving: Receiving, part: Part, answers: Sequence[Answer | None]) -> None:
    new = list(_new(part, answers))
    receiving.accepted += sum(isinstance(each, Accepted) for each in answers)
    receiving.new += len(new)
    receiving.used.update(_used(part, answers))
    for command, number in Counter(wish.command for wish in new).items():
        metrics.ACCEPTED.labels(command).inc(number)
    if new:
        metrics.SET_SIZE.observe(len(new))
        # Whoever follows the tenant then sees all that is new.
        tell_of(receiving.parts, new[-1].tenant_id, new[-1].id, *_replaced(answers))


def _new(part: Part, answers: Sequence[Answer | None]) -> Iterator[Submission]:
    for wish, each in zip(part.wishes, answers, strict=True):
        if wish is not None and isinstance(each, Accepted) and each.job_id == wish.id:
            yield wish


def _replaced(answers: Sequence[Answer | None]) -> list[UUID]:
    """The jobs that were cancelled for new ones."""
    return [each.replaced for each in answers if isinstance(each, Accepted) and each.replaced is not None]


def _used(part: Part, answers: Sequence[Answer | None]) -> set[str]:
    """The commands of what was accepted, or had been before."""
    return {wish.command for wish, each in zip(part.wishes, answers, strict=True) if wish is not None and isinstance(each, Accepted)}


async def _accept_all_or_none(receiving: Receiving) -> Response:
    """Checked items wait in a file, if they are many, until all are there; then all are written in one transaction."""
    errors: list[tuple[str, str]] = []
    spooled = 0
    with tempfile.SpooledTemporaryFile(max_size=SET_BYTES) as file:
        try:
            async for raw in items(receiving):
                if len(errors) >= MOST_ERRORS:
                    continue
                problem = receiving.add(raw)
                if problem is not None:
                    errors += _at(receiving.items - 1, problem)
                if receiving.is_full():
                    errors += await _spool(receiving, receiving.take(), file)
                    spooled += 1
        except (BrokenError, BatchReusedError) as error:
            raise _stop(error) from None
        if not receiving.items:
            raise _empty()
        errors += await _spool(receiving, receiving.take(last=True), file)
        if errors:
            raise _none(errors)
        return await _write_all(receiving, file, spooled + 1)


async def _spool(receiving: Receiving, part: Part, file: IO[bytes]) -> list[tuple[str, str]]:
    """Put a set away. Returns what is wrong with the callbacks of its items; a batch that is there already is a repeat, whatever became of these."""
    _, refused = (part, []) if receiving.known else await _check_callbacks(receiving, part)
    await asyncio.to_thread(pickle.dump, part, file, pickle.HIGHEST_PROTOCOL)
    return [error for place, problem in refused for error in _at(place, problem)]


async def _write_all(receiving: Receiving, file: IO[bytes], parts: int) -> Response:
    batch = receiving.batch

    def write(tx: Tx) -> tuple[UUID, list[UUID], list[UUID], Counter[str]]:
        file.seek(0)
        ids: list[UUID] = []
        replaced: list[UUID] = []
        new: Counter[str] = Counter()
        batch_id = batch.id
        for _ in range(parts):
            part: Part = pickle.load(file)  # noqa: S301  our own, and nameless on the disk
            batch_id, answers = write_part(tx, batch, part)
            ids += _all_of(part, answers)
            replaced += _replaced(answers)
            new.update(wish.command for wish in _new(part, answers))
            receiving.used.update(_used(part, answers))
        return batch_id, ids, replaced, new

    try:
        async with _within_limits(receiving, receiving.items - receiving.jobs_of(receiving.known.sets if receiving.known else ())):
            batch_id, ids, replaced, new = await receiving.parts.writers.sets.submit(write, sets=parts)
    except BatchReusedError as error:
        raise _stop(error) from None
    for command, number in new.items():
        metrics.ACCEPTED.labels(command).inc(number)
    if new:
        tell_of(receiving.parts, batch.tenant_id, ids[-1], *replaced)
    headers = {"location": f"/v1/batches/{batch_id}"} | ({} if new else {"idempotency-replayed": "true"}) | _deprecations(receiving)
    return answer({"batch_id": batch_id, "ids": ids}, 202, headers)


def _all_of(part: Part, answers: Sequence[Answer | None]) -> list[UUID]:
    """The jobs of a set. Raises Problem if one of them was refused: then none may stay."""
    errors: list[tuple[str, str]] = []
    ids: list[UUID] = []
    for place, (wish, each) in enumerate(zip(part.wishes, answers, strict=True), start=part.start):
        if isinstance(each, Accepted):
            ids.append(each.job_id)
        else:
            assert wish is not None
            assert each is not None
            errors += _at(place, _refused(wish, each))
    if errors:
        raise _none(errors)
    return ids


def _at(place: int, problem: Problem) -> list[tuple[str, str]]:
    """An item's errors, as they are called from the batch."""
    return [(f"/{place}{pointer}", detail) for pointer, detail in problem.errors] or [(f"/{place}", problem.detail)]


def _none(errors: Sequence[tuple[str, str]]) -> Problem:
    detail = f"{len(errors)} things are wrong with the items, at least; nothing was accepted"
    return Problem("invalid", detail, errors=errors[:MOST_ERRORS])


def _empty() -> Problem:
    return Problem("invalid", "a batch has at least one item", errors=[("", "expected at least one submission, got none")])


def _stop(error: Problem | BrokenError | BatchReusedError) -> Problem:
    """Why a batch ends before its body does."""
    match error:
        case Problem():
            return error
        case BrokenError():
            return Problem(error.kind, error.detail)
        case BatchReusedError():
            return reused()


def _refused(wish: Submission, each: KeyTaken | UniqueHeld) -> Problem:
    return unique_held(wish, each) if isinstance(each, UniqueHeld) else key_taken()


def _result(receiving: Receiving, wish: Submission | None, each: Answer) -> bytes:
    """One item's answer."""
    if not isinstance(each, Accepted):
        assert wish is not None
        return _refusal(receiving, _refused(wish, each))
    more = b',"replayed":true' if each.repeated else b',"held":true' if each.held else b""
    return b'{"status":202,"id":"%b"%b}' % (str(each.job_id).encode(), more)


def _refusal(receiving: Receiving, problem: Problem) -> bytes:
    return orjson.dumps({"status": problem.status, "problem": problem.document(receiving.request.url.path)})


def _told(receiving: Receiving, stopped: Problem | None) -> Response:
    """All answers in one; `problem`, where the body could not be taken to its end, says why."""
    whole = receiving.answers[: receiving.whole]
    batch_id = str(receiving.batch.id).encode()
    body = b'{"batch_id":"%b","items":[%b]' % (batch_id, b",".join(whole))
    if stopped is not None:
        stopped.detail += (
            f". Items 0 to {len(whole) - 1} are answered for; what follows was refused or is unknown, and a repeat may finish it"
        )
        body += b',"problem":' + orjson.dumps(stopped.document(receiving.request.url.path))
    headers = {"cache-control": "no-store", "location": f"/v1/batches/{receiving.batch.id}"} | _deprecations(receiving)
    if stopped is None and receiving.new == 0 and receiving.accepted:
        headers["idempotency-replayed"] = "true"
    if stopped is not None and "retry-after" in stopped.headers:
        headers["retry-after"] = stopped.headers["retry-after"]
    return Response(body + b"}", 207, headers, "application/json")


def _deprecations(receiving: Receiving) -> dict[str, str]:
    return deprecations(receiving.used, receiving.parts.handlers)
