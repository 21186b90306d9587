"""`webhooks.give_up`: a delivery has used up all its tries. Submitted in that very transition, so that it comes even when a process died."""

from __future__ import annotations

from typing import ClassVar
from uuid import UUID

from pydantic import BaseModel, Field
from sqlalchemy import text

from pipelines.command import Command, Rejected, handles
from pipelines.run import Run
from pipelines.webhooks import metrics


class GiveUpWebhook(Command):
    """Disable a webhook to which nothing could be delivered. For Haulier's own use: whoever else submits it is refused."""

    command_name = "webhooks.give_up"
    example: ClassVar = {"delivery_id": "0192f5a0-7d1c-7c7e-9d0a-3f2b8c1d4e5f"}

    delivery_id: UUID = Field(description="the delivery that died")


class GaveUp(BaseModel):
    disabled: bool


REASON = "a message could not be delivered in any try, and no other one has been since it was made"
# The job is a follow-up of the one that delivers: nobody else's family begins with that.
READ = text("select job_ids[cardinality(job_ids)] = :root from haulier.webhook_deliveries where id = :id")
DISABLE = text("""
with disabled as (
    update haulier.webhooks w set enabled = false, disabled_reason = :reason, version = version + 1, updated_at = now()
      from haulier.webhook_deliveries d
     where d.id = :id and w.id = d.webhook_id and w.enabled and (w.succeeded_at is null or w.succeeded_at < d.created_at)
    returning w.id, w.tenant_id)
insert into haulier.audit (id, tenant_id, who, action, target, reason)
select haulier.uuid7(), tenant_id, :who, 'webhook.disable', id::text, :reason from disabled
""")


@handles(
    GiveUpWebhook,
    queue="webhooks",
    result=GaveUp,
    error_codes={"unknown_delivery": "There is no such delivery, or it has not died of this."},
)
def give_up_webhook(command: GiveUpWebhook, run: Run) -> GaveUp | Rejected:
    with run.transaction() as db:
        if not db.execute(READ, {"id": command.delivery_id, "root": run.root_id}).scalar():
            return Rejected("there is no such delivery, or it has not died of this", code="unknown_delivery")
        disabled = db.execute(DISABLE, {"id": command.delivery_id, "reason": REASON, "who": f"job:{run.job_id}"})
        metrics.DELIVERIES.labels("given_up").inc()
        return GaveUp(disabled=disabled.rowcount == 1)
