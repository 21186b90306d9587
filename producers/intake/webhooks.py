"""Webhooks: where a tenant's receivers are, what they were told, and telling them again. A secret is shown once, when it is made."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Annotated, Any, Literal
from uuid import UUID

from fastapi import APIRouter, Depends, Header, Query
from pydantic import ConfigDict, Field
from starlette.requests import Request
from starlette.responses import Response

from config.ids import first_id_at, uuid7
from ledger import deliveries, webhooks
from ledger.deliveries import Carrier, Delivery, Shown
from ledger.webhooks import Webhook
from pipelines.webhooks.address import Rules, UnsafeAddressError, check_url
from pipelines.webhooks.deliver import deliver_webhook
from pipelines.webhooks.message import MESSAGES, TEST, EventType, write
from pipelines.webhooks.signing import make_secret
from producers.intake.auth import Access, Administrator, Reader
from producers.intake.contract import header, problems
from producers.intake.cursor import Cursor, Limit, cut, read_cursor
from producers.intake.dead_letters import Body, body_of, takes
from producers.intake.parts import Parts, Tx, parts_of
from producers.intake.problems import Problem, not_found
from producers.intake.representation import answer, page, utc
from producers.intake.views import (
    Deliveries,
    DeliveryState,
    DeliveryView,
    NewWebhookView,
    RedeliveredView,
    Webhooks,
    WebhookView,
)
from producers.submission import InvalidSubmission, Moment

router = APIRouter(prefix="/v1/webhooks", tags=["webhooks"])

CARRIER = Carrier(deliver_webhook.name, deliver_webhook.queue, deliver_webhook.retry.max_failures)
#: Deliveries that one call sends again; more only where they were made at one moment.
MOST_AGAIN = 500

Events = Annotated[list[EventType], Field(min_length=1, max_length=10, description="what it is told of")]
Commands = Annotated[
    list[Annotated[str, Field(min_length=1, max_length=200)]],
    Field(min_length=1, max_length=100, description="only jobs of these commands; all by default"),
]
Name = Annotated[str, Field(max_length=200, description="what for")]
# For the document only: what is checked, and said to be wrong, is in pipelines.webhooks.address, and more than a pattern can say.
_LABEL = "[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_TARGET = "[A-Za-z0-9._~!$&'()*+,;=:@%/-]*"
_URL = rf"^https://({_LABEL}\.){{0,9}}[A-Za-z]([A-Za-z0-9-]{{0,61}}[A-Za-z0-9])?(:(443|8443))?(/{_TARGET})?(\?{_TARGET})?$"
Url = Annotated[
    str,
    Field(
        max_length=2048,
        description="https, port 443 or 8443, a public host's name; no user, no fragment",
        json_schema_extra={"pattern": _URL},
    ),
]
Match = Annotated[str | None, Header(alias="If-Match", description="the ETag that the change is made from")]


class NewWebhook(Body):
    model_config = ConfigDict(json_schema_extra={"examples": [{"url": "https://hooks.example.com/haulier", "events": ["job.dead"]}]})

    url: Url
    events: Events
    commands: Commands | None = None
    name: Name = ""


class ChangedWebhook(Body):
    model_config = ConfigDict(json_schema_extra={"examples": [{"enabled": True}]})

    url: Url | None = None
    events: Events | None = None
    commands: Commands | None = Field(None, description="null: all commands")
    name: Name | None = None
    enabled: bool | None = Field(None, description="enabled again, it is told what happens from now on")


class SecretRotation(Body):
    model_config = ConfigDict(json_schema_extra={"examples": [{"overlap": 86400}]})

    overlap: float = Field(86_400, ge=0, le=30 * 86_400, allow_inf_nan=False, description="seconds for which the old secret signs as well")


class Range(Body):
    model_config = ConfigDict(json_schema_extra={"examples": [{"since": "2026-11-25T00:00:00Z"}]})

    since: Moment = Field(description="messages made from this time on")
    until: Moment | None = Field(None, description="and before this one")
    states: list[Literal["failed", "rejected", "cancelled", "delivered"]] = Field(
        ["failed", "rejected", "cancelled"], min_length=1, max_length=4, description="by default what was not delivered"
    )


@router.get("", response_model=Webhooks)
def list_webhooks(request: Request, access: Reader, limit: Limit = 50, cursor: Cursor = None) -> Response:
    """The newest first. Secrets are not shown again."""
    before = read_cursor(cursor, "webhooks")

    def read(tx: Tx) -> Response:
        found = webhooks.list_webhooks(tx, access.tenants(tx), before, limit + 1)
        shown, next_cursor = cut(found, limit, "webhooks", lambda webhook: webhook.id)
        return answer(page([_show(webhook) for webhook in shown], next_cursor))

    return parts_of(request).door.use_for(access, read)


@router.post(
    "",
    status_code=201,
    response_model=NewWebhookView,
    responses={201: {"headers": {"Location": header("the webhook"), "ETag": header("its version, for changes")}}}
    | problems(408, 413, 415, "invalid"),
    openapi_extra=takes(NewWebhook),
)
def add_webhook(request: Request, access: Administrator, wish: Annotated[NewWebhook, Depends(body_of(NewWebhook))]) -> Response:
    """It is told of all that ends from now on. The secret, by which the receiver knows our messages, is shown this once."""
    parts, secret = parts_of(request), make_secret()
    _check_url(parts, wish.url)

    def add(tx: Tx) -> Webhook:
        made = webhooks.add(tx, access.tenant_id(tx), wish.name, wish.url, wish.events, wish.commands, secret)
        access.audit(tx, made.tenant_id, "webhook.create", made.id, events=made.events, commands=made.commands, name=made.name)
        return made

    made = parts.door.use_for(access, add)
    return answer({**_show(made), "secret": secret}, 201, {"location": f"/v1/webhooks/{made.id}", "etag": _tag(made)})


@router.get("/{webhook_id}", response_model=WebhookView, responses={200: {"headers": {"ETag": header("its version, for changes")}}})
def show_webhook(request: Request, access: Reader, webhook_id: UUID) -> Response:
    """With its ETag, which a change needs."""
    found = parts_of(request).door.use_for(access, lambda tx: _find(tx, access, webhook_id))
    return answer(_show(found), headers={"etag": _tag(found)})


@router.patch(
    "/{webhook_id}",
    response_model=WebhookView,
    responses={200: {"headers": {"ETag": header("its new version")}}} | problems(408, 412, 413, 415, "invalid", 428),
    openapi_extra=takes(ChangedWebhook),
)
def change_webhook(
    request: Request,
    access: Administrator,
    webhook_id: UUID,
    wish: Annotated[ChangedWebhook, Depends(body_of(ChangedWebhook))],
    if_match: Match = None,
) -> Response:
    """What is left out stays as it is. Enabled again, it is told what happens from now on; what it missed can be redelivered."""
    parts = parts_of(request)
    if wish.url is not None:
        _check_url(parts, wish.url)
    given = {name: getattr(wish, name) for name in wish.model_fields_set}
    changes = {name: value for name, value in given.items() if value is not None or name == "commands"}

    def change(tx: Tx) -> Webhook:
        found = _find(tx, access, webhook_id)
        if if_match is None:
            raise Problem("precondition-required", "say which version the change is made from: If-Match with the ETag of GET")
        changed = None
        if if_match.strip() in {_tag(found), "*"}:
            changed = webhooks.change(tx, replace(found, **changes), f"disabled by {access.who}")
        if changed is None:
            raise Problem("precondition-failed", f"webhook {webhook_id} has been changed meanwhile; read it again, nothing changed")
        # A URL may hold a token of the receiver's: that it was changed is told, and not what to.
        told = {name: value for name, value in changes.items() if name != "url"} | ({"url": "changed"} if "url" in changes else {})
        access.audit(tx, changed.tenant_id, "webhook.change", webhook_id, **told)
        return changed

    changed = parts.door.use_for(access, change)
    return answer(_show(changed), headers={"etag": _tag(changed)})


@router.delete("/{webhook_id}", status_code=204, response_class=Response)
def remove_webhook(request: Request, access: Administrator, webhook_id: UUID) -> Response:
    """Deliveries under way end; its log is not shown any more."""

    def remove(tx: Tx) -> None:
        found = _find(tx, access, webhook_id)
        if not webhooks.remove(tx, webhook_id):
            raise not_found(f"webhook {webhook_id}")
        access.audit(tx, found.tenant_id, "webhook.delete", webhook_id, name=found.name)

    parts_of(request).door.use_for(access, remove)
    return Response(None, 204)


@router.post(
    "/{webhook_id}/rotate",
    response_model=NewWebhookView,
    responses=problems(408, 413, 415, "invalid"),
    openapi_extra=takes(SecretRotation),
)
def rotate_webhook_secret(
    request: Request, access: Administrator, webhook_id: UUID, wish: Annotated[SecretRotation, Depends(body_of(SecretRotation))]
) -> Response:
    """A new secret, shown this once. For the overlap, messages are signed with both, so that the receiver can change over in peace."""
    secret = make_secret()

    def rotate(tx: Tx) -> Webhook:
        found = _find(tx, access, webhook_id)
        webhooks.rotate(tx, found, secret, wish.overlap)
        access.audit(tx, found.tenant_id, "webhook.rotate", webhook_id, overlap=wish.overlap)
        return found

    return answer({**_show(parts_of(request).door.use_for(access, rotate)), "secret": secret})


@router.post("/{webhook_id}/test", status_code=202, response_model=DeliveryView)
def test_webhook(request: Request, access: Administrator, webhook_id: UUID) -> Response:
    """Send it a `webhook.test`, once, disabled or not. The answer is the delivery: ask for it again to see how it went."""
    parts = parts_of(request)

    def test(tx: Tx) -> Shown:
        found = _find(tx, access, webhook_id)
        body = write(TEST, datetime.now(UTC), {"webhook_id": webhook_id})
        made = Delivery(uuid7(), found.tenant_id, webhook_id, uuid7(), TEST, body)
        deliveries.submit(tx, [made], CARRIER)
        access.audit(tx, found.tenant_id, "webhook.test", webhook_id)
        return _find_delivery(tx, found, made.id)

    shown = parts.door.use_for(access, test)
    parts.writers.after_commit()
    return answer(_show_delivery(shown), 202)


@router.get("/{webhook_id}/deliveries", response_model=Deliveries)
def list_deliveries(
    request: Request,
    access: Reader,
    webhook_id: UUID,
    state: Annotated[list[DeliveryState] | None, Query(description="may be given more than once")] = None,
    limit: Limit = 50,
    cursor: Cursor = None,
) -> Response:
    """What it was told, the newest first, with each try's status and time. What receivers answered beside it is not kept."""
    about = f"deliveries {webhook_id} {sorted(state or [])}"
    before = read_cursor(cursor, about)

    def read(tx: Tx) -> Response:
        webhook = _find(tx, access, webhook_id)
        found = deliveries.list_deliveries(tx, webhook.tenant_id, webhook_id, state, before, limit + 1)
        shown, next_cursor = cut(found, limit, about, lambda delivery: delivery.id)
        return answer(page([_show_delivery(delivery) for delivery in shown], next_cursor))

    return parts_of(request).door.use_for(access, read)


@router.get("/{webhook_id}/deliveries/{delivery_id}", response_model=DeliveryView)
def show_delivery(request: Request, access: Reader, webhook_id: UUID, delivery_id: UUID) -> Response:
    """One message, and how each try went."""
    return parts_of(request).door.use_for(
        access, lambda tx: answer(_show_delivery(_find_delivery(tx, _find(tx, access, webhook_id), delivery_id)))
    )


@router.post(
    "/{webhook_id}/deliveries/{delivery_id}/redeliver",
    status_code=202,
    response_model=DeliveryView,
    responses=problems("wrong-state"),
)
def redeliver(request: Request, access: Administrator, webhook_id: UUID, delivery_id: UUID) -> Response:
    """Send it again, under the same `webhook-id`, from the beginning of the schedule. Refused while it is being sent."""
    parts = parts_of(request)

    def again(tx: Tx) -> Shown:
        webhook = _find(tx, access, webhook_id)
        if not deliveries.deliver_again(tx, _find_delivery(tx, webhook, delivery_id), CARRIER, access.who):
            raise Problem("wrong-state", f"delivery {delivery_id} is being sent right now; nothing changed")
        access.audit(tx, webhook.tenant_id, "webhook.redeliver", webhook_id, delivery=delivery_id)
        return _find_delivery(tx, webhook, delivery_id)

    shown = parts.door.use_for(access, again)
    parts.writers.after_commit()
    return answer(_show_delivery(shown), 202)


@router.post(
    "/{webhook_id}/redeliver",
    status_code=202,
    response_model=RedeliveredView,
    responses=problems(408, 413, 415, "invalid"),
    openapi_extra=takes(Range),
)
def redeliver_range(request: Request, access: Administrator, webhook_id: UUID, wish: Annotated[Range, Depends(body_of(Range))]) -> Response:
    """Send again what was made in a stretch of time, the oldest first: 500 messages, or all of one moment. `next_since` says where to go on."""
    parts = parts_of(request)

    def again(tx: Tx) -> dict[str, Any]:
        webhook = _find(tx, access, webhook_id)
        first = first_id_at(wish.since.timestamp() - 60)  # the intake's clock is not the ledger's
        page, go_on = deliveries.in_range(tx, webhook.tenant_id, webhook_id, first, wish.since, wish.until, wish.states, MOST_AGAIN)
        told = [_find_delivery(tx, webhook, delivery_id) for delivery_id in page]
        done = sum(deliveries.deliver_again(tx, each, CARRIER, access.who) for each in told)
        access.audit(tx, webhook.tenant_id, "webhook.redeliver", webhook_id, since=wish.since, until=wish.until, redelivered=done)
        return {"redelivered": done, "next_since": utc(go_on)}

    content = parts.door.use_for(access, again)
    parts.writers.after_commit()
    return answer(content, 202)


def describe_messages() -> dict[str, Any]:
    """What receivers are sent: the OpenAPI document's `webhooks`, and the schemas that they need."""
    return {kind: {"post": _describe(kind)} for kind in MESSAGES}


def _describe(kind: str) -> dict[str, Any]:
    model = MESSAGES[kind]
    name = kind.replace(".", "_")
    fields = {
        "webhook-id": "the message's own id, the same however often it is sent: by it a repeat is known",
        "webhook-timestamp": "Unix seconds of this try; refuse what is more than five minutes off",
        "webhook-signature": "one or more, with blanks between: `v1,` and base64 of HMAC-SHA256 over `id.timestamp.body`",
    }
    return {
        "operationId": f"receive_{name}",
        "summary": kind,
        "description": (model.__doc__ or "").strip(),
        "tags": ["webhooks"],
        "parameters": [
            {"name": field, "in": "header", "required": True, "description": text, "schema": {"type": "string"}}
            for field, text in fields.items()
        ],
        "requestBody": {"required": True, "content": {"application/json": {"schema": {"$ref": f"#/components/schemas/{model.__name__}"}}}},
        "responses": {
            "2XX": {"description": "It has arrived; anything else is tried again"},
            "410": {"description": "Nothing shall be sent here any more: the webhook is disabled"},
        },
    }


def message_schemas() -> dict[str, Any]:
    found: dict[str, Any] = {}
    for model in set(MESSAGES.values()):
        schema = model.model_json_schema(ref_template="#/components/schemas/{model}")
        found |= schema.pop("$defs", {})
        found[model.__name__] = schema
    return dict(sorted(found.items()))


def _check_url(parts: Parts, url: str) -> None:
    settings = parts.settings
    try:
        check_url(url, Rules.read(settings.webhook_networks, http=settings.webhook_http))
    except UnsafeAddressError as error:
        raise InvalidSubmission([("/url", str(error))]) from None


def _find(tx: Tx, access: Access, webhook_id: UUID) -> Webhook:
    """Raises Problem `not-found`, for another tenant's webhook too."""
    found = webhooks.find(tx, webhook_id, access.tenants(tx))
    if found is None:
        raise not_found(f"webhook {webhook_id}")
    return found


def _find_delivery(tx: Tx, webhook: Webhook, delivery_id: UUID) -> Shown:
    found = deliveries.find(tx, webhook.tenant_id, webhook.id, delivery_id)
    if found is None:
        raise not_found(f"delivery {delivery_id}")
    return found


def _tag(webhook: Webhook) -> str:
    return f'"w-{webhook.version}"'


def _show(webhook: Webhook) -> dict[str, Any]:
    return {
        "id": webhook.id,
        "name": webhook.name,
        "url": webhook.url,
        "events": webhook.events,
        "commands": webhook.commands,
        "enabled": webhook.enabled,
        "disabled_reason": webhook.disabled_reason,
        "created_at": utc(webhook.created_at),
        "updated_at": utc(webhook.updated_at),
    }


def _show_delivery(delivery: Shown) -> dict[str, Any]:
    return {
        "id": delivery.id,
        "event": delivery.event,
        "job_id": delivery.subject_id,
        "state": delivery.state,
        "reason": delivery.reason,
        "created_at": utc(delivery.created_at),
        "next_at": utc(delivery.next_at),
        "attempts": [_show_try(attempt) for attempt in delivery.attempts if attempt["outcome"] != "snoozed"],
    }


def _show_try(attempt: dict[str, Any]) -> dict[str, Any]:
    lines: list[dict[str, Any]] = attempt["log"] or []
    line = next((line for line in lines if "seconds" in line), dict[str, Any]())
    return {
        "at": utc(datetime.fromisoformat(attempt["at"])),
        "outcome": "delivered" if attempt["outcome"] == "succeeded" and (line.get("status") or 500) < 300 else "failed",
        "status": line.get("status"),
        "seconds": line.get("seconds"),
        "message": line.get("message") or attempt["message"],
    }
