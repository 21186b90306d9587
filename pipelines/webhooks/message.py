"""What receivers are sent: thin messages that say what happened to which job, and where to read more. No payload, no result."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field

#: Bytes; the standard asks for less than 20 KB.
MAX_MESSAGE = 20_000
#: The event of a test, which nobody subscribes to.
TEST = "webhook.test"

State = Literal["succeeded", "rejected", "dead", "cancelled"]
EventType = Literal["job.succeeded", "job.rejected", "job.dead", "job.cancelled", "family.ended"]


class Part(BaseModel):
    model_config = ConfigDict(extra="forbid")


class MessageFamily(Part):
    """The job and all that came of it, as it stood when the message was made."""

    state: Literal["active", "succeeded", "rejected", "dead", "cancelled"]
    counts: dict[str, int]


class JobFacts(Part):
    id: UUID
    command: str
    state: State
    reason: str | None = Field(description="why it is dead or cancelled")
    error_code: str | None = Field(description="stable; GET /v1/commands documents it")
    attempt: int
    labels: dict[str, str] | None = Field(description="null if they would make the message too long")
    root_id: UUID
    family: MessageFamily
    submitted_at: datetime
    finished_at: datetime
    links: dict[str, str]


class JobMessage(Part):
    """A job came to its end. A dead one may be replayed, and then ends again."""

    type: Literal["job.succeeded", "job.rejected", "job.dead", "job.cancelled"]
    timestamp: datetime = Field(description="when it happened")
    data: JobFacts


class FamilyFacts(Part):
    root_id: UUID = Field(description="the job that it begins with")
    command: str
    state: State = Field(description="the worst of its ends")
    counts: dict[str, int]
    labels: dict[str, str] | None = Field(description="of the first job; null if they would make the message too long")
    finished_at: datetime
    links: dict[str, str]


class FamilyMessage(Part):
    """A job and all that came of it have ended."""

    type: Literal["family.ended"]
    timestamp: datetime = Field(description="when it happened")
    data: FamilyFacts


class TestFacts(Part):
    webhook_id: UUID


class TestMessage(Part):
    """Somebody asked whether this webhook works."""

    type: Literal["webhook.test"]
    timestamp: datetime
    data: TestFacts


#: What is sent, by the event's type: the OpenAPI document's `webhooks`.
MESSAGES: Mapping[str, type[JobMessage | FamilyMessage | TestMessage]] = {
    "job.succeeded": JobMessage,
    "job.rejected": JobMessage,
    "job.dead": JobMessage,
    "job.cancelled": JobMessage,
    "family.ended": FamilyMessage,
    TEST: TestMessage,
}


def write(kind: str, timestamp: datetime, data: Mapping[str, Any]) -> str:
    """The message's text, as it is signed and sent."""
    text = MESSAGES[kind].model_validate({"type": kind, "timestamp": timestamp, "data": data}).model_dump_json()
    if len(text.encode()) < MAX_MESSAGE or "labels" not in data:
        return text
    return write(kind, timestamp, {name: value for name, value in data.items() if name != "labels"} | {"labels": None})
