"""What deliveries of webhooks count. No label names a tenant or a receiver: both are strangers' to choose."""

from __future__ import annotations

from config.metrics import Counter

DELIVERIES = Counter(
    "haulier_webhook_deliveries_total",
    "Tries at delivering a message: delivered, gone (410), refused (any other answer), unreachable (none); given_up: of all its tries, none",
    ["outcome"],
)
