"""What a client does, without doing any of it: each operation is a generator that yields what to ask and how long to pause.

So there is one copy of the logic for callers with and without an event loop: `drivers` has the two loops that carry it out.
"""

from __future__ import annotations

import random
import secrets
import time
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar, cast
from uuid import UUID

import orjson
from pydantic import BaseModel

from pipelines.command import Command

T = TypeVar("T")
M = TypeVar("M", bound=BaseModel)
Job = dict[str, Any]

FINAL = frozenset({"succeeded", "rejected", "dead", "cancelled"})
#: Nothing was done, or (with a key) doing it again does nothing more.
AGAIN = frozenset({408, 429, 502, 503, 504})
#: Seconds: one long poll, what a request may take, and the longest pause between two tries.
LONG_POLL = 20
PATIENCE = 30.0
LONGEST_PAUSE = 30.0
#: Submissions, and bytes of them, in one request.
BATCH_SIZE = 1000
BATCH_BYTES = 4 << 20


@dataclass(frozen=True, slots=True)
class Ask:
    """A request. `repeatable`: it may be sent again although an earlier one may have been carried out. `stream`: its answer is read piece by piece."""

    method: str
    path: str
    query: Mapping[str, Any] = field(default_factory=dict[str, Any])
    headers: Mapping[str, str] = field(default_factory=dict[str, str])
    body: bytes | None = None
    repeatable: bool = True
    timeout: float = PATIENCE
    stream: bool = False


@dataclass(frozen=True, slots=True)
class Pause:
    seconds: float


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True, slots=True)
class Lost:
    """The connection was lost, or never there. `reached`: the request may have arrived."""

    error: Exception
    reached: bool


#: What a step brings: a pause nothing, a piece of a stream its bytes.
Reply = Answer | Lost | bytes | None
Steps = Generator[Ask | Pause, Reply, T]


@dataclass(frozen=True, slots=True)
class Batch:
    """What came of submissions: for each, in order, `{"status", "id"}` or `{"status", "problem"}`."""

    items: list[dict[str, Any]]

    @property
    def ids(self) -> list[str | None]:
        return [item.get("id") for item in self.items]


class CallError(Exception):
    """A call ended without what it asked for. Of many submissions, `batch` is what was answered before; the `rest`, each with its idempotency key, may be
    submitted again without doubling one.
    """

    batch = Batch([])
    rest: Sequence[Mapping[str, Any]] = ()


class ProblemError(CallError):
    """The intake's answer is an error. `problem` is its document (RFC 9457), {} if it sent none; `retry_after`: seconds, if it said so."""

    def __init__(self, status: int, problem: Mapping[str, Any], retry_after: float | None = None) -> None:
        self.status = status
        self.problem = problem
        self.retry_after = retry_after
        self.kind: str = str(problem.get("type", "")).rpartition("/")[2]
        errors = "; ".join(f"{each['pointer']}: {each['detail']}" for each in problem.get("errors", ()))
        super().__init__(f"{status} {self.kind}: {errors or problem.get('detail', 'no problem document came with it')}")


class UnreachableError(CallError):
    """No answer came until the deadline. A submission may have been accepted all the same: repeat it with its key."""


class NoResultError(Exception):
    """There is no result, and there will be none. `job` is as it ended."""

    def __init__(self, job: Job, why: str) -> None:
        self.job = job
        super().__init__(f"job {job['id']} {why}")


def call(ask: Ask, deadline: float, *, least: float = 0) -> Steps[Answer]:
    """Ask until there is an answer, or no other try is due within `deadline` seconds. `least`: seconds between two tries.

    Raises the last try's error: ProblemError, UnreachableError.
    """
    until = time.monotonic() + deadline
    tries = 0
    while True:
        reply = yield ask
        assert isinstance(reply, Answer | Lost)
        if isinstance(reply, Answer) and reply.status < 400:
            return reply
        pause = max(least, min(LONGEST_PAUSE, 0.1 * 2 ** min(tries, 10)) * random.uniform(0.5, 1))
        if isinstance(reply, Lost):
            failed: Exception = UnreachableError(f"{ask.method} {ask.path}: {reply.error or type(reply.error).__name__}")
            again = ask.repeatable or not reply.reached
        else:
            failed = problem = ProblemError(reply.status, _read_problem(reply), _read_seconds(reply))
            again = reply.status in AGAIN or problem.kind == "key-in-flight"
            again = again and (ask.repeatable or problem.kind in {"unavailable", "rate-limited", "too-many-waiting"})
            if problem.retry_after is not None:
                pause = problem.retry_after + random.uniform(0, 0.1)
        if not again or time.monotonic() + pause > until:
            raise failed
        yield Pause(pause)
        tries += 1


def _read_problem(answer: Answer) -> dict[str, Any]:
    try:
        problem = orjson.loads(answer.body)
    except ValueError:
        return {}
    return cast("dict[str, Any]", problem) if isinstance(problem, dict) else {}


def _read_seconds(answer: Answer) -> float | None:
    told = answer.headers.get("retry-after", "")
    return float(told) if told.isdecimal() else None


def read(path: str, deadline: float, **query: Any) -> Steps[Any]:
    """A GET, as JSON."""
    answer = yield from call(Ask("GET", path, {name: value for name, value in query.items() if value is not None}), deadline)
    return orjson.loads(answer.body)


def write(path: str, body: Any, deadline: float, *, repeatable: bool = False, **headers: str) -> Steps[Any]:
    """A POST, as JSON."""
    own = {"content-type": "application/json", **headers}
    answer = yield from call(Ask("POST", path, headers=own, body=orjson.dumps(body), repeatable=repeatable), deadline)
    return orjson.loads(answer.body)


def wish_of(command: str | Command, payload: Mapping[str, Any] | None, fields: Mapping[str, Any]) -> dict[str, Any]:
    """A submission as the intake takes it. A Command brings its own name and payload."""
    if isinstance(command, Command):
        if payload is not None:
            raise TypeError("a Command has its payload in itself; give a command's name with a payload, or a Command without one")
        name, content = command.command_name, orjson.loads(command.model_dump_json(exclude_unset=True, by_alias=True))
    else:
        name, content = command, dict(payload or {})
    return {"command": name, "payload": content, **{key: value for key, value in fields.items() if value is not None}}


def submit(wish: Mapping[str, Any], key: str | None, deadline: float) -> Steps[Job]:
    """However often it has to be sent, it is one wish: without a key of the caller's it gets one here."""
    name = key or secrets.token_urlsafe(18)
    return (yield from write("/v1/jobs", wish, deadline, repeatable=True, **{"idempotency-key": name}))


def submit_many(wishes: Sequence[Mapping[str, Any]], deadline: float) -> Steps[Batch]:
    """In as many requests as it takes. Each submission without an `idempotency_key` gets one, so that a cut connection doubles nothing.

    Where an intake took only the first of them (a limit, the ledger away), it goes on behind those; `deadline` is for each step forward. Raises
    ProblemError, UnreachableError, which hold the `batch` until then and the `rest`.
    """
    keyed = [wish if wish.get("idempotency_key") is not None else {**wish, "idempotency_key": secrets.token_urlsafe(18)} for wish in wishes]
    items: list[dict[str, Any]] = []
    try:
        while len(items) < len(keyed):
            ask = Ask("POST", "/v1/jobs/batch", headers={"content-type": "application/x-ndjson"}, body=_first_lines(keyed[len(items) :]))
            answer = yield from call(ask, deadline)
            told = orjson.loads(answer.body)
            items += told["items"]
            if "problem" in told:
                problem = ProblemError(told["problem"]["status"], told["problem"], _read_seconds(answer))
                pause = 1 if problem.retry_after is None else problem.retry_after
                if problem.status not in AGAIN or pause > deadline or not told["items"]:
                    raise problem
                yield Pause(pause + random.uniform(0, 0.1))
    except CallError as error:
        error.batch, error.rest = Batch(items), keyed[len(items) :]
        raise
    return Batch(items)


def _first_lines(wishes: Sequence[Mapping[str, Any]]) -> bytes:
    """As many as go into one request; one at least."""
    lines: list[bytes] = []
    size = 0
    for wish in wishes[:BATCH_SIZE]:
        lines.append(orjson.dumps(wish))
        size += len(lines[-1])
        if size > BATCH_BYTES:
            break
    return b"\n".join(lines)


def wait(job_id: UUID | str, until: str, seconds: float, deadline: float) -> Steps[Job]:
    """The job once it has ended, or (`until="family"`) all that came of it too. Raises TimeoutError."""
    query = {"until": "family"} if until == "family" else {}
    give_up = time.monotonic() + seconds
    while True:
        left = give_up - time.monotonic()
        polling = max(0, min(LONG_POLL, int(left)))
        ask = Ask("GET", f"/v1/jobs/{job_id}", query, {"prefer": f"wait={polling}"} if polling else {}, timeout=polling + PATIENCE)
        answer = yield from call(ask, max(deadline, left))
        job: Job = orjson.loads(answer.body)
        if job["state"] in FINAL and (until != "family" or job["family"]["state"] != "active"):
            return job
        left = give_up - time.monotonic()
        if left <= 0:
            raise TimeoutError(f"job {job_id} is {job['state']} after {seconds:g} s")
        if "preference-applied" not in answer.headers:  # an intake that does not hold answers says when to come again
            yield Pause(min(left, float(answer.headers.get("retry-after", 1))))


def result(job_id: UUID | str, model: type[M], seconds: float, deadline: float) -> Steps[M]:
    """What a job came to, once it has ended. Raises NoResultError, TimeoutError, and pydantic.ValidationError where it is no such model."""
    job = yield from wait(job_id, "job", seconds, deadline)
    if job["state"] != "succeeded":
        error: dict[str, Any] = job["error"] or {}
        why = ": ".join(str(each) for each in (error.get("code"), error.get("message")) if each)
        raise NoResultError(job, f"is {job['state']}{f', {why}' if why else ''}")
    found = job["result"]
    if found is None:
        found = yield from read(f"/v1/jobs/{job_id}/result", deadline)  # 410 if it was there once
    if found is None:
        raise NoResultError(job, "has no result, or it is not shown to this key, which has no payloads")
    return model.model_validate_json(orjson.dumps(found))
