"""Read a request: its body, counted and parsed once, and the headers that mean something here."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from typing import Any

from starlette.datastructures import Headers, QueryParams
from starlette.requests import Request

from config.settings import Settings
from producers import strict_json
from producers.intake.problems import Problem
from producers.submission import check_key, point_at

_JSON = re.compile(r'application/json\s*(;\s*charset="?utf-8"?\s*)?', re.IGNORECASE)
_QUOTED = re.compile(r'"((?:[ !#-\[\]-~]|\\["\\])*)"')
#: The two forms of an Idempotency-Key, as the OpenAPI document says it; `read_key` says why when one is neither.
KEY_PATTERN = r'^(?:"(?:[ !#-\[\]-~]|\\["\\]){1,255}"|[!#-~](?:[ -~]{0,253}[!-~])?)$'
_TRACEPARENT = re.compile(r"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")


async def read_json(request: Request, settings: Settings) -> Any:
    """The body's value. Raises Problem."""
    check_media_type(request.headers)
    body = await read_body(request, settings.max_job_bytes, settings.request_deadline)
    return parse(body, settings.max_depth)


def parse(body: bytes, max_depth: int) -> Any:
    try:
        return strict_json.read(body, max_depth)
    except strict_json.JsonError as error:
        raise unreadable(error) from None


def unreadable(error: strict_json.JsonError) -> Problem:
    if isinstance(error, strict_json.JsonTooLargeError):
        return Problem("too-large", error.detail)
    errors = [] if error.pointer is None else [(point_at(error.pointer), error.detail)]
    return Problem("malformed-json", error.detail, errors=errors)


def check_media_type(headers: Headers) -> None:
    given = headers.get("content-type", "")
    if not _JSON.fullmatch(given):
        raise Problem("unsupported-media-type", f"the body must be application/json in UTF-8, got {given[:100]!r}")
    check_encoding(headers)


def check_encoding(headers: Headers) -> None:
    if headers.get("content-encoding", "identity").lower() != "identity":
        raise Problem("unsupported-media-type", "a compressed body is not taken", headers={"accept-encoding": "identity"})


async def read_body(request: Request, limit: int, deadline: float) -> bytes:
    """All of the body, which has `deadline` seconds to arrive; refused as soon as it is known to be over the limit."""
    announced = request.headers.get("content-length", "")
    if announced.isdigit() and int(announced[:20]) > limit:
        raise _too_large(limit)
    chunks: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(deadline):
            async for chunk in request.stream():
                size += len(chunk)
                if size > limit:
                    raise _too_large(limit)
                chunks.append(chunk)
    except TimeoutError:
        raise Problem("request-timeout", f"the body did not arrive within {deadline:g} s", headers={"connection": "close"}) from None
    return b"".join(chunks)


def _too_large(limit: int) -> Problem:
    return Problem("too-large", f"the body must be at most {limit} bytes")


def read_key(headers: Headers) -> str | None:
    """The Idempotency-Key: a structured field's String, or the same without quotes."""
    values = headers.getlist("idempotency-key")
    if not values:
        return None
    if len(values) > 1:
        raise Problem("malformed-request", "the header Idempotency-Key was given more than once")
    text = values[0].strip()
    quoted = _QUOTED.fullmatch(text)
    if quoted:
        text = re.sub(r"\\(.)", r"\1", quoted[1])
    elif text.startswith('"'):
        raise Problem("malformed-request", "the header Idempotency-Key begins with a quote and is no quoted string")
    try:
        return check_key(text)
    except ValueError as error:
        raise Problem("malformed-request", f"the header Idempotency-Key is malformed: {error}") from None


def read_flag(query: QueryParams, name: str) -> bool:
    """A query parameter that is true or false, and false where it is not given. Raises Problem for anything else."""
    values = query.getlist(name)
    if len(values) > 1 or (values and values[0] not in {"true", "false"}):
        raise Problem("malformed-request", f"{name} must be true or false, once")
    return values == ["true"]


def read_traceparent(headers: Headers) -> str | None:
    """The caller's trace (W3C Trace Context); one that is malformed starts a new trace, as the standard asks."""
    given = headers.get("traceparent", "")
    return given if _TRACEPARENT.fullmatch(given) else None


def accepts(headers: Headers, media: Sequence[str]) -> bool:
    """Whether an answer of one of these media types is one that the client takes."""
    accepted = ",".join(headers.getlist("accept"))
    return not accepted.strip() or any(_takes(part, media) for part in accepted.split(","))


def _takes(part: str, media: Sequence[str]) -> bool:
    given, *parameters = (each.strip().lower() for each in part.split(";"))
    refused = any(re.fullmatch(r"q\s*=\s*0(\.0*)?", parameter) for parameter in parameters)
    return not refused and any(given in {each, f"{each.partition('/')[0]}/*", "*/*"} for each in media)
