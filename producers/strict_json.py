"""The one parser of what callers send: JSON that Postgres can keep and every other parser reads the same way, or a clear no.

Python's own JSON is laxer: it takes NaN, doubled keys, lone surrogates and NUL, and expands numbers without a limit.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from typing import Any, NoReturn, cast

#: Values in one body, containers and members alike.
MAX_NODES = 10_000
MAX_DIGITS = 40
MAX_EXPONENT = 308
#: That of the smallest double; Postgres writes each as a digit.
MIN_EXPONENT = -324
#: Beyond this, a program that reads numbers as doubles (a browser, jq) reads another number.
MAX_INTEGER = 2**53

Pointer = tuple[str | int, ...]


class JsonError(ValueError):
    """Not JSON that can be kept. `pointer` is where, if it is known."""

    def __init__(self, detail: str, pointer: Pointer | None = None) -> None:
        super().__init__(detail)
        self.detail = detail
        self.pointer = pointer


class JsonSyntaxError(JsonError):
    """Not JSON at all."""


class JsonTooLargeError(JsonError):
    """JSON, but nested too deep or of too many values."""


def read(body: bytes, max_depth: int) -> Any:
    """Parse. Raises JsonError, or JsonTooLargeError."""
    try:
        value = _DECODER.decode(body.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise JsonError(f"the body must be UTF-8; byte {error.start} is not") from None
    except json.JSONDecodeError as error:
        raise JsonSyntaxError(f"the body is not JSON: {error.msg} at line {error.lineno}, column {error.colno}") from None
    except RecursionError:
        raise _too_deep(max_depth) from None
    # A body with few brackets and commas cannot be too large, and one without \u escapes hides nothing: most need no second look.
    opened = body.count(b"[") + body.count(b"{")
    if opened > max_depth or opened + body.count(b",") >= MAX_NODES or b"\\u" in body:
        _check(value, max_depth)
    return value


def _check(value: Any, max_depth: int) -> None:
    for nodes, (pointer, node) in enumerate(_walk(value), start=1):
        if len(pointer) >= max_depth and isinstance(node, dict | list):
            raise _too_deep(max_depth)
        if nodes > MAX_NODES:
            raise JsonTooLargeError(f"the body holds more than {MAX_NODES} values")
        for text in (node, *pointer[-1:]):
            if isinstance(text, str):
                _check_text(text, pointer)


def _walk(value: Any) -> Iterator[tuple[Pointer, Any]]:
    waiting: list[tuple[Pointer, Any]] = [((), value)]
    while waiting:
        pointer, node = waiting.pop()
        yield pointer, node
        if isinstance(node, dict):
            waiting.extend(((*pointer, key), member) for key, member in cast("dict[str, Any]", node).items())
        elif isinstance(node, list):
            waiting.extend(((*pointer, index), member) for index, member in enumerate(cast("list[Any]", node)))


def _check_text(text: str, pointer: Pointer) -> None:
    if "\0" in text:
        raise JsonError("a string must not hold the character NUL (\\u0000)", pointer)
    try:
        text.encode()
    except UnicodeEncodeError:
        raise JsonError("a string holds half of a surrogate pair", None) from None


def _too_deep(max_depth: int) -> JsonTooLargeError:
    return JsonTooLargeError(f"the body is nested deeper than {max_depth} levels")


def _read_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        names = [name for name, _ in pairs]
        doubled = next(name for name in names if names.count(name) > 1)
        raise JsonError(f"an object has the member {doubled[:100]!a} more than once")
    return members


def _read_integer(text: str) -> int:
    if len(text) > MAX_DIGITS or abs(value := int(text)) > MAX_INTEGER:
        raise JsonError(f"the integer {text[:50]} is beyond 2^53; send it as a string")
    return value


def _read_float(text: str) -> float:
    mantissa, _, exponent = text.lower().partition("e")
    if len(mantissa) > MAX_DIGITS or len(exponent) > 5 or (exponent and not MIN_EXPONENT <= int(exponent) <= MAX_EXPONENT):
        limits = f"more than {MAX_DIGITS} digits, or an exponent that is not from {MIN_EXPONENT} to {MAX_EXPONENT}"
        raise JsonError(f"the number {text[:50]} has {limits}")
    if not math.isfinite(value := float(text)):
        raise JsonError(f"the number {text[:50]} is too large")
    return value


def _refuse_constant(name: str) -> NoReturn:
    raise JsonError(f"{name} is not JSON")


_DECODER = json.JSONDecoder(
    object_pairs_hook=_read_object, parse_int=_read_integer, parse_float=_read_float, parse_constant=_refuse_constant
)
