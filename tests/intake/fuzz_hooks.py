"""What schemathesis is told beside the document: only what no schema can say, each with its reason. Loaded by `tests.intake.fuzz`."""

from __future__ import annotations

import hashlib
import os
import re
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import schemathesis
from hypothesis import strategies as st

# "Up to a year ahead" and "between 2000 and 2200" are no constants, and an expiry that is before `run_at` is one by the other field.
PLATFORM = os.environ["HAULIER_FUZZ_PLATFORM_KEY"]
TENANT = os.environ["HAULIER_FUZZ_TENANT"]
LINES = '{"command": "orders.confirm", "payload": {"order_id": "0192f5a0-7d1c-7c7e-9d0a-3f2b8c1d4e5f"}}\n'
LIMITS = {"submissions": {"rate": 99_999.5, "burst": 1_000_000}, "each_key": {"rate": 99_999, "burst": 1_000_000.0}, "open_jobs": 10**9}
NOW = datetime.now(UTC)
schemathesis.openapi.format(
    "date-time",
    st.datetimes(datetime(2000, 1, 2), (NOW + timedelta(days=360)).replace(tzinfo=None)).map(lambda moment: moment.isoformat() + "Z"),  # noqa: DTZ001  (a strategy takes naive ones)
)


@schemathesis.serializer("application/x-ndjson")
def as_lines(context: Any, value: Any) -> bytes:
    return value.encode("utf-8", "surrogatepass") if isinstance(value, str) else repr(value).encode()


def is_positive(case: Any) -> bool:
    return case.meta is None or case.meta.generation.mode.is_positive


@schemathesis.hook
def before_call(context: Any, case: Any, kwargs: Any) -> None:
    """Of a request that is to be accepted, change what is only accepted when it fits what happened before."""
    shorten(case, kwargs)
    if not is_positive(case):
        return
    # A cursor is a page of one list with one filter: a link may give one, chance cannot.
    query = case.query or {}
    query.pop("cursor", None)
    # Which tenants there are no schema knows: a tenant's key may name its own, which is as good as none, and a platform key names one.
    query.pop("tenant", None)
    body = cast("dict[str, Any]", case.body if isinstance(case.body, dict) else {})
    takes_tenant = any(parameter.name == "tenant" for parameter in case.operation.query)
    if PLATFORM in str(case.headers) and takes_tenant and body.get("role") != "platform":
        case.query = {**query, "tenant": TENANT}
    headers = case.headers or {}
    # The same of where a stream goes on.
    for each in [each for each in headers if each.lower() == "last-event-id"]:
        del headers[each]
    # A change is made from the version that there is, which chance does not know.
    for each in [each for each in headers if each.lower() == "if-match"]:
        headers[each] = "*"
    name = next((each for each in headers if each.lower() == "idempotency-key"), None)
    # A key goes with one request: here each has keys of its own.
    if name is not None:
        distinct = repr((headers[name], case.body, case.query, case.media_type)).encode("utf-8", "backslashreplace")
        headers[name] = f"fuzz-{hashlib.sha256(distinct).hexdigest()[:20]}"
    # Lines of JSON are a string to a schema: the document's example stands for them.
    if case.media_type == "application/x-ndjson":
        case.body = LINES
    # An edited payload must fit the job's own command.
    if case.operation.path.endswith("/replay"):
        body.pop("payload", None)
    # A result is any JSON; that whole numbers end at 2^53 a schema could only say of each.
    if case.operation.path.endswith("/resolve"):
        body.pop("result", None)
    # A tenant that may do nothing any more would find nothing any more.
    if case.operation.path == "/v1/limits":
        case.body = {name: LIMITS[name] for name in body if name in LIMITS}
    agree(body)
    for item in case.body if isinstance(case.body, list) else ():
        if isinstance(item, dict):
            agree(cast("dict[str, Any]", item))
            # All or none: one item that finds its key taken is a no to all.
            item.pop("idempotency_key", None)
            item.pop("unique", None)


def shorten(case: Any, kwargs: Any) -> None:
    """A stream that has nothing to say, and an answer that is held, take their time: nothing else is found in the rest of it."""
    if case.operation.path.endswith("/events"):
        kwargs["timeout"] = 0.3
    headers = case.headers or {}
    for name in [each for each in headers if each.lower() == "prefer"]:
        headers[name] = re.sub(r"[1-9][0-9]*", "1", str(headers[name]))


def agree(wish: dict[str, Any]) -> None:
    """Of a submission, what one field means to another of the same body, or to what there is."""
    # Of which webhooks there are no schema knows.
    wish.pop("callback", None)
    if isinstance(wish.get("run_at"), str) and isinstance(wish.get("expires_at"), str) and wish["expires_at"] <= wish["run_at"]:
        del wish["expires_at"]
    payload = wish.get("payload")
    # "No two lines of one SKU": uniqueItems compares whole items.
    if isinstance(payload, dict) and isinstance(payload.get("lines"), list):
        payload["lines"] = list({line["sku"]: line for line in payload["lines"]}.values())
