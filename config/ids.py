"""Ids for jobs and all else that is told apart: UUIDs of version 7 (RFC 9562), so that they sort by the time they were made."""

from __future__ import annotations

import os
import time
from collections import deque
from uuid import UUID

_VERSION = 0x7 << 76
_VARIANT = 0x2 << 62


#: Random numbers to come, 64 bits each: asking the system for one lets go of the interpreter, which is dear where threads wait for it.
_chances: deque[int] = deque()
_AT_ONCE = 512

os.register_at_fork(after_in_child=_chances.clear)


def _chance() -> int:
    try:
        return _chances.popleft()
    except IndexError:
        first, *more = memoryview(os.urandom(8 * _AT_ONCE)).cast("Q")
        _chances.extend(more)
        return first


def uuid7() -> UUID:
    """48 bits of Unix milliseconds, 12 bits of the millisecond's fraction, 62 random bits (RFC 9562, 6.2, method 3)."""
    milliseconds, rest = divmod(time.time_ns(), 1_000_000)
    fraction = (rest << 12) // 1_000_000
    chance = _chance() & 0x3FFF_FFFF_FFFF_FFFF
    return UUID(int=(milliseconds << 80) | _VERSION | (fraction << 64) | _VARIANT | chance)


def made_at(made: UUID) -> float | None:
    """The Unix time at which `uuid7` made it, or None for a UUID of another version."""
    return (made.int >> 80) / 1000 if made.version == 7 else None


def first_id_at(seconds: float) -> UUID:
    """The lowest that `uuid7` can have made at this Unix time: where a stretch of time begins in an order by id."""
    return UUID(int=(int(seconds * 1000) << 80) | _VERSION | _VARIANT)
