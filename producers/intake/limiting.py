"""How much a tenant, and each of its keys, may submit: a rate, shared by all intakes through Redis, and a number of open jobs.

A submission pays no round trip of its own: an intake takes tokens from Redis in chunks of at most a tenth of the burst and of a second's worth,
and gives back none; so in any time an intake is off by at most one chunk a key. Without Redis each intake holds the whole limit by itself.
A tenant without limits pays one look-up.
"""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple, cast

from starlette.types import Scope

from config.redis import AsyncRedis
from ledger import limits
from ledger.limits import Kept
from producers.intake import metrics
from producers.intake.problems import Problem

#: Seconds for which a chunk of tokens may be used, and between two looks at the limits and at the open jobs.
CHUNK_LIVES = 1.0
LOOK_EVERY = 2.0
COUNT_EVERY = 1.0
#: Seconds for which a rate may owe a batch's next set.
SET_SECONDS = 10
#: Seconds after which it is worthwhile to look whether there is room again.
ROOM_AGAIN = 2


class Rate(NamedTuple):
    """So many a second, on average, and so many at once."""

    rate: float
    burst: int

    @property
    def chunk(self) -> int:
        return max(1, int(min(self.burst, self.rate) / 10))


class Policy(NamedTuple):
    """What holds for one tenant."""

    submissions: Rate | None = None
    each_key: Rate | None = None
    open_jobs: int | None = None

    def set_size(self, most: int) -> int:
        """How many jobs of a batch, of at most so many, are asked for together: so few that a refused batch soon goes on."""
        rates = [int(each.rate * SET_SECONDS) for each in (self.submissions, self.each_key) if each is not None]
        room = most if self.open_jobs is None else self.open_jobs // 10
        return max(1, min(most, room, *rates))

    @classmethod
    def of(cls, kept: Kept, default: Mapping[str, Any]) -> Policy:
        """The tighter of what was granted (else the installation's default) and what the tenant set for itself."""
        both = ({**default, **kept.granted}, kept.own)
        rates = {
            name: _tighter([Rate(each[name]["rate"], each[name]["burst"]) for each in both if each.get(name)])
            for name in ("submissions", "each_key")
        }
        most = [each["open_jobs"] for each in both if each.get("open_jobs") is not None]
        return cls(rates["submissions"], rates["each_key"], min(most, default=None))


def _tighter(rates: list[Rate]) -> Rate | None:
    return Rate(min(each.rate for each in rates), min(each.burst for each in rates)) if rates else None


class Bucket(NamedTuple):
    """One limit of one holder, as the client (`tenant`, `key`) and as Redis knows it."""

    policy: str
    name: str
    rate: Rate


class Grant(NamedTuple):
    """Tokens taken; seconds to wait if none; and for each bucket, how many are left."""

    tokens: int
    wait: float
    left: list[int]


# GCRA: a bucket is one number, the time at which it will be full again. All buckets or none; in microseconds of the server's own clock.
# More than a burst is given to whoever finds it full (a batch), and owed by those who come next.
TAKE = """
local t = redis.call('time')
local now = t[1] * 1000000 + t[2]
local need, want = tonumber(ARGV[1]), tonumber(ARGV[2])
local got, wait, full, left = want, 0, {}, {}
for i, key in ipairs(KEYS) do
    local each, burst = tonumber(ARGV[1 + 2 * i]), tonumber(ARGV[2 + 2 * i])
    full[i] = math.max(tonumber(redis.call('get', key) or '0'), now)
    local room = burst - (full[i] - now) / each
    left[i] = math.max(0, math.floor(room + 0.000001))
    local least = math.min(need, burst)
    if room + 0.000001 < least then
        got = 0
        wait = math.max(wait, (least - room) * each)
    else
        got = math.min(got, math.max(need, left[i]))
    end
end
if got > 0 then
    for i, key in ipairs(KEYS) do
        local each = tonumber(ARGV[1 + 2 * i])
        local at = full[i] + got * each
        redis.call('set', key, string.format('%.3f', at), 'px', math.ceil((at - now) / 1000) + 1000)
        left[i] = math.max(0, left[i] - got)
    end
end
return {got, string.format('%.0f', math.ceil(wait)), unpack(left)}
"""


class LocalBuckets:
    """The same arithmetic in this process, for when Redis is away."""

    def __init__(self) -> None:
        self._full: dict[str, float] = {}

    def take(self, buckets: list[Bucket], need: int, want: int) -> Grant:
        now = time.monotonic()
        rooms = [each.rate.burst - (max(self._full.get(each.name, 0.0), now) - now) * each.rate.rate for each in buckets]
        waits = [
            (min(need, each.rate.burst) - room) / each.rate.rate
            for each, room in zip(buckets, rooms, strict=True)
            if room + 1e-6 < min(need, each.rate.burst)
        ]
        if waits:
            return Grant(0, max(waits), [max(0, int(room + 1e-6)) for room in rooms])
        got = min(want, *(max(need, int(room + 1e-6)) for room in rooms))
        self.note(buckets, got)
        return Grant(got, 0.0, [max(0, int(room + 1e-6) - got) for room in rooms])

    def note(self, buckets: list[Bucket], tokens: int) -> None:
        """Tokens that Redis gave count here too, so that a limit does not begin anew when it goes away."""
        now = time.monotonic()
        if len(self._full) > 10_000:
            self._full = {name: at for name, at in self._full.items() if at > now}
        for each in buckets:
            self._full[each.name] = max(self._full.get(each.name, 0.0), now) + tokens / each.rate.rate


@dataclass(slots=True)
class Lease:
    """What one intake has in hand of a tenant's tokens, or of a key's where keys have a limit of their own."""

    tokens: int = 0
    until: float = 0.0
    #: Refused until then, without asking.
    refused_until: float = 0.0
    left: list[int] = field(default_factory=list[int])
    asking: asyncio.Lock = field(default_factory=asyncio.Lock)


class Limiter:
    """Of one intake. `policies` is replaced as a whole by the background's thread."""

    def __init__(self, default: Mapping[str, Any], redis: AsyncRedis | None) -> None:
        self._default = default
        self._redis = redis
        self._local = LocalBuckets()
        self._leases: dict[tuple[int, str | None], Lease] = {}
        self._otherwise = Policy.of(limits.NONE, default)
        self._policies: dict[int, Policy] = {}
        self.backlogs = Backlogs(self)

    def refresh(self, read: Callable[[], dict[int, Kept]]) -> None:
        self._policies = {tenant: Policy.of(kept, self._default) for tenant, kept in read().items()}

    def policy(self, tenant_id: int) -> Policy:
        return self._policies.get(tenant_id, self._otherwise)

    def limited(self) -> list[int]:
        """Tenants whose open jobs are limited by name; those by default become known as they submit."""
        return [tenant for tenant, policy in self._policies.items() if policy.open_jobs is not None]

    async def charge(self, scope: Scope, tenant_id: int, prefix: str, cost: int = 1) -> None:
        """Take tokens for so many jobs. Raises Problem `rate-limited`. The answer's fields are told to the gate, in the scope."""
        policy = self.policy(tenant_id)
        if policy.submissions is None and policy.each_key is None:
            return
        buckets = _buckets(tenant_id, prefix, policy)
        name = (tenant_id, prefix if policy.each_key else None)
        lease = self._leases.get(name)
        if lease is None:
            if len(self._leases) > 10_000:
                self._leases.clear()
            lease = self._leases[name] = Lease()
        wait = await self._take(lease, buckets, cost)
        scope["rate_limit"] = _fields(buckets, [left + lease.tokens for left in lease.left], wait)
        if wait > 0:
            metrics.LIMITED.labels("rate").inc()
            seconds = max(1, math.ceil(wait))
            detail = (
                f"more than the limit of {' and '.join(_say(each) for each in buckets)}; nothing was accepted, try again in {seconds} s"
            )
            empty = [each.policy for each, left in zip(buckets, lease.left, strict=True) if left < cost]
            raise Problem("rate-limited", detail, headers={"retry-after": str(seconds)}, members={"violated-policies": empty})

    async def _take(self, lease: Lease, buckets: list[Bucket], cost: int) -> float:
        """Returns 0 when it was taken, else the seconds to wait."""
        async with lease.asking:  # one question at a time; the others find the chunk that it brought
            now = time.monotonic()
            if now > lease.until:
                lease.tokens = 0
            if lease.tokens < cost:
                if now < lease.refused_until and cost == 1:
                    return lease.refused_until - now
                need = cost - lease.tokens
                grant = await self._ask(buckets, need, max(need, min(each.rate.chunk for each in buckets)))
                lease.left = grant.left
                if grant.tokens == 0:
                    lease.refused_until = time.monotonic() + grant.wait if cost == 1 else 0.0
                    return grant.wait
                lease.tokens += grant.tokens
                lease.until = now + CHUNK_LIVES
            lease.tokens -= cost
            return 0.0

    async def _ask(self, buckets: list[Bucket], need: int, want: int) -> Grant:
        if self._redis is not None:
            names = [each.name for each in buckets]
            numbers = [str(number) for each in buckets for number in (1e6 / each.rate.rate, each.rate.burst)]
            answer = await self._redis.run(
                lambda redis: cast("Awaitable[list[Any]]", redis.eval(TAKE, len(names), *names, str(need), str(want), *numbers))
            )
            if answer is not None:
                tokens, wait, *left = (int(each) for each in answer)
                if tokens:
                    self._local.note(buckets, tokens)
                return Grant(tokens, wait / 1e6, left)
        return self._local.take(buckets, need, want)


def _buckets(tenant_id: int, prefix: str, policy: Policy) -> list[Bucket]:
    found: list[Bucket] = []
    if policy.submissions is not None:
        found.append(Bucket("tenant", f"haulier:limit:{{{tenant_id}}}", policy.submissions))
    if policy.each_key is not None:
        found.append(Bucket("key", f"haulier:limit:{{{tenant_id}}}:{prefix}", policy.each_key))
    return found


def _say(bucket: Bucket) -> str:
    return f"{bucket.rate.rate:g} jobs a second and {bucket.rate.burst} at once (this {bucket.policy})"


def _fields(buckets: list[Bucket], left: list[int], wait: float) -> list[tuple[bytes, bytes]]:
    """`RateLimit-Policy` and `RateLimit` (draft-ietf-httpapi-ratelimit-headers-11). One unit is one job. `t`: seconds until a refused one
    may come again, else until the quota is whole again.
    """
    policies, states = list[str](), list[str]()
    for bucket, rest in zip(buckets, left, strict=True):
        burst, rate = bucket.rate.burst, bucket.rate.rate
        rest = min(rest, burst)  # noqa: PLW2901
        policies.append(f'"{bucket.policy}";q={burst};w={max(1, math.ceil(burst / rate))}')
        until = wait if wait > 0 else (burst - rest) / rate
        states.append(f'"{bucket.policy}";r={rest};t={max(1 if wait > 0 else 0, math.ceil(until))}')
    return [(b"ratelimit-policy", ", ".join(policies).encode()), (b"ratelimit", ", ".join(states).encode())]


class Backlogs:
    """How many jobs are open, of tenants that have a limit on it: as last counted, and what this intake has taken in since.

    What other intakes take in between two counts (a second, and longer the longer a count takes) may come on top of a limit.
    """

    def __init__(self, limiter: Limiter) -> None:
        self._limiter = limiter
        self._counted: dict[int, int] = {}
        self._since: dict[int, int] = {}
        self._under_way: dict[int, int] = {}
        self._rest_until = 0.0
        self._lock = threading.Lock()

    def refresh(self, count: Callable[[list[int]], dict[int, int]]) -> None:
        """In the background's thread. Rests twenty times as long as counting took, so that a large backlog is not read all the time."""
        tenants = sorted({*self._limiter.limited(), *self._since})
        if not tenants or time.monotonic() < self._rest_until:
            return
        before, began = dict(self._since), time.monotonic()
        found = count(tenants)
        self._rest_until = time.monotonic() + 20 * (time.monotonic() - began)
        self._counted = {tenant: found.get(tenant, 0) for tenant in tenants}
        with self._lock:
            for tenant, number in before.items():
                self._since[tenant] -= number

    @contextmanager
    def admit(self, scope: Scope, tenant_id: int, number: int = 1) -> Iterator[None]:
        """Around the writing of so many jobs. Raises Problem `backlog-full`, or `too-large` if there is never room for them: then nothing is to be
        written.
        """
        most = self._limiter.policy(tenant_id).open_jobs
        if most is None:
            yield
            return
        if number > most:
            raise Problem(
                "too-large", f"{number} jobs at once are more than the {most} that the tenant may have open; nothing was accepted"
            )
        there = sum(each.get(tenant_id, 0) for each in (self._counted, self._since, self._under_way))
        left = max(0, most - there - number)
        own = [(b"ratelimit-policy", f'"open-jobs";q={most}'.encode()), (b"ratelimit", f'"open-jobs";r={left};t={ROOM_AGAIN}'.encode())]
        scope["rate_limit"] = [*scope.get("rate_limit", ()), *own]
        if there + number > most:
            metrics.LIMITED.labels("backlog").inc()
            detail = f"the tenant may have {most} jobs open and has about {there}; nothing was accepted, try again when some have ended"
            members = {"violated-policies": ["open-jobs"]}
            raise Problem("backlog-full", detail, headers={"retry-after": str(ROOM_AGAIN)}, members=members)
        self._under_way[tenant_id] = self._under_way.get(tenant_id, 0) + number  # only the event loop writes it
        try:
            yield
        finally:  # counted until the next look, whatever became of them: they may have been committed
            self._under_way[tenant_id] -= number
            with self._lock:
                self._since[tenant_id] = self._since.get(tenant_id, 0) + number
