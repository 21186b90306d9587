"""Follow events: open a stream, read it, and after a cut go on behind the last event that was had, without a gap or a repeat.

As in `operations`, nothing is done here: the steps are asked for, and what is told besides are the events.
"""

from __future__ import annotations

import random
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from producers.client.event_stream import Decoder
from producers.client.operations import FINAL, Ask, Lost, Pause, Reply, UnreachableError, call

#: Milliseconds before coming again, as long as an intake has not said. Seconds of silence after which it is gone: it gives a sign every 15 s.
RETRY = 3_000
SILENCE = 45.0


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened to a job. `id`: give it as `after` to go on behind it; `progress` has none of its own, and is not repeated.

    `data` is the event as the timeline has it, with `job_id`, `root_id` and `command` (and `tenant`, for platform keys).
    """

    id: str
    kind: str
    data: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Read:
    """The next piece of the stream that was asked for last; None is its end."""


Following = Generator[Ask | Pause | Read | Event, Reply, None]


def follow(path: str, query: Mapping[str, Any], after: str | None, deadline: float) -> Following:
    """The events, until the intake says that nothing more comes. Raises ProblemError, and UnreachableError once nobody has answered for `deadline` s."""
    wanted = {name: value for name, value in query.items() if value is not None}
    last_id, retry, is_first = after or "", RETRY, True
    while True:
        headers = {"accept": "text/event-stream", "cache-control": "no-store", **({"last-event-id": last_id} if last_id else {})}
        ask = Ask("GET", path, wanted, headers, timeout=SILENCE, stream=True)
        answer = yield from call(ask, deadline, least=0 if is_first else retry / 1000)
        if answer.status == 204:
            return
        kind = answer.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != "text/event-stream":
            raise UnreachableError(f"GET {path}: expected text/event-stream, got {kind or 'nothing'}; it is no intake that answers")
        decoder, is_final, is_first = Decoder(last_id, retry), False, False
        while isinstance(chunk := (yield Read()), bytes):
            for message in decoder.feed(chunk):
                data = orjson.loads(message.data)
                is_final = data.get("state") in FINAL
                yield Event(message.id, message.kind, data)
        last_id, retry = decoder.last_id, decoder.retry
        # A stream that is closed behind a job's end most likely has no more to tell: whether that is so, the next answer says.
        if isinstance(chunk, Lost) or not is_final:
            yield Pause(retry / 1000 * random.uniform(1, 1.5))  # not all at once where an intake was stopped
