"""Submit: the first step of a job's way, from HTTP (`producers.intake`) or in a caller's own transaction (`producers.submit`).

What is checked here is checked for both, so that a job means the same wherever it came from.
"""

from __future__ import annotations

import difflib
import hashlib
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Annotated, Any, Literal, cast
from uuid import UUID

import orjson
import psycopg
import sqlalchemy
from pydantic import (
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainValidator,
    Strict,
    ValidationError,
    WithJsonSchema,
    model_validator,
)

from config.ids import uuid7
from config.settings import Settings
from ledger import jobs, keys, webhooks, workers
from ledger.jobs import Submission, Unique
from ledger.unique import HeldError
from ledger.unique import submit as submit_unique
from pipelines.command import WHOLE, Command, Handler, canonical
from pipelines.load import load, versions_of
from producers import hints, strict_json

YEAR = timedelta(days=366)
#: A week is promised; a name longer than this is none.
MAX_KEY = 255
MAX_DEPTH = 32

_RFC3339 = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(\.\d{1,9})?([Zz]|[+-]\d\d:\d\d)")


def _read_moment(value: Any) -> Any:
    if isinstance(value, str):
        if not _RFC3339.fullmatch(value):
            raise ValueError("expected an RFC 3339 time with an offset, such as 2026-12-01T09:00:00Z")
        value = datetime.fromisoformat(value.upper())
    # Postgres knows years that Python does not, once the offset is taken off.
    if isinstance(value, datetime) and not 2000 <= value.year <= 2200:
        raise ValueError("expected a time between the years 2000 and 2200")
    return value


Moment = Annotated[AwareDatetime, BeforeValidator(_read_moment)]


def _read_hold(value: Any) -> Any:
    if value in ("active", "forever"):
        return value
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= YEAR.total_seconds():
        raise ValueError('expected "active", "forever", or a number of seconds above 0 and up to a year')
    return value


Hold = Annotated[
    str | float,
    PlainValidator(_read_hold),
    WithJsonSchema(
        {"anyOf": [{"enum": ["active", "forever"]}, {"type": "number", "exclusiveMinimum": 0, "maximum": YEAR.total_seconds()}]}
    ),
]
LabelName = Annotated[str, Field(min_length=1, max_length=63)]
LabelValue = Annotated[str, Field(max_length=255)]


# From JSON an id is text, which strict models do not take for a UUID.
Callback = Annotated[UUID, Strict(strict=False)]


class Uniqueness(BaseModel):
    """At most one job of this tenant and command holds the key; what becomes of a submission that finds it held is its own to say."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, title="Unique")

    key: str = Field(min_length=1, max_length=255, description="the caller's name for what must not be there twice")
    hold: Hold = Field("active", alias="while", description="until the job is final, for ever, or for so many seconds")
    on_conflict: Literal["return", "reject", "replace"] = Field(
        "return", description="answer with the holder; refuse (409); or take its place: it is cancelled if it has not begun"
    )

    def as_unique(self) -> Unique:
        """As the ledger takes it."""
        seconds = {"active": None, "forever": math.inf}.get(self.hold) if isinstance(self.hold, str) else self.hold
        return Unique(self.key, seconds, self.on_conflict)


_NOT_BOTH: dict[str, Any] = {
    "not": {"required": ["run_at", "delay"], "properties": {"run_at": {"type": "string"}, "delay": {"type": "number"}}}
}


class Wish(BaseModel):
    """All that a submission may say of its job."""

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        frozen=True,
        title="Submission",
        json_schema_extra=_NOT_BOTH,
    )

    command: str = Field(min_length=1, max_length=200, description="a name of GET /v1/commands; without a version it is version 1")
    payload: dict[str, Any] = Field(description="what the command's payload_schema describes")
    priority: Annotated[int, Field(ge=-100, le=100), WHOLE] = Field(0, description="higher first")
    run_at: Moment | None = Field(None, description="not before this time, up to a year ahead; instead of `delay`")
    delay: float | None = Field(None, ge=0, le=YEAR.total_seconds(), allow_inf_nan=False, description="seconds; instead of `run_at`")
    expires_at: Moment | None = Field(None, description="not started by then: cancelled as expired")
    max_failures: Annotated[int, Field(ge=1), WHOLE] | None = Field(
        None, description="at most what the command allows, which is also the default"
    )
    unique: Uniqueness | None = Field(None, description="of the jobs that share its key, one holds it")
    labels: dict[LabelName, LabelValue] | None = Field(None, max_length=20, description="to find it again")
    callback: Callback | None = Field(None, description="the id of a webhook that is told how it ended")

    @model_validator(mode="after")
    def _agrees_with_itself(self) -> Wish:
        if self.run_at is not None and self.delay is not None:
            raise ValueError("give run_at or delay, not both")
        if self.run_at is not None and self.run_at > datetime.now(UTC) + YEAR:
            raise ValueError("run_at must be at most a year ahead")
        if self.run_at is not None and self.expires_at is not None and self.expires_at <= self.run_at:
            raise ValueError("expires_at must be after run_at")
        return self


class BatchItem(Wish):
    """A submission within a batch, which may have an idempotency key of its own."""

    model_config = ConfigDict(title="BatchItem")

    idempotency_key: str | None = Field(None, min_length=1, max_length=MAX_KEY, pattern=r"^[ -~]+$", description="as the header")


class UnknownCommandError(LookupError):
    """No such command, or no such version of it. `nearest` is the known name most like it, if any is: the latest version there is."""

    def __init__(self, name: str, known: Iterable[str]) -> None:
        names = list(known)
        versions = versions_of(name, names)
        like = versions or difflib.get_close_matches(name, names, n=1)
        self.nearest = like[-1] if like else None
        hint = f"; of this command there is {', '.join(versions)}" if versions else f", did you mean {self.nearest!r}?" if like else ""
        super().__init__(f"unknown command {name!r}{hint}")


class InvalidSubmission(ValueError):
    """What was asked for breaks the command's schema, or the rules for every job. `errors`: JSON pointer and what is wrong there."""

    def __init__(self, errors: Sequence[tuple[str, str]]) -> None:
        self.errors = list(errors)
        super().__init__("; ".join(f"{pointer or '/'}: {detail}" for pointer, detail in errors))


class KeyReusedError(ValueError):
    """The idempotency key names another wish."""

    def __init__(self, key: str) -> None:
        super().__init__(f"the idempotency key {key!r} was used before for another submission; nothing was submitted")


def read_wish(fields: Any) -> Wish:
    """Raises InvalidSubmission."""
    try:
        return Wish.model_validate(fields)
    except ValidationError as error:
        raise InvalidSubmission(list_errors(error)) from None


def read_item(fields: Any) -> BatchItem:
    """The same of a batch's item. Raises InvalidSubmission."""
    try:
        return BatchItem.model_validate(fields)
    except ValidationError as error:
        raise InvalidSubmission(list_errors(error, limit=10)) from None


def prepare(
    wish: Wish,
    handlers: Mapping[str, Handler],
    tenant_id: int,
    *,
    key: str | None = None,
    fingerprint: bytes = b"",
    who: str | None = None,
    traceparent: str | None = None,
) -> Submission:
    """Check a wish against its command, and make of it what the ledger writes. Raises UnknownCommandError, InvalidSubmission."""
    handler = find_handler(wish.command, handlers)
    most = handler.retry.max_failures
    if wish.max_failures is not None and wish.max_failures > most:
        raise InvalidSubmission([("/max_failures", f"{wish.command} allows at most {most}, got {wish.max_failures}")])
    payload = orjson.dumps(wish.payload)
    check_payload(handler, payload, "/payload")
    return Submission(
        id=uuid7(),
        tenant_id=tenant_id,
        command=handler.name,
        queue=handler.queue,
        payload=payload,
        max_failures=wish.max_failures or most,
        priority=wish.priority,
        run_at=wish.run_at,
        delay=wish.delay or 0,
        expires_at=wish.expires_at,
        labels=wish.labels or None,
        callback=wish.callback,
        key=key,
        fingerprint=fingerprint,
        who=who,
        traceparent=traceparent,
        unique=wish.unique.as_unique() if wish.unique else None,
    )


def refuse_callbacks(tx: psycopg.Connection[Any], wishes: Sequence[Submission]) -> dict[UUID, InvalidSubmission]:
    """Those of one tenant's wishes, by id, that call back what is no webhook of the tenant's, and what is wrong with each.

    Not a repeat: what its idempotency key names was accepted, whatever has become of the webhook since.
    """
    asked = {wish.callback for wish in wishes if wish.callback is not None}
    lost = asked - webhooks.known(tx, wishes[0].tenant_id, list(asked)) if asked else set[UUID]()
    missing = [wish for wish in wishes if wish.callback in lost]
    keyed = [(wish.tenant_id, wish.key) for wish in missing if wish.key is not None]
    repeats = jobs.find_keys(tx, keyed) if keyed else {}
    return {
        wish.id: InvalidSubmission([("/callback", f"there is no webhook {wish.callback}")])
        for wish in missing
        if wish.key is None or (wish.tenant_id, wish.key) not in repeats
    }


def find_handler(name: str, handlers: Mapping[str, Handler]) -> Handler:
    """By its name, with a version or without: then it is version 1. Raises UnknownCommandError."""
    handler = handlers.get(canonical(name))
    if handler is None:
        raise UnknownCommandError(name, handlers)
    return handler


def check_payload(handler: Handler, payload: bytes, pointer: str) -> None:
    """Raises InvalidSubmission. The caller's own JSON is what gets stored, so that a default stays open until the job runs."""
    try:
        handler.command.model_validate_json(payload)
    except ValidationError as error:
        raise InvalidSubmission(list_errors(error, pointer)) from None


def list_errors(error: ValidationError, prefix: str = "", limit: int = 50) -> list[tuple[str, str]]:
    """What pydantic found, as JSON pointers and sentences, without the values."""
    found = error.errors(include_url=False, include_context=False, include_input=False)
    return [(prefix + point_at(each["loc"]), each["msg"].removeprefix("Value error, ")) for each in found[:limit]]


def point_at(location: Iterable[str | int]) -> str:
    """A JSON pointer (RFC 6901)."""
    return "".join(f"/{str(part).replace('~', '~0').replace('/', '~1')}" for part in location)


def fingerprint_of(body: Mapping[str, Any]) -> bytes:
    """What an idempotency key stands for: SHA-256 over method, route and the body with its keys sorted."""
    return hashlib.sha256(b"POST\n/v1/jobs\n" + orjson.dumps(body, option=orjson.OPT_SORT_KEYS)).digest()


def check_key(key: str) -> str:
    """Raises ValueError for what cannot be an idempotency key."""
    if not 1 <= len(key) <= MAX_KEY or not key.isascii() or not key.isprintable():
        raise ValueError(f"an idempotency key is 1 to {MAX_KEY} printable ASCII characters")
    return key


Caller = psycopg.Connection[Any] | sqlalchemy.Connection


def submit(
    connection: Caller,
    command: Command,
    *,
    tenant: str,
    priority: int = 0,
    delay: float = 0,
    run_at: datetime | None = None,
    expires_at: datetime | None = None,
    max_failures: int | None = None,
    labels: Mapping[str, str] | None = None,
    unique: Unique | None = None,
    callback: UUID | None = None,
    key: str | None = None,
    handlers: Mapping[str, Handler] | None = None,
) -> UUID:
    """Submit in the caller's own transaction (same database): the job is there if and only if the caller commits.

    Returns the job's id; with a `key` that was used before for the same wish, the id of that job; with `unique`, the holder's where it
    says so. `tenant` is a slug, `callback` one of its webhooks. Raises InvalidSubmission, UnknownCommandError, KeyReusedError, HeldError (`unique` says "reject"), ValueError;
    nothing is written then. `handlers`: another table than the installed one. A relay finds the job within 250 ms of the commit, at once
    after `wake`. A unique key stays locked until the commit, for everybody who asks for it; it takes a transaction at READ COMMITTED.

    The connection's account must be a member of `haulier_producer` and have been granted the tenant (`haulier tenants grant`); one that is not
    meets psycopg.errors.InsufficientPrivilege, or no such tenant.
    """
    asked = {
        "command": command.command_name,
        "payload": orjson.Fragment(command.model_dump_json(exclude_unset=True)),
        "priority": priority or None,
        "run_at": run_at,
        "delay": delay or None,
        "expires_at": expires_at,
        "max_failures": max_failures,
        "unique": _as_asked(unique) if unique else None,
        "labels": dict(labels) if labels else None,
        "callback": callback,
    }
    body = strict_json.read(orjson.dumps({name: value for name, value in asked.items() if value is not None}), MAX_DEPTH)
    tx = _driver(connection)
    owner = keys.find_tenant(tx, tenant)
    if owner is None:
        raise ValueError(f"there is no tenant {tenant!r}; nothing was submitted")
    table = _installed() if handlers is None else handlers
    known_by = None if key is None else check_key(key)
    wish = prepare(read_wish(body), table, owner.id, key=known_by, fingerprint=fingerprint_of(body))
    for refusal in refuse_callbacks(tx, [wish]).values():
        raise refusal
    return _write(tx, wish) or _find_repeated(tx, wish)


def _write(tx: psycopg.Connection[Any], wish: Submission) -> UUID | None:
    """Returns the new job, or the one that holds its unique key; None if its idempotency key was used before. Raises HeldError."""
    if wish.unique is None:
        return wish.id if jobs.submit(tx, [wish]) else None
    with tx.transaction():
        _check_isolation(tx)
        outcome = submit_unique(tx, [wish])
    for job_id in outcome.replaced.values():
        hints.keep(tx, job_id, wish.tenant_id)
    held = outcome.held.get(wish.id)
    if held is None:
        return wish.id if outcome.new else None
    if held.refused:
        raise HeldError(wish.unique.key, held.holder)
    return held.holder


def _find_repeated(tx: psycopg.Connection[Any], wish: Submission) -> UUID:
    """The job that has its idempotency key. Raises KeyReusedError if that was another wish."""
    assert wish.key is not None
    found = jobs.find_key(tx, wish.tenant_id, wish.key)
    if found is None or found[1] != wish.fingerprint:
        raise KeyReusedError(wish.key)
    return found[0]


def _check_isolation(tx: psycopg.Connection[Any]) -> None:
    row = tx.execute("show transaction_isolation").fetchone()
    if row is not None and row[0] not in {"read committed", "read uncommitted"}:
        raise ValueError(
            f"unique takes a transaction at READ COMMITTED, this one is at {row[0].upper()}; nothing was submitted"
            " (its snapshot may be older than the end of the job that holds the key)"
        )


def _as_asked(unique: Unique) -> dict[str, Any]:
    """As HTTP says it, without what is the default there, so that both have one fingerprint."""
    hold = {} if unique.seconds is None else {"while": "forever" if math.isinf(unique.seconds) else unique.seconds}
    way = {} if unique.on_conflict == "return" else {"on_conflict": unique.on_conflict}
    return {"key": unique.key, **hold, **way}


def wake(connection: Caller | str) -> None:
    """After the commit of what was submitted: wake a relay that sleeps, and with the connection that submitted whoever waits for a job that was
    replaced (through HAULIER_REDIS_URL). Takes a connection without an open transaction, or a URL.

    Raises RuntimeError inside a transaction: NOTIFY would hold up every other commit, and tell of what is not there yet.
    """
    if isinstance(connection, str):
        with psycopg.connect(connection, autocommit=True, connect_timeout=5) as own:
            workers.wake(own)
    elif isinstance(connection, sqlalchemy.Connection):
        if connection.in_transaction():
            raise RuntimeError("wake() is for after the commit; this connection has a transaction open")
        with connection.begin():
            driver = _driver(connection)
            workers.wake(driver)
        hints.tell(driver)
    else:
        if connection.info.transaction_status is not psycopg.pq.TransactionStatus.IDLE:
            raise RuntimeError("wake() is for after the commit; this connection has a transaction open")
        with connection.transaction():
            workers.wake(connection)
        hints.tell(connection)


def _driver(connection: Caller) -> psycopg.Connection[Any]:
    if isinstance(connection, psycopg.Connection):
        return connection
    if not connection.in_transaction():
        connection.execute(sqlalchemy.text("select 1"))  # SQLAlchemy must know that a transaction has begun, or its commit() does nothing
    driver = connection.connection.driver_connection
    assert isinstance(driver, psycopg.Connection), "the connection must be psycopg's (postgresql+psycopg://)"
    return cast("psycopg.Connection[Any]", driver)


@cache
def _installed() -> Mapping[str, Handler]:
    return load(Settings().handlers)  # pyright: ignore[reportCallIssue]
