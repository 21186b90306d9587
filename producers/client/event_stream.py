"""Read Server-Sent Events, byte by byte if need be, as the HTML standard says: what arrives becomes messages, and nothing is fetched here.

https://html.spec.whatwg.org/multipage/server-sent-events.html#event-stream-interpretation. httpx2 brings a reader of its own, which takes a block that
was cut behind its `id` for one that was had: going on after that id would lose an event.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

_LINE_END = re.compile(rb"\r\n|\r|\n")
_DIGITS = re.compile(r"[0-9]+")
_BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True, slots=True)
class Message:
    """One that was whole. `id`: the last that was told, with this message or before it."""

    kind: str
    data: str
    id: str


class Decoder:
    """Of one connection. `last_id`: behind which message to go on; `retry`: milliseconds before that, as the server said last."""

    def __init__(self, last_id: str, retry: int) -> None:
        self.last_id = last_id
        self.retry = retry
        self._id = last_id
        self._kind = ""
        self._data: list[str] = []
        self._rest = b""
        self._is_first = True
        self._is_behind_cr = False

    def feed(self, chunk: bytes) -> Iterator[Message]:
        """The messages that end in this piece. What the last piece leaves unfinished was never sent."""
        if not chunk:
            return
        if self._is_behind_cr:  # which has ended its line already
            chunk = chunk.removeprefix(b"\n")
        self._is_behind_cr = chunk.endswith(b"\r")
        *lines, self._rest = _LINE_END.split(self._rest + chunk)
        for line in lines:
            if self._is_first:
                self._is_first = False
                line = line.removeprefix(_BOM)  # noqa: PLW2901
            if line:
                self._read(line.decode(errors="replace"))
            else:
                yield from self._dispatch()

    def _read(self, line: str) -> None:
        name, _, value = line.partition(":")  # a comment's name is empty
        value = value.removeprefix(" ")
        match name:
            case "event":
                self._kind = value
            case "data":
                self._data.append(value)
            case "id" if "\0" not in value:
                self._id = value
            case "retry" if _DIGITS.fullmatch(value):
                self.retry = int(value)
            case _:
                pass

    def _dispatch(self) -> Iterator[Message]:
        self.last_id = self._id
        kind, data = self._kind, self._data
        self._kind, self._data = "", []
        if data:
            yield Message(kind or "message", "\n".join(data), self.last_id)
