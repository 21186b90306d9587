"""The way between relay and worker, its wording: a message names one job or some tens, and nothing that a client sent.

On the wire it is a Dramatiq message in JSON for its queue's one actor. It may be lost, doubled, late or forged: whoever reads it checks all.
"""

from __future__ import annotations

import re
import time
from typing import Any, NamedTuple, cast
from uuid import UUID

import orjson

#: More jobs than this are not in one message, neither ours nor a forged one.
MAX_JOBS = 500
MAX_BYTES = 65_536
MAX_ATTEMPT = 2**31 - 1
MAX_TRACEPARENT = 128

_FIELDS = {"queue_name", "actor_name", "args", "kwargs", "options", "message_id", "message_timestamp"}
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}").fullmatch


class Announcement(NamedTuple):
    """A job that may begin; `attempt` is the number that its next attempt is expected to have."""

    job_id: UUID
    attempt: int
    traceparent: str | None


class Message(NamedTuple):
    """Some jobs of one queue, for one worker thread."""

    queue: str
    jobs: tuple[Announcement, ...]


class Undecodable(Exception):
    """This body is no message; the text says why."""


def encode(message: Message) -> bytes:
    """The message's body. Costs no Python call per job."""
    queue, jobs = message
    if not 0 < len(jobs) <= MAX_JOBS:
        raise ValueError(f"a message names 1 to {MAX_JOBS} jobs, got {len(jobs)}")
    return orjson.dumps(
        {
            "queue_name": queue,
            "actor_name": queue,
            "args": [(job_id, attempt, traceparent) for job_id, attempt, traceparent in jobs],
            "kwargs": {},
            "options": {},
            "message_id": f"{jobs[0].job_id}.{jobs[0].attempt}",
            "message_timestamp": time.time_ns() // 1_000_000,
        }
    )


def decode(body: bytes, queue: str) -> Message:
    """The message that came from this queue. Raises Undecodable for whatever is not exactly right, and never anything else."""
    args = _check_envelope(_parse(body), queue)
    if not 0 < len(args) <= MAX_JOBS:
        raise Undecodable(f"args must name 1 to {MAX_JOBS} jobs, got {len(args)}")
    jobs = tuple([_announcement(entry) for entry in args])
    if len({job.job_id for job in jobs}) != len(jobs):
        raise Undecodable("args name a job twice")
    return Message(queue, jobs)


def _parse(body: bytes) -> dict[str, Any]:
    if len(body) > MAX_BYTES:
        raise Undecodable(f"the body may have {MAX_BYTES} bytes, got {len(body)}")
    try:
        fields = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise Undecodable(f"not JSON: {error}") from None
    if not isinstance(fields, dict):
        raise Undecodable(f"expected a JSON object, got {type(fields).__name__}")
    return cast(dict[str, Any], fields)


def _check_envelope(fields: dict[str, Any], queue: str) -> list[Any]:
    if fields.keys() != _FIELDS:
        raise Undecodable(
            f"expected the fields {', '.join(sorted(_FIELDS))}; missing or too many: {sorted(fields.keys() ^ _FIELDS)!r:.200}"
        )
    if fields["queue_name"] != queue:
        raise Undecodable(f"queue_name must be {queue!r}, got {_shown(fields['queue_name'])}")
    if fields["actor_name"] != queue:
        raise Undecodable(f"actor_name must be {queue!r}, got {_shown(fields['actor_name'])}")
    for name, kind in (("kwargs", dict), ("options", dict), ("args", list), ("message_id", str), ("message_timestamp", int)):
        if type(fields[name]) is not kind:
            raise Undecodable(f"{name} must be of type {kind.__name__}, got {type(fields[name]).__name__}")
    return fields["args"]


def _announcement(entry: Any) -> Announcement:
    """Two Python calls a job beside this one: the UUID's and the tuple's."""
    match entry:
        case [str(job_id), int(attempt), None | str() as traceparent] if (
            _UUID(job_id)
            and type(attempt) is int  # a bool is an int, too
            and 0 < attempt <= MAX_ATTEMPT
            and (traceparent is None or len(traceparent) <= MAX_TRACEPARENT)
        ):
            return Announcement(UUID(job_id), attempt, traceparent)
        case _:
            shown = f"[{', '.join(map(_shown, cast(list[Any], entry)[:4]))}]" if isinstance(entry, list) else _shown(entry)
            raise Undecodable(f"expected [job id, attempt, traceparent or null], got {shown}")


def _shown(value: Any) -> str:
    """Not the repr of what may be nested deeper than Python can follow."""
    return f"{value!r:.100}" if isinstance(value, str | int | float | None) else f"a {type(value).__name__}"
