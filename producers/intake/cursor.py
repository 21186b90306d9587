"""Where a list goes on: opaque to clients, and good only for the very list that it came from."""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Callable, Sequence
from typing import Annotated, TypeVar
from uuid import UUID

from fastapi import Query

from producers.intake.problems import Problem

T = TypeVar("T")

Limit = Annotated[int, Query(ge=1, le=500, description="items on a page")]
Cursor = Annotated[str | None, Query(max_length=200, description="`next_cursor` of the page before")]


def read_cursor(cursor: str | None, about: str) -> UUID | None:
    """The last id of the page before. `about` says which list it is."""
    if cursor is None:
        return None
    try:
        raw = base64.b64decode(cursor.encode(), b"-_", validate=True)
    except (ValueError, binascii.Error):
        raw = b""
    if len(raw) != 24 or raw[16:] != _digest(about):
        raise Problem("malformed-request", "the cursor is none of this list; take next_cursor as it is, with the same filters")
    return UUID(bytes=raw[:16])


def cut(found: Sequence[T], limit: int, about: str, id_of: Callable[[T], UUID]) -> tuple[Sequence[T], str | None]:
    """Of one item more than asked for, the page and its next cursor."""
    if len(found) <= limit:
        return found, None
    page = found[:limit]
    return page, base64.b64encode(id_of(page[-1]).bytes + _digest(about), b"-_").decode()


def _digest(about: str) -> bytes:
    return hashlib.sha256(about.encode()).digest()[:8]
