"""Watch tokens: what a browser is given to follow one job and its family, and nothing else, for a while. JWTs (RFC 7519, 8725)."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from uuid import UUID

import jwt

from ledger.tokens import Secret

AUDIENCE = "haulier:watch"
ALGORITHM = "HS256"
CLAIMS = ("aud", "exp", "sub", "tenant", "key", "payloads")


class BadTokenError(Exception):
    """Not a watch token of this installation, or not any more."""


@dataclass(frozen=True, slots=True)
class Claims:
    """What a token says: it opens this job of this tenant, as long as the key that made it lives, and until `expires_at`."""

    job_id: UUID
    tenant_id: int
    #: The prefix of the key that made it.
    key: str
    payloads: bool
    expires_at: datetime


def sign(claims: Claims, secret: Secret) -> str:
    body = {
        "aud": AUDIENCE,
        "exp": int(claims.expires_at.timestamp()),
        "sub": str(claims.job_id),
        "tenant": claims.tenant_id,
        "key": claims.key,
        "payloads": claims.payloads,
    }
    return jwt.encode(body, secret.secret, ALGORITHM, {"kid": secret.id})


def expiry(seconds: float) -> datetime:
    """Whole seconds, which is what a token can say."""
    return (datetime.now(UTC) + timedelta(seconds=seconds)).replace(microsecond=0)


class TokenReader:
    """Checks tokens, with secrets read lately. What is signed with a retired one is refused within `keep` seconds."""

    def __init__(self, load: Callable[[], list[Secret]], *, keep: float = 3) -> None:
        self._load = load
        self._keep = keep
        self._secrets: dict[str, bytes] = {}
        self._loaded_at = -keep
        self._loading = asyncio.Lock()

    async def read(self, text: str) -> Claims:
        """Raises BadTokenError."""
        try:
            name = jwt.get_unverified_header(text).get("kid")
            secret = await self._find(name) if isinstance(name, str) else None
            if secret is None:
                raise BadTokenError("it names no secret of this installation")
            found = jwt.decode(text, secret, algorithms=[ALGORITHM], audience=AUDIENCE, options={"require": list(CLAIMS)})
            until = datetime.fromtimestamp(found["exp"], UTC)
            return Claims(UUID(found["sub"]), found["tenant"], found["key"], found["payloads"], until)
        except jwt.InvalidTokenError as error:
            raise BadTokenError(str(error)) from None

    async def _find(self, name: str) -> bytes | None:
        """Any number of requests that come with unknown names wait for the same one or two readings."""
        arrived_at = time.monotonic()
        if name not in self._secrets or self._loaded_at + self._keep < arrived_at:
            async with self._loading:
                if self._loaded_at < arrived_at:
                    loaded_at = time.monotonic()
                    found = await asyncio.to_thread(self._load)
                    self._secrets, self._loaded_at = {each.id: each.secret for each in found}, loaded_at
        return self._secrets.get(name)
