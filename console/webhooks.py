"""`haulier webhooks`: the receivers that a tenant has, what they were told, and telling them again."""

from __future__ import annotations

import time
from typing import Annotated, Any
from uuid import UUID

import typer

from console.client import Client, connect
from console.failing import FailedError, WrongUseError
from console.jobs import Cursor, Limit, TenantSlug
from console.printing import Json, print_facts, print_json, print_table

webhooks = typer.Typer(help="Webhooks: list, create, test, enable, redeliver.", no_args_is_help=True)

WebhookId = Annotated[UUID, typer.Argument(help="the webhook's id")]

#: Seconds for which `test --wait` waits for the receiver: longer than a delivery may take.
PATIENCE = 60.0
LOOK_EVERY = 0.2


@webhooks.command("list")
def list_webhooks(
    tenant: Annotated[str | None, typer.Option(help="of a platform key: a tenant's slug, or * for all")] = None,
    limit: Limit = 50,
    cursor: Cursor = None,
    as_json: Json = False,
) -> None:
    """The newest first."""
    page = connect().get("/v1/webhooks", tenant=tenant, limit=limit, cursor=cursor)
    names = ("id", "name", "url", "enabled", "events", "commands", "disabled_reason")
    _print_page(page, names, as_json)


@webhooks.command("show")
def show_webhook(webhook_id: WebhookId, tenant: TenantSlug = None, as_json: Json = False) -> None:
    """A webhook, and what it was told last."""
    client = connect()
    webhook = client.get(f"/v1/webhooks/{webhook_id}", tenant=tenant)
    if as_json:
        print_json(webhook)
        return
    print_facts(webhook)
    print()
    _print_deliveries(client.get(f"/v1/webhooks/{webhook_id}/deliveries", tenant=tenant, limit=10), as_json)


@webhooks.command("create")
def create_webhook(
    url: Annotated[str, typer.Argument(help="where the receiver is: https://host/path")],
    event: Annotated[list[str], typer.Option(help="what it is told of, such as job.dead; may be given more than once")],
    command: Annotated[list[str] | None, typer.Option(help="only jobs of this command; may be given more than once")] = None,
    name: Annotated[str, typer.Option(help="what for")] = "",
    tenant: TenantSlug = None,
    as_json: Json = False,
) -> None:
    """Make a webhook and show its secret, this once."""
    wish = {"url": url, "events": event, "name": name, **({"commands": command} if command else {})}
    _print_secret(connect().post("/v1/webhooks", wish, tenant=tenant), as_json)


@webhooks.command("rotate")
def rotate_secret(
    webhook_id: WebhookId,
    overlap: Annotated[float, typer.Option(help="seconds for which the old secret signs as well")] = 86_400,
    tenant: TenantSlug = None,
    as_json: Json = False,
) -> None:
    """Give it a new secret and show that, this once."""
    _print_secret(connect().post(f"/v1/webhooks/{webhook_id}/rotate", {"overlap": overlap}, tenant=tenant), as_json)


@webhooks.command("enable")
def enable_webhook(webhook_id: WebhookId, tenant: TenantSlug = None, as_json: Json = False) -> None:
    """From now on it is told again; what it missed can be redelivered."""
    _switch(webhook_id, tenant, as_json, enabled=True)


@webhooks.command("disable")
def disable_webhook(webhook_id: WebhookId, tenant: TenantSlug = None, as_json: Json = False) -> None:
    """Tell it nothing more; what is under way ends undelivered."""
    _switch(webhook_id, tenant, as_json, enabled=False)


@webhooks.command("delete")
def delete_webhook(webhook_id: WebhookId, tenant: TenantSlug = None) -> None:
    """Remove it, and the log of its deliveries with it."""
    connect().send("DELETE", f"/v1/webhooks/{webhook_id}", tenant=tenant)
    print(f"webhook {webhook_id} is deleted")


@webhooks.command("test")
def send_test(
    webhook_id: WebhookId,
    wait: Annotated[bool, typer.Option("--wait", help="until the receiver has answered; exit status 0 only if with a 2xx")] = False,
    tenant: TenantSlug = None,
    as_json: Json = False,
) -> None:
    """Send it a `webhook.test`, once, disabled or not."""
    client = connect()
    delivery = client.post(f"/v1/webhooks/{webhook_id}/test", tenant=tenant)
    if wait:
        delivery = _wait(client, f"/v1/webhooks/{webhook_id}/deliveries/{delivery['id']}", tenant)
    print_json(delivery) if as_json else _print_delivery(delivery)
    if wait and delivery["state"] != "delivered":
        raise typer.Exit(1)


@webhooks.command("deliveries")
def list_deliveries(
    webhook_id: WebhookId,
    state: Annotated[list[str] | None, typer.Option(help="only in this state, such as failed; may be given more than once")] = None,
    tenant: TenantSlug = None,
    limit: Limit = 50,
    cursor: Cursor = None,
    as_json: Json = False,
) -> None:
    """What it was told, the newest first."""
    path = f"/v1/webhooks/{webhook_id}/deliveries"
    _print_deliveries(connect().get(path, state=state or None, tenant=tenant, limit=limit, cursor=cursor), as_json)


@webhooks.command("redeliver")
def redeliver(
    webhook_id: WebhookId,
    delivery_id: Annotated[UUID | None, typer.Argument(help="one delivery; or else --since")] = None,
    since: Annotated[str | None, typer.Option(help="all that was made from then on: a time with an offset, 2026-12-01T09:00:00Z")] = None,
    until: Annotated[str | None, typer.Option(help="and before then")] = None,
    state: Annotated[
        list[str] | None, typer.Option(help="only in this state; by default what was not delivered; may be given more than once")
    ] = None,
    tenant: TenantSlug = None,
    as_json: Json = False,
) -> None:
    """Send one message, or those of a stretch of time, again; 500 of them, or all of one moment."""
    if (delivery_id is None) == (since is None) or (delivery_id is not None and (until or state)):
        raise WrongUseError("say which: a delivery's id, or --since with --until and --state; nothing was sent")
    if delivery_id is not None:
        delivery = connect().post(f"/v1/webhooks/{webhook_id}/deliveries/{delivery_id}/redeliver", tenant=tenant)
        print_json(delivery) if as_json else _print_delivery(delivery)
        return
    stretch = {"since": since, "until": until, **({"states": state} if state else {})}
    done = connect().post(f"/v1/webhooks/{webhook_id}/redeliver", stretch, tenant=tenant)
    if as_json:
        print_json(done)
        return
    print(f"{done['redelivered']} message(s) are sent again")
    if done["next_since"]:
        print(f"there is more: --since {done['next_since']}")


def _switch(webhook_id: UUID, tenant: str | None, as_json: bool, *, enabled: bool) -> None:
    headers = {"if-match": "*"}
    webhook = connect().send("PATCH", f"/v1/webhooks/{webhook_id}", {"enabled": enabled}, headers, tenant=tenant)
    print_json(webhook) if as_json else print(f"webhook {webhook_id} is {'enabled' if webhook['enabled'] else 'disabled'}")


def _wait(client: Client, path: str, tenant: str | None) -> Any:
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until:
        delivery = client.get(path, tenant=tenant)
        if delivery["state"] != "pending":
            return delivery
        time.sleep(LOOK_EVERY)
    raise FailedError(f"the message has not been sent after {PATIENCE:g} s; does a worker of the queue webhooks run?")


def _print_secret(webhook: Any, as_json: bool) -> None:
    if as_json:
        print_json(webhook)
        return
    print_facts(webhook)
    print("The secret is shown only this once.")


def _print_page(page: Any, names: tuple[str, ...], as_json: bool) -> None:
    if as_json:
        print_json(page)
        return
    print_table(names, [tuple(each[name] for name in names) for each in page["items"]])
    if page["next_cursor"]:
        print(f"there is more: --cursor {page['next_cursor']}")


def _print_deliveries(page: Any, as_json: bool) -> None:
    for each in () if as_json else page["items"]:
        each["tries"], each["last"] = len(each["attempts"]), each["attempts"][-1]["message"] if each["attempts"] else None
    _print_page(page, ("id", "created_at", "event", "job_id", "state", "reason", "next_at", "tries", "last"), as_json)


def _print_delivery(delivery: Any) -> None:
    said = [attempt["message"] for attempt in delivery["attempts"]]
    print_facts({**{name: delivery[name] for name in ("id", "event", "job_id", "state", "reason", "next_at")}, "said": "\n".join(said)})
