"""What a relay counts."""

from __future__ import annotations

from config.metrics import Counter, Gauge

STAGED = Counter("haulier_jobs_staged_total", "Scheduled jobs that became due")
ANNOUNCED = Counter("haulier_jobs_announced_total", "Jobs announced to RabbitMQ", ["queue"])
UNCONFIRMED = Counter("haulier_announcements_unconfirmed_total", "Announcements that RabbitMQ did not confirm")
AGAIN = Counter("haulier_announced_again_total", "Jobs announced again because their message seems lost", ["queue"])
LAG = Gauge("haulier_outbox_lag_seconds", "Age of the oldest due job that is not announced", ["queue"])
