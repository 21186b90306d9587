"""The answers' shapes, for the OpenAPI document; what is sent is made in `representation`."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field

State = Literal["scheduled", "waiting", "queued", "running", "succeeded", "rejected", "dead", "cancelled"]
Role = Literal["viewer", "submitter", "operator", "admin", "platform"]


class View(BaseModel):
    model_config = ConfigDict(extra="forbid")


class FamilyView(View):
    state: Literal["active", "succeeded", "rejected", "dead", "cancelled"]
    counts: dict[State, int]


class ErrorView(View):
    code: str | None = Field(description="stable; GET /v1/commands documents it")
    message: str | None
    attempt: int


class ProgressView(View):
    done: int
    total: int
    message: str


class JobView(View):
    id: UUID
    command: str
    state: State
    reason: str | None
    priority: int
    attempt: int
    failures: int
    max_failures: int
    labels: dict[str, str]
    submitted_at: datetime
    due_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    cancel_requested_at: datetime | None
    progress: ProgressView | None
    result: Any = Field(description="null for keys without `payloads`, and from `result_expires_at` on")
    result_expires_at: datetime | None = Field(description="for a success whose command keeps results for a time of its own")
    error: ErrorView | None
    root_id: UUID
    parent_id: UUID | None
    family: FamilyView
    run_id: UUID | None
    links: dict[str, str]
    tenant: str | None = Field(None, description="for platform keys: whose it is")
    payload: Any = Field(None, description="for keys with `payloads`; what the schema marks writeOnly is masked")
    original_payload: Any = Field(None, description="for keys with `payloads`: as it was before a replay edited it")


class ValidView(View):
    """What a submission would become; nothing of it is stored."""

    command: str
    queue: str
    state: Literal["scheduled", "queued"]
    due_at: datetime
    expires_at: datetime | None
    priority: int
    max_failures: int
    labels: dict[str, str]


class BatchItemView(View):
    status: int = Field(description="202, or that of its problem")
    id: UUID | None = Field(None, description="the job's, if it was accepted")
    replayed: bool = Field(False, description="it was accepted before")
    held: bool = Field(False, description="it is the job that holds the unique key")
    problem: dict[str, Any] | None = Field(None, description="why it was refused; pointers are from the item")


class BatchAnswerView(View):
    batch_id: UUID
    items: list[BatchItemView]
    problem: dict[str, Any] | None = Field(None, description="why the body was not taken to its end")


class AtomicBatchView(View):
    batch_id: UUID
    ids: list[UUID] = Field(description="a job for each item, in order")


class BatchView(View):
    id: UUID
    state: Literal["receiving", "active", "ended"]
    created_at: datetime
    items: int | None = Field(description="null until its body was read to the end")
    accepted: int
    refused: int
    counts: dict[State, int] = Field(description="its jobs by state")


class ReplayedView(JobView):
    expiry_dropped: bool = Field(description="its `expires_at` had to go, so that it can run again")


class AttemptErrorView(View):
    code: str | None
    type: str | None
    message: str | None
    traceback: str | None = Field(description="null for keys without `payloads`")


class AttemptView(View):
    number: int
    worker: UUID
    started_at: datetime
    finished_at: datetime | None
    outcome: str
    error: AttemptErrorView | None
    log: list[Any]


class DeadLetterView(JobView):
    attempts: list[AttemptView]
    unknown_steps: list[str] = Field(description="calls whose outcome nobody knows; resolve them first")


class EventView(View):
    seq: int
    at: datetime
    kind: str
    state: State
    attempt: int
    who: str | None
    data: dict[str, Any] | None


class CommandView(View):
    name: str = Field(description="as a submission names it; the bare name is version 1")
    version: int
    latest: bool = Field(description="there is no later version")
    deprecated_at: datetime | None = Field(description="since when a later version, or another command, should be used instead")
    sunset_at: datetime | None = Field(description="until when it is there")
    description: str
    queue: str
    timeout: float = Field(description="seconds an attempt may take")
    retry: dict[str, int]
    limits: dict[str, int]
    payload_schema: dict[str, Any]
    result_schema: dict[str, Any] | None
    error_codes: dict[str, str]
    example: dict[str, Any]
    on_rejected: str | None
    on_dead: str | None


class OrphanView(View):
    id: UUID
    queue: str
    body: str = Field(description="base64, at most 64 KiB of it")
    headers: Any
    reason: str
    times: int
    received_at: datetime
    last_at: datetime


class TenantView(View):
    slug: str
    name: str
    created_at: datetime


class KeyView(View):
    id: UUID
    prefix: str
    role: Role
    payloads: bool
    name: str
    tenant: str | None
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None
    last_used_at: datetime | None = Field(description="to the minute; null if never")


class RateView(View):
    rate: float = Field(description="jobs a second")
    burst: int


class LimitView(View):
    submissions: RateView | None
    each_key: RateView | None
    open_jobs: int | None


class LimitsView(View):
    granted: LimitView = Field(description="by the platform, or by default")
    own: LimitView = Field(description="what the tenant set for itself")
    holds: LimitView = Field(description="the tighter of the two")


class NewKeyView(View):
    id: UUID
    prefix: str
    role: Role
    payloads: bool
    name: str
    tenant: str | None
    expires_at: datetime | None
    key: str = Field(description="shown this once")


class WatchTokenView(View):
    token: str = Field(description="send it as Authorization: Bearer, never in a URL")
    job_id: UUID = Field(description="it opens this job and its family")
    expires_at: datetime
    payloads: bool


class ReadyView(View):
    ready: bool
    dependencies: dict[str, Any]


class ProblemKindView(View):
    type: str
    status: int
    title: str
    meaning: str
    advice: str = Field(description="what to do")
    example: dict[str, Any]


class Jobs(View):
    items: list[JobView]
    next_cursor: str | None


class Attempts(View):
    items: list[AttemptView]
    next_cursor: str | None


class Events(View):
    items: list[EventView]
    next_cursor: str | None


class Commands(View):
    items: list[CommandView]
    next_cursor: str | None


class Orphans(View):
    items: list[OrphanView]
    next_cursor: str | None


class Tenants(View):
    items: list[TenantView]
    next_cursor: str | None


class Keys(View):
    items: list[KeyView]
    next_cursor: str | None


class SealView(View):
    seq: int = Field(description="its place in the tenant's chain, from 1")
    hash: str = Field(description="SHA-256 over the seal before it and the record, in hex")


class AuditRecordView(View):
    id: UUID
    at: datetime
    tenant: str | None = Field(description="whose it was; null: the platform's own")
    who: str = Field(description="key:<prefix>, or console:<account>")
    origin: str | None = Field(description="the caller's address, or the console's machine")
    action: str = Field(description="<thing>.<verb>")
    target: str | None
    reason: str | None
    data: dict[str, Any] | None = Field(description="what else tells what changed")
    seal: SealView | None = Field(description="null for some seconds, until it is sealed")


class AuditRecords(View):
    items: list[AuditRecordView]
    next_cursor: str | None


class ProblemKinds(View):
    items: list[ProblemKindView]
    next_cursor: str | None


class WebhookView(View):
    id: UUID
    name: str
    url: str
    events: list[str]
    commands: list[str] | None
    enabled: bool
    disabled_reason: str | None
    created_at: datetime
    updated_at: datetime


class NewWebhookView(WebhookView):
    secret: str = Field(description="whsec_…, shown this once")


class Webhooks(View):
    items: list[WebhookView]
    next_cursor: str | None


DeliveryState = Literal["pending", "delivered", "rejected", "failed", "cancelled"]


class TryView(View):
    at: datetime
    outcome: Literal["delivered", "failed"]
    status: int | None = Field(description="the receiver's; null when there was no answer")
    seconds: float | None
    message: str | None


class DeliveryView(View):
    id: UUID = Field(description="the message's `webhook-id`")
    event: str
    job_id: UUID | None = Field(description="the job it tells of; null for a test")
    state: DeliveryState
    reason: str | None
    created_at: datetime
    next_at: datetime | None = Field(description="when it is tried next")
    attempts: list[TryView]


class Deliveries(View):
    items: list[DeliveryView]
    next_cursor: str | None


class RedeliveredView(View):
    redelivered: int
    next_since: datetime | None = Field(description="where to go on, when there is more")
