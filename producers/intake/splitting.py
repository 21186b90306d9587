"""Cut the body of a batch into its items as it arrives, without reading them: a JSON array, or lines (NDJSON).

What is kept is the item under way, and no more of it than an item may have. Where an item ends is found by compiled patterns that step over
whole strings; each byte is looked at once, however small the pieces are.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Literal, Protocol

SPACE = b" \t\r\n"
OPENING, CLOSING, QUOTE, COMMA = frozenset(b"[{"), frozenset(b"]}"), ord('"'), ord(",")

#: Within an item: up to a bracket, or to a string whose end has not come yet.
_WITHIN = re.compile(rb'(?:[^"\[\]{}]++|"(?:[^"\\]++|\\.)*+")*+', re.DOTALL)
#: Between items.
_BETWEEN = re.compile(rb'[^"\[\]{},]*+')
#: The rest of a string; a backslash at the very end waits for what it escapes.
_STRING = re.compile(rb'(?:[^"\\]++|\\.)*+', re.DOTALL)


class BrokenError(ValueError):
    """From here on nobody can say where an item begins. `kind`: of the problem."""

    def __init__(self, detail: str, kind: str = "malformed-json") -> None:
        super().__init__(detail)
        self.detail = detail
        self.kind = kind


#: An item's text; None for one over the limit, which is not kept.
Item = bytes | None


class Splitter(Protocol):
    #: Whether an item that is no JSON makes all that follows unreadable.
    fragile: bool

    def feed(self, chunk: bytes) -> Iterator[Item]:
        """The items that end in this piece. Raises BrokenError."""
        ...

    def close(self) -> Iterator[Item]:
        """The body has ended. Raises BrokenError if that is too early."""
        ...


class Lines:
    """NDJSON: an item a line; blank lines are none. The last may lack its line break."""

    fragile = False

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._buffer = bytearray()
        self._over = False

    def feed(self, chunk: bytes) -> Iterator[Item]:
        scanned, start = len(self._buffer), 0
        self._buffer += chunk
        while (end := self._buffer.find(b"\n", max(start, scanned))) >= 0:
            yield from self._end(self._buffer[start:end])
            start = end + 1
        del self._buffer[:start]
        if len(self._buffer) > self._limit:
            self._buffer.clear()
            self._over = True

    def close(self) -> Iterator[Item]:
        yield from self._end(self._buffer)

    def _end(self, line: bytearray) -> Iterator[Item]:
        text = bytes(line.strip(SPACE))
        over, self._over = self._over or len(text) > self._limit, False
        if over:
            yield None
        elif text:
            yield text


class Array:
    """A JSON array. Brackets are counted and strings stepped over; whether an item is JSON is for its reader to say."""

    fragile = True

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._buffer = bytearray()
        #: How far the buffer has been looked at; it begins with the item under way.
        self._at = 0
        self._depth = 0
        self._in_string = False
        self._over = False
        self._state: Literal["before", "within", "after"] = "before"
        self._items = 0

    def feed(self, chunk: bytes) -> Iterator[Item]:
        self._buffer += chunk
        if self._state == "before":
            self._open()
        if self._state == "within":
            yield from self._scan()
        if self._state == "after" and self._buffer.strip(SPACE):
            raise BrokenError("the body goes on after the end of its array")

    def close(self) -> Iterator[Item]:
        if self._state == "before":
            raise BrokenError("the body is empty; expected a JSON array")
        if self._state == "within":
            raise BrokenError(f"the body ends within its array, after {self._items} whole items")
        yield from ()

    def _open(self) -> None:
        text = self._buffer.lstrip(SPACE)
        if text.startswith(b"["):
            self._state = "within"
            self._buffer = text[1:]
        elif text and text[0] in b'{"-0123456789tfn':
            raise BrokenError("expected a JSON array of submissions; send lines as application/x-ndjson", "invalid")
        elif text:
            raise BrokenError("the body is not JSON: it does not begin as an array")
        else:
            self._buffer.clear()

    def _scan(self) -> Iterator[Item]:
        start, buffer = 0, self._buffer
        while (end := self._skip()) < len(buffer):
            byte, self._at = buffer[end], end + 1
            if byte == QUOTE:
                self._in_string = True
            elif byte in OPENING:
                self._depth += 1
            elif self._depth:
                self._depth -= 1
            elif byte in {COMMA, CLOSING_ARRAY}:
                yield from self._end(buffer[start:end], last=byte != COMMA)
                start = self._at
                if byte != COMMA:
                    self._state = "after"
                    break
            else:
                raise BrokenError(f"a bracket is closed that was not opened, after {self._items} whole items")
        del buffer[:start]
        self._at -= start
        if len(buffer) > self._limit and self._state == "within":
            self._over = True
            del buffer[: self._at]
            self._at = 0

    def _skip(self) -> int:
        """The next byte that matters."""
        if self._in_string:
            found = _STRING.match(self._buffer, self._at)
            assert found
            self._at = found.end()
            if not self._buffer.startswith(b'"', self._at):
                return len(self._buffer)
            self._at += 1
            self._in_string = False
        found = (_WITHIN if self._depth else _BETWEEN).match(self._buffer, self._at)
        assert found
        self._at = found.end()
        return self._at

    def _end(self, item: bytearray, *, last: bool) -> Iterator[Item]:
        text = bytes(item.strip(SPACE))
        over, self._over = self._over or len(text) > self._limit, False
        if not text and not over:
            if last and not self._items:
                return
            raise BrokenError(f"a comma without an item, after {self._items} whole items")
        self._items += 1
        yield None if over else text


CLOSING_ARRAY = ord("]")
