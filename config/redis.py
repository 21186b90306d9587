"""Redis, which nothing needs: it shares limits, wakes those who wait and saves reads; while it is away, callers do without it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

import redis.asyncio
import structlog
from redis.exceptions import RedisError

log = structlog.get_logger()
T = TypeVar("T")

#: Seconds: what one call may take, and for how long Redis is left alone after one that failed.
TIMEOUT = 0.25
REST = 1.0

AWAY = (RedisError, OSError, TimeoutError)


class AsyncRedis:
    """One process's Redis, from its event loop."""

    def __init__(self, url: str) -> None:
        self.client = redis.asyncio.from_url(url, socket_connect_timeout=TIMEOUT, socket_timeout=TIMEOUT)  # pyright: ignore[reportUnknownMemberType]
        self._away_until = 0.0
        self._is_away = False

    async def run(self, call: Callable[[redis.asyncio.Redis], Awaitable[T]]) -> T | None:
        """What the call returns, or None while Redis is away: then at once, but for one try a second."""
        if time.monotonic() < self._away_until:
            return None
        try:
            async with asyncio.timeout(TIMEOUT):
                value = await call(self.client)
        except AWAY as error:
            if not self._is_away:
                log.warning("redis is away; doing without it", error=str(error) or type(error).__name__)
            self._is_away = True
            self._away_until = time.monotonic() + REST
            return None
        if self._is_away:
            log.info("redis is back")
        self._is_away = False
        return value

    async def close(self) -> None:
        await self.client.aclose()
