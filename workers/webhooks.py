"""The dispatcher, a part of upkeep: reads what has ended from the ledger's events, and submits a delivery for each webhook that wants to know.

Begin and settle know nothing of it. Events are read by their transactions, up to the oldest one that is still under way, and how far that
was is written in the transaction that submits: each event is seen once, in whatever order they were committed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from psycopg import Connection

from config.failpoints import reach
from config.ids import uuid7
from ledger import deliveries
from ledger.deliveries import Carrier, Delivery, Ended, Family, Watcher
from ledger.reading import family_state
from pipelines.webhooks import OWN
from pipelines.webhooks.deliver import deliver_webhook
from pipelines.webhooks.message import write
from workers import metrics

#: "hook": the dispatcher's own lock, so that it does not wait for another copy's long sweep.
LOCK = 0x686F6F6B
#: Ended jobs of one step.
STEP = 1000
CARRIER = Carrier(deliver_webhook.name, deliver_webhook.queue, deliver_webhook.retry.max_failures)


@dataclass(frozen=True, slots=True)
class Dispatched:
    """One step: how many deliveries it submitted, and whether there is more to be seen at once."""

    submitted: int
    more: bool


def dispatch(tx: Connection[Any]) -> Dispatched:
    """One step, in the caller's transaction, under the lock."""
    look = deliveries.stretch(tx)
    if look is None or look.before <= look.after:
        metrics.WEBHOOK_LAG.set(0)
        return Dispatched(0, more=False)
    found, before = deliveries.ended(tx, look, list(OWN), STEP)
    new: set[UUID] = set()
    if found:
        families = deliveries.families(tx, list({each.job_id for each in found} | {each.root_id for each in found}))
        new = deliveries.submit(tx, [*_of_jobs(found, families), *_of_families(tx, found, families)], CARRIER)
    deliveries.move_cursor(tx, before)
    if new:
        reach("upkeep.before_dispatch")
    more = before < look.horizon
    metrics.WEBHOOK_LAG.set((datetime.now(UTC) - found[-1].at).total_seconds() if found and more else 0)
    return Dispatched(len(new), more)


def _of_jobs(found: Iterable[Ended], families: Mapping[UUID, Family]) -> Iterable[Delivery]:
    for each in found:
        if not each.webhooks:
            continue
        kind, data = f"job.{each.state}", each.data or {}
        family = families[each.job_id]
        own = f"/v1/jobs/{each.job_id}"
        facts = {
            "id": each.job_id,
            "command": each.command,
            "state": each.state,
            "reason": data.get("reason"),
            "error_code": data.get("code"),
            "attempt": each.attempt,
            "labels": each.labels or {},
            "root_id": each.root_id,
            "family": {"state": family_state(family.counts), "counts": family.counts},
            "submitted_at": each.submitted_at.astimezone(UTC),
            "finished_at": each.at.astimezone(UTC),
            "links": {"job": own, "timeline": f"{own}/timeline", "family": f"{own}/family"},
        }
        body = write(kind, each.at.astimezone(UTC), facts)
        for webhook in each.webhooks:
            yield Delivery(uuid7(), each.tenant_id, webhook, uuid7(), kind, body, each.job_id, each.seq)


def _of_families(tx: Connection[Any], found: Sequence[Ended], families: Mapping[UUID, Family]) -> Iterable[Delivery]:
    """Whoever was the last to end tells of the family. Its version names this very end: told once, however many ended together."""
    watchers = deliveries.family_watchers(tx, list({each.tenant_id for each in found}))
    if not watchers:
        return
    last = {each.root_id: each for each in found}
    ended = [root for root in last if root in families and family_state(families[root].counts) != "active"]
    known = deliveries.roots(tx, ended)
    for root in ended:
        command, labels = known[root]
        wanted = [watcher for watcher in watchers if _wants(watcher, last[root], command)]
        if not wanted:
            continue
        at, family = last[root].at.astimezone(UTC), families[root]
        links = {"job": f"/v1/jobs/{root}", "family": f"/v1/jobs/{root}/family"}
        facts = {
            "root_id": root, "command": command, "state": family_state(family.counts), "counts": family.counts, "labels": labels or {},
            "finished_at": at, "links": links,
        }  # fmt: skip
        body = write("family.ended", at, facts)
        for watcher in wanted:
            yield Delivery(uuid7(), watcher.tenant_id, watcher.id, uuid7(), "family.ended", body, root, family.version)


def _wants(watcher: Watcher, end: Ended, command: str) -> bool:
    return watcher.tenant_id == end.tenant_id and watcher.since <= end.xact and (watcher.commands is None or command in watcher.commands)
