"""What a developer of commands writes: a `Command` (the payload's schema) and a handler that carries it out.

A handler returns its result, `Rejected(...)` (the command's own no) or `Snooze(seconds)` (not now); it raises for "try again".
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any, ClassVar, TypedDict, TypeVar, Unpack

from pydantic import BaseModel, BeforeValidator, ConfigDict

if TYPE_CHECKING:
    from pipelines.run import Run


def _read_whole(value: Any) -> Any:
    return int(value) if isinstance(value, float) and value.is_integer() else value


#: Stands last beside a strict integer, whose bounds its JSON Schema then keeps: 4.0 is an integer there, and many a language writes it so.
WHOLE = BeforeValidator(_read_whole)


class Command(BaseModel):
    """What somebody wants done, in the imperative. Its fields are the payload; unknown fields are refused.

    `command_name` is how rows, URLs and queues name it: `orders.place`, and `orders.place@2` for the version beside it (decision 0018).
    `example` is a payload that is accepted as it stands.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    command_name: ClassVar[str]
    example: ClassVar[dict[str, Any]]


def canonical(name: str) -> str:
    """A command's name as it is kept: the bare name is version 1, so that `orders.place@1` is `orders.place`."""
    return name.removesuffix("@1")


def version_of(name: str) -> tuple[str, int]:
    """A kept name's bare name and its version."""
    bare, _, version = name.partition("@")
    return bare, int(version or 1)


class CommandError(Exception):
    """A failure that a command knows by name. `code` is stable and published; subclasses set it.

    `retry_after` (seconds), when the other side said how long to wait, is the least backoff before the next attempt.
    """

    code: ClassVar[str] = "failed"
    retry_after: float | None = None


@dataclass(frozen=True, slots=True)
class Rejected:
    """The command's own no (sold out, declined): final, for the client, no dead letter."""

    message: str
    code: str = "rejected"


@dataclass(frozen=True, slots=True)
class Snooze:
    """Not now: another attempt in `seconds`, which is no failure."""

    seconds: float


class Snoozed(Exception):
    """Raised by `run.snooze(seconds)` to leave the handler at once."""

    def __init__(self, seconds: float) -> None:
        super().__init__(f"snoozed for {seconds:g} s")
        self.seconds = seconds


Backoff = Callable[[int], float]


def exponential(first: float, cap: float, jitter: float = 0.25) -> Backoff:
    """Seconds to wait after failure n: `first`·2ⁿ⁻¹ up to `cap`, varied by ± `jitter` of itself."""

    def wait(failures: int) -> float:
        base = min(cap, first * 2.0 ** min(failures - 1, 60))
        return base * random.uniform(1 - jitter, 1 + jitter)

    return wait


@dataclass(frozen=True, slots=True)
class Retry:
    """How often and when a failed attempt is repeated. `max_failures` is also the most that a submission may ask for."""

    max_failures: int = 8
    backoff: Backoff = field(default_factory=lambda: exponential(1, cap=300))


@dataclass(frozen=True, slots=True)
class Handler:
    """A command and all that is known about carrying it out.

    `together`: the most jobs of one tenant whose effects and ends may be one transaction; `many` carries out such a set in one call, and
    `function` a single job in any case.
    """

    command: type[Command]
    function: Callable[..., Any]
    queue: str
    timeout: float = 30
    retry: Retry = field(default_factory=Retry)
    rejects: tuple[type[Exception], ...] = ()
    buries: tuple[type[Exception], ...] = ()
    snoozes: Mapping[type[Exception], float] = field(default_factory=dict[type[Exception], float])
    on_rejected: type[Command] | None = None
    on_dead: type[Command] | None = None
    result: type[BaseModel] | None = None
    error_codes: Mapping[str, str] = field(default_factory=dict[str, str])
    deprecated: datetime | None = None
    sunset: datetime | None = None
    result_limit: int | None = None
    result_ttl: float | None = None
    together: int = 1
    many: Callable[..., Sequence[Any] | None] | None = None

    @property
    def name(self) -> str:
        return self.command.command_name


class Policy(TypedDict, total=False):
    """What may be said of a command beside its queue.

    By exception: `rejects` end the job `rejected`, `buries` end it `dead` at once, `snoozes` wait that many seconds without a failure;
    every other exception is a failure and is retried with backoff.

    `on_rejected` and `on_dead` are follow-ups, submitted in the transition itself (even when the process died). Their payload is
    the ended job's, as far as they have fields of the same name.
    `error_codes` documents further codes: the `code` of every `CommandError` named here is documented by its docstring.
    `deprecated` says since when callers should use a later version (or another command), `sunset` until when this one is there: both
    are told to whoever submits it, and enforce nothing.
    `result_limit` is the most bytes that a result may have as JSON (by default what the settings say): a longer one is the handler's mistake,
    which no further attempt mends, and the job is `dead` with code `result_too_large`. `result_ttl`: seconds after its end for which a result
    is kept, unless the job goes first (by default what the settings say).
    """

    timeout: float
    retry: Retry
    rejects: Sequence[type[Exception]]
    buries: Sequence[type[Exception]]
    snoozes: Mapping[type[Exception], float]
    on_rejected: type[Command] | None
    on_dead: type[Command] | None
    result: type[BaseModel] | None
    error_codes: Mapping[str, str]
    deprecated: datetime | None
    sunset: datetime | None
    result_limit: int | None
    result_ttl: float | None


C = TypeVar("C", bound=Command)

#: Jobs that share a transaction without being asked to: larger sets were seen to deadlock each other on common rows.
SHARED = 16


def handles(
    command: type[C], *, queue: str, shares_transaction: bool = False, **policy: Unpack[Policy]
) -> Callable[[Callable[[C, Run], Any]], Handler]:
    """Tie a function to its command.

    `shares_transaction`: its effects may be committed together with those of its neighbours (up to 16 jobs of one tenant, for about 100 ms),
    which is twice as fast. It then works in `run.transaction()` only (`read` and `once` raise RuntimeError), touches common rows in one
    order, and has no effect elsewhere: when one of them fails, all are rolled back, and each is carried out again by itself.
    """

    def wrap(function: Callable[[C, Run], Any]) -> Handler:
        return tie(command, function, queue, policy, together=SHARED if shares_transaction else 1)

    return wrap


def tie(command: type[Command], function: Callable[..., Any], queue: str, policy: Policy, **more: Any) -> Handler:
    """A handler of this policy, with the codes of its errors found."""
    known = dict(policy)
    for name in ("rejects", "buries"):
        known[name] = tuple(policy.get(name, ()))
    named = [
        error
        for error in (*policy.get("rejects", ()), *policy.get("buries", ()), *policy.get("snoozes", ()))
        if issubclass(error, CommandError)
    ]
    codes = {error.code: (error.__doc__ or error.code).strip().splitlines()[0] for error in named}
    known["error_codes"] = {**codes, **policy.get("error_codes", {})}
    return Handler(command, function, queue, **known, **more)
