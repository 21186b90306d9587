"""Webhooks: telling the tenants' own receivers how their jobs ended, by Standard Webhooks 1.0.0 (decision 0014)."""

from __future__ import annotations

from pipelines.command import Handler
from pipelines.webhooks.deliver import deliver_webhook
from pipelines.webhooks.give_up import give_up_webhook

#: Haulier's own commands, which every table of handlers gets besides its own (`pipelines.load`). Nobody is told how they end.
OWN: dict[str, Handler] = {
    "webhooks.deliver": deliver_webhook,
    "webhooks.give_up": give_up_webhook,
}
