"""Ids for jobs and all else that is told apart: UUIDs of version 7 (RFC 9562), so that they sort by the time they were made."""

from __future__ import annotations

import os
import time
from uuid import UUID

_VERSION = 0x7 << 76
_VARIANT = 0x2 << 62


def uuid7() -> UUID:
    """48 bits of Unix milliseconds, 12 bits of the millisecond's fraction, 62 random bits (RFC 9562, 6.2, method 3)."""
    milliseconds, rest = divmod(time.time_ns(), 1_000_000)
    fraction = (rest << 12) // 1_000_000
    chance = int.from_bytes(os.urandom(8)) & 0x3FFF_FFFF_FFFF_FFFF
    return UUID(int=(milliseconds << 80) | _VERSION | (fraction << 64) | _VARIANT | chance)


def first_id_at(seconds: float) -> UUID:
    """The lowest that `uuid7` can have made at this Unix time: where a stretch of time begins in an order by id."""
    return UUID(int=(int(seconds * 1000) << 80) | _VERSION | _VARIANT)
