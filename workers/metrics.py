"""What a worker counts. Every name begins with haulier_; no label names a tenant."""

from __future__ import annotations

import threading
from functools import cache

from config.metrics import Counter, Gauge, Histogram

ENDED = Counter("haulier_attempts_ended_total", "Attempts by how they ended", ["outcome"])
DUPLICATES = Counter("haulier_duplicates_suppressed_total", "Announcements that found nothing to begin")
LEASES_LOST = Counter("haulier_leases_lost_total", "Ends that were not written because another attempt holds the job")
RESCUED = Counter("haulier_jobs_rescued_total", "Jobs taken back from workers that are gone")
RUN_APART = Counter(
    "haulier_jobs_run_apart_total", "Jobs run again by themselves because the transaction they shared was rolled back", ["command"]
)
ORPHANS = Counter("haulier_orphan_messages_total", "Deliveries that name no readable job", ["queue"])
GIVEN_UP = Counter("haulier_messages_given_up_total", "Messages that RabbitMQ dead-lettered; their jobs are announced again", ["queue"])
WEBHOOK_LAG = Gauge("haulier_webhook_lag_seconds", "Age of the last ended job that the dispatcher has seen, while it is behind")
RUN_SECONDS = Histogram("haulier_run_seconds", "How long handlers run", ["command"])

_lock = threading.Lock()
_sums: dict[str, tuple[int, float]] = {}


#: Looking a label up costs as much as counting.
_run_seconds = cache(RUN_SECONDS.labels)
succeeded = ENDED.labels("succeeded").inc


def observe_run(command: str, seconds: float, jobs: int = 1) -> None:
    """A call of a handler, and how many jobs it was for."""
    _run_seconds(command).observe(seconds)
    with _lock:
        count, total = _sums.get(command, (0, 0.0))
        _sums[command] = (count + jobs, total + seconds)


def take_means() -> dict[str, float]:
    """Mean milliseconds by command since the last call: what the relay sizes messages by."""
    with _lock:
        sums = dict(_sums)
        _sums.clear()
    return {command: 1000 * total / count for command, (count, total) in sums.items()}
