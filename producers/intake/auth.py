"""Who calls, and what they may do: a bearer key, its role, and the tenants that every query is held to."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from typing import Annotated, Any
from uuid import UUID

from fastapi import Depends, Query
from starlette.requests import Request

from ledger import audit, keys, reading
from ledger.keys import Key
from ledger.reading import Job
from producers.intake.parts import Tx, parts_of
from producers.intake.problems import Problem, not_found
from producers.intake.tokens import BadTokenError

READ = frozenset(keys.ROLES)
SUBMIT = frozenset({"submitter", "admin"})
CANCEL = frozenset({"submitter", "operator", "admin", "platform"})
OPERATE = frozenset({"operator", "admin", "platform"})
ADMINISTER = frozenset({"admin", "platform"})
PLATFORM = frozenset({"platform"})
#: No key has this role. A route that admits it holds every job to `Access.sees`, as `find_job` does; all other routes refuse it.
WATCH = frozenset({"watch"})

#: Seconds for which a key that was found is believed in, and between two looks at the key of what is open: that of a revoked one ends within 5 s.
KEY_IS_KNOWN = 2.0
KEY_KEEPS = 2.5

CHALLENGE = 'Bearer realm="haulier"'
COOKIE = "haulier_watch"


@dataclass(frozen=True, slots=True)
class Watching(Key):
    """The key that made a watch token, cut down to what the token opens: a role of no other use, one job and its family, for a while."""

    watches: UUID


class Keyring:
    """Keys seen lately. A revoked one is refused within `keep` seconds, and a thousand requests ask the ledger once.

    `note` writes down when keys were used; it is called aside, with a key at most once in `note_every` seconds.
    """

    def __init__(
        self,
        find: Callable[[str], Key | None],
        note: Callable[[list[tuple[UUID, datetime]]], object],
        *,
        find_prefix: Callable[[str], Key | None] = lambda _: None,
        keep: float = KEY_IS_KNOWN,
        size: int = 10_000,
        note_every: float = 60,
    ) -> None:
        self._find = find
        self._find_prefix = find_prefix
        self._note = note
        self._note_every = note_every
        self._used: set[UUID] = set()
        self._noted: dict[UUID, float] = {}
        self._keep = keep
        self._size = size
        self._known: dict[bytes, tuple[float, Key | None]] = {}
        self._asked: dict[bytes, asyncio.Task[Key | None]] = {}

    async def find(self, text: str) -> Key | None:
        """The live key that this text is, or None."""
        name = hashlib.sha256(text.encode()).digest()
        if name not in self._known and keys.read_prefix(text) is None:
            return None
        return await self._recall(name, self._find, text)

    async def find_prefix(self, prefix: str) -> Key | None:
        """The live key of this prefix, or None: only for what such a key has made."""
        return await self._recall(prefix.encode(), self._find_prefix, prefix)

    async def _recall(self, name: bytes, find: Callable[[str], Key | None], text: str) -> Key | None:
        known = self._known.get(name)
        if known and known[0] > time.monotonic():
            key = known[1]
        else:
            if name not in self._asked:
                self._asked[name] = asyncio.create_task(self._ask(name, find, text))
            key = await asyncio.shield(self._asked[name])
        if key is not None:
            self._used.add(key.id)
        return key

    def note_uses(self) -> None:
        """Write down which keys were used since the last time, but for those of which it has just been written."""
        used, self._used = self._used, set()
        now = time.monotonic()
        self._noted = {key: at for key, at in self._noted.items() if at > now - self._note_every}
        fresh = sorted(used - self._noted.keys())
        if fresh:
            self._note([(key, datetime.now(UTC)) for key in fresh])
            self._noted.update(dict.fromkeys(fresh, now))

    async def _ask(self, name: bytes, find: Callable[[str], Key | None], text: str) -> Key | None:
        asked_at = time.monotonic()
        try:
            key = await asyncio.to_thread(find, text)
        finally:
            del self._asked[name]
        if len(self._known) >= self._size:
            self._known.clear()
        self._known[name] = (asked_at + self._keep, key)
        return key


async def authenticate(request: Request, roles: frozenset[str]) -> Key:
    """The caller's key. Raises Problem: 401 without a live key, 403 without one of the roles. A watch token's role is in few."""
    text = read_bearer(request)
    token = read_cookie(request) if text is None else text if text.count(".") == 2 else None
    if text is None and token is None:
        raise Problem("unauthenticated", "give an API key as Authorization: Bearer hl_…", headers={"www-authenticate": CHALLENGE})
    key = await parts_of(request).keyring.find(text or "") if token is None else await _read_token(request, token)
    if key is None:
        raise _unauthenticated("the API key is unknown, expired or revoked")
    if key.role not in roles:
        challenge = f'{CHALLENGE}, error="insufficient_scope"'
        detail = f"a key of role {key.role} may not do this; it takes {', '.join(sorted(roles))}"
        raise Problem("forbidden", detail, headers={"www-authenticate": challenge})
    return key


def read_bearer(request: Request) -> str | None:
    scheme, _, text = request.headers.get("authorization", "").partition(" ")
    return text.strip() if scheme.lower() == "bearer" else None


def read_cookie(request: Request) -> str | None:
    """A watch token's cookie. An Authorization of any kind goes before it."""
    return None if "authorization" in request.headers else request.cookies.get(COOKIE)


async def _read_token(request: Request, text: str) -> Watching:
    """Raises Problem, 401. A token is good for as long as the key that made it."""
    parts = parts_of(request)
    try:
        claims = await parts.tokens.read(text)
    except BadTokenError as error:
        raise _unauthenticated(f"the watch token is no good: {error}") from None
    key = await parts.keyring.find_prefix(claims.key)
    if key is None:
        raise _unauthenticated("the key that made this watch token is expired or revoked")
    own: dict[str, Any] = {field.name: getattr(key, field.name) for field in fields(Key)}
    held: dict[str, Any] = {
        "role": "watch",
        "tenant_id": claims.tenant_id,
        "payloads": key.payloads and claims.payloads,
        "expires_at": claims.expires_at,
    }
    return Watching(**own | held, watches=claims.job_id)


def _unauthenticated(detail: str) -> Problem:
    return Problem("unauthenticated", detail, headers={"www-authenticate": f'{CHALLENGE}, error="invalid_token"'})


@dataclass(frozen=True, slots=True)
class Access:
    """A caller, and the tenant that a platform key asked for."""

    key: Key
    wanted: str | None = None
    #: The caller's address, for the audit.
    origin: str | None = None
    #: What is older than so many days and not there has been there: see `absent_job`.
    retention_days: int | None = None

    @property
    def who(self) -> str:
        return f"key:{self.key.prefix}"

    @property
    def payloads(self) -> bool:
        return self.key.payloads

    @property
    def watches(self) -> UUID | None:
        """The job that a watch token was made for; None for a key."""
        return self.key.watches if isinstance(self.key, Watching) else None

    def sees(self, tx: Tx, job: Job) -> bool:
        """Of the jobs of its tenants: a key all, a watch token its job and that job's family."""
        return self.watches is None or self.watches in {job.id, job.root_id} or reading.descends(tx, job.id, self.watches)

    def tenants(self, tx: Tx) -> list[int] | None:
        """Whose things the caller may see: tenant ids, or None for all."""
        if self.key.tenant_id is None and self.wanted == "*":
            return None
        return [self.tenant_id(tx)]

    def tenant_id(self, tx: Tx) -> int:
        """The one tenant that is meant. A key of a tenant needs no database for it."""
        if self.key.tenant_id is not None:
            if self.wanted not in {None, self.key.tenant}:
                raise Problem("forbidden", "only a platform key may name another tenant", headers={"www-authenticate": CHALLENGE})
            return self.key.tenant_id
        if self.wanted is None or self.wanted == "*":
            raise Problem("malformed-request", "a platform key says which tenant it means: add ?tenant=<slug>")
        tenant = keys.find_tenant(tx, self.wanted)
        if tenant is None:
            raise not_found(f"tenant {self.wanted!r}")
        return tenant.id

    def audit(self, tx: Tx, tenant_id: int | None, action: str, target: object, *, reason: str | None = None, **data: Any) -> None:
        """Record what this caller changes, in the transaction of the change. See `ledger.audit.record`."""
        audit.record(tx, tenant_id, self.who, action, target, origin=self.origin, reason=reason, **data)

    def slugs(self, tx: Tx) -> dict[int, str]:
        """Names for tenant ids, for those who see more than one tenant."""
        return {} if self.key.tenant_id is not None else {tenant.id: tenant.slug for tenant in keys.list_tenants(tx)}


WantedTenant = Annotated[str | None, Query(max_length=63, description="for platform keys: a tenant's slug, or * for all")]


#: What each dependency below lets in: the OpenAPI document tells it as `x-roles`.
ENFORCED: dict[Callable[..., object], frozenset[str]] = {}


def may(roles: frozenset[str]) -> Callable[..., object]:
    """A dependency: the caller, if their role is one of these."""

    async def check(request: Request, tenant: WantedTenant = None) -> Access:
        return Access(await authenticate(request, roles), tenant, _origin(request), parts_of(request).settings.retention_days)

    ENFORCED[check] = roles
    return check


Reader = Annotated[Access, Depends(may(READ))]
#: For what a watch token opens as well.
Watcher = Annotated[Access, Depends(may(READ | WATCH))]
Canceller = Annotated[Access, Depends(may(CANCEL))]
Operator = Annotated[Access, Depends(may(OPERATE))]
Administrator = Annotated[Access, Depends(may(ADMINISTER))]


async def only_platform(request: Request) -> Access:
    return Access(await authenticate(request, PLATFORM), origin=_origin(request))


ENFORCED[only_platform] = PLATFORM
Platform = Annotated[Access, Depends(only_platform)]


def _origin(request: Request) -> str | None:
    """The caller's address; behind a proxy of `trusted_proxies`, as it says. Cut short, since it is somebody else's text then."""
    return request.client.host[:64] if request.client else None
