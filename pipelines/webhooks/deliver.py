"""`webhooks.deliver`: send one message to one receiver. Submitted by upkeep's dispatcher, by a test, and by a redelivery.

At least once: an attempt whose answer was lost is repeated under the same `webhook-id`, by which the receiver tells a repeat.
"""

from __future__ import annotations

import functools
import random
import threading
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, ClassVar
from uuid import UUID

from pydantic import BaseModel, Field
from sqlalchemy import Connection, text

from config.failpoints import reach
from config.settings import Settings
from pipelines.command import Command, CommandError, Rejected, Retry, Snooze, handles
from pipelines.run import Run
from pipelines.webhooks import metrics
from pipelines.webhooks.address import Rules, UnsafeAddressError, read_url
from pipelines.webhooks.give_up import GiveUpWebhook
from pipelines.webhooks.lanes import Lanes
from pipelines.webhooks.message import TEST
from pipelines.webhooks.sending import Answer, UnreachableError, post
from pipelines.webhooks.signing import sign

#: Seconds before each try, the first one included: Standard Webhooks' own schedule, 75 h 35 min in all.
SCHEDULE = (0.0, 5.0, 300.0, 1800.0, 7200.0, 18_000.0, 36_000.0, 50_400.0, 72_000.0, 86_400.0)
JITTER = 0.1
#: A delivery to a receiver that is left alone is not waited with for ever: its time is over when the schedule is, and a bit.
LIFE = sum(SCHEDULE) * 1.25
#: Seconds; a receiver that asks for more is asked again after this long. And the statuses of which it may.
MAX_RETRY_AFTER = 86_400.0
THROTTLES = frozenset({429, 502, 503, 504})
GONE = 410


class DeliverWebhook(Command):
    """Send a webhook's message. For Haulier's own use: whoever else submits it is refused."""

    command_name = "webhooks.deliver"
    example: ClassVar = {"delivery_id": "0192f5a0-7d1c-7c7e-9d0a-3f2b8c1d4e5f"}

    delivery_id: UUID = Field(description="the delivery, which says what is sent and where to")


class Delivered(BaseModel):
    """`status` is the receiver's own; None when it was not asked."""

    status: int | None
    seconds: float


class NotDelivered(CommandError):
    """The receiver did not answer with a 2xx; it is tried again by the schedule."""

    code = "not_delivered"

    def __init__(self, message: str, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class NeverDelivered(CommandError):
    """The receiver had failed too often to be tried, until the delivery's time was over."""

    code = "never_delivered"


def wait_after(failures: int) -> float:
    """Seconds until the next try after so many failed ones."""
    base = SCHEDULE[min(failures, len(SCHEDULE) - 1)]
    return base * random.uniform(1 - JITTER, 1 + JITTER) * settings().webhook_retry_scale


@dataclass(frozen=True, slots=True)
class Sending:
    """All that an attempt needs. `job_id`: the job that is to deliver it."""

    webhook_id: UUID
    event: str
    body: str
    job_id: UUID
    created_at: datetime
    url: str
    enabled: bool
    secrets: list[str]


READ = text("""
select d.webhook_id, d.event, d.body, d.job_ids[cardinality(d.job_ids)] as job_id, d.created_at, w.url, w.enabled,
       array(select s.secret from haulier.webhook_secrets s
              where s.webhook_id = w.id and (s.expires_at is null or s.expires_at > now()) order by s.id desc) as secrets
  from haulier.webhook_deliveries d join haulier.webhooks w on w.id = d.webhook_id
 where d.id = :id
""")
SETTLE = text("update haulier.webhook_deliveries set state = :state, reason = :reason where id = :id")
# Not each time: the webhook's row is every delivery's, and a minute is near enough for what it is read for.
SUCCEEDED = text("""
update haulier.webhooks set succeeded_at = now() where id = :id and (succeeded_at is null or succeeded_at < now() - interval '1 minute')
""")
DISABLE = text("""
with disabled as (
    update haulier.webhooks set enabled = false, disabled_reason = :reason, version = version + 1, updated_at = now()
     where id = :id and enabled
    returning id, tenant_id)
insert into haulier.audit (id, tenant_id, who, action, target, reason)
select haulier.uuid7(), tenant_id, :who, 'webhook.disable', id::text, :reason from disabled
""")


@handles(
    DeliverWebhook,
    queue="webhooks",
    timeout=30,
    retry=Retry(max_failures=len(SCHEDULE), backoff=wait_after),
    buries=(NeverDelivered,),
    on_dead=GiveUpWebhook,
    result=Delivered,
    error_codes={
        NotDelivered.code: "The receiver did not answer with a 2xx in any try; it can be redelivered.",
        "unknown_delivery": "There is no such delivery, or this job is not the one that delivers it.",
        "disabled": "The webhook was disabled before the message could be sent.",
    },
)
def deliver_webhook(command: DeliverWebhook, run: Run) -> Delivered | Rejected | Snooze:
    with run.read() as db:
        row = db.execute(READ, {"id": command.delivery_id}).one_or_none()
    sending = Sending(*row) if row is not None else None
    if sending is None or sending.job_id != run.job_id:
        return Rejected("there is no such delivery, or it is for another job to deliver", code="unknown_delivery")
    if not sending.enabled and sending.event != TEST:
        return Rejected("the webhook is disabled", code="disabled")
    wait = lanes().enter(sending.webhook_id)
    if wait is not None:
        return _wait(sending, wait)
    try:
        answer, seconds = _send(command.delivery_id, sending, run)
    except NotDelivered as failed:
        if sending.event == TEST:  # somebody waits for the answer, and may ask again
            return Rejected(str(failed), code=failed.code)
        raise
    reach("worker.after_post")
    with run.transaction() as db:
        _settle(db, command.delivery_id, sending, answer, run)
    return Delivered(status=answer.status, seconds=seconds)


def _wait(sending: Sending, seconds: float) -> Snooze:
    """Waiting for a receiver that is known to be away is no failure; but it does not go on for ever."""
    age = (datetime.now(UTC) - sending.created_at).total_seconds()
    if age > LIFE * settings().webhook_retry_scale and lanes().is_left_alone(sending.webhook_id):
        raise NeverDelivered("the receiver failed each time that it was tried, until the message's time was over")
    return Snooze(seconds)


def _send(delivery_id: UUID, sending: Sending, run: Run) -> tuple[Answer, float]:
    """An answer that settles it: a 2xx, or that nothing shall be sent any more. Raises NotDelivered."""
    now, body = int(time.time()), sending.body.encode()
    headers = {
        "content-type": "application/json",
        "webhook-id": str(delivery_id),
        "webhook-timestamp": str(now),
        "webhook-signature": sign(sending.secrets, str(delivery_id), now, body),
    }
    started = time.monotonic()
    well, said, later = False, "", None
    try:
        answer = post(read_url(sending.url, rules()), body, headers, rules(), settings().webhook_timeout)
        well = 200 <= answer.status < 300 or answer.status == GONE
        said = f"the receiver answered {answer.status}"
        if answer.status in THROTTLES:
            later = retry_after(answer.retry_after)
    except (UnreachableError, UnsafeAddressError) as error:
        answer, said = None, str(error)
    finally:
        seconds = round(time.monotonic() - started, 3)
        lanes().leave(sending.webhook_id, well=well, seconds=seconds, retry_after=later)
    metrics.DELIVERIES.labels(_outcome(answer, well=well)).inc()
    run.log(said, status=answer.status if answer else None, seconds=seconds)
    if answer is None or not well:
        raise NotDelivered(said, later)
    return answer, seconds


def _outcome(answer: Answer | None, *, well: bool) -> str:
    if answer is None:
        return "unreachable"
    if answer.status == GONE:
        return "gone"
    return "delivered" if well else "refused"


def _settle(db: Connection, delivery_id: UUID, sending: Sending, answer: Answer, run: Run) -> None:
    """In the transaction of the job's completion."""
    if answer.status == GONE:
        reason = "the receiver answered 410 Gone"
        db.execute(SETTLE, {"id": delivery_id, "state": "rejected", "reason": "gone"})
        db.execute(DISABLE, {"id": sending.webhook_id, "reason": reason, "who": f"job:{run.job_id}"})
    else:
        db.execute(SETTLE, {"id": delivery_id, "state": "delivered", "reason": None})
        db.execute(SUCCEEDED, {"id": sending.webhook_id})


def retry_after(value: str | None) -> float | None:
    """Seconds from a Retry-After field (RFC 9110, 10.2.3), a number or a date. None for what says neither."""
    if value is None:
        return None
    if value.isascii() and value.isdigit():
        return min(float(value[:12]), MAX_RETRY_AFTER)
    try:
        until = parsedate_to_datetime(value)
    except ValueError:
        return None
    until = until if until.tzinfo else until.replace(tzinfo=UTC)
    return min(max(0.0, (until - datetime.now(UTC)).total_seconds()), MAX_RETRY_AFTER)


#: `cache` alone would let threads that come first together each create one.
_creating = threading.Lock()


@functools.cache
def settings() -> Settings:
    """Read once in each process."""
    return Settings()  # pyright: ignore[reportCallIssue]


@functools.cache
def rules() -> Rules:
    return Rules.read(settings().webhook_networks, http=settings().webhook_http)


def lanes() -> Lanes:
    """The process's."""
    with _creating:
        return _lanes()


@functools.cache
def _lanes() -> Lanes:
    return Lanes(settings().webhook_retry_scale)


def forget(*_: Any) -> None:
    """For tests: read the settings anew, and every lane is free."""
    for each in (settings, rules, _lanes):
        each.cache_clear()
