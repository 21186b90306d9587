"""Commands of the intake's tests. Nobody carries them out here."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from typing import Annotated, Any, ClassVar

from pydantic import BaseModel, Field

from pipelines.command import Command, CommandError, Handler, Retry, handles


class Note(Command):
    """Write something down."""

    command_name: ClassVar[str] = "tests.note"
    example: ClassVar[dict[str, Any]] = {"text": "hello"}
    text: str
    copies: int = Field(default=1, ge=1)
    price: Decimal | None = None
    more: Any = None


class NoteAgain(Command):
    """Write something down, with a title."""

    command_name: ClassVar[str] = "tests.note@2"
    example: ClassVar[dict[str, Any]] = {"text": "hello", "title": "Greeting"}
    text: str
    title: str


class Line(BaseModel):
    sku: str
    quantity: int


class Pay(Command):
    """Pay for something, with a secret."""

    command_name: ClassVar[str] = "tests.pay"
    example: ClassVar[dict[str, Any]] = {"lines": [{"sku": "MUG", "quantity": 1}], "token": "tok_1"}
    lines: list[Line]
    token: Annotated[str, Field(pattern="^tok_", json_schema_extra={"writeOnly": True})]


class CardDeclined(CommandError):
    """The card was declined."""

    code = "declined"


class Noted(BaseModel):
    length: int


@handles(
    Note,
    queue="notes",
    retry=Retry(max_failures=5),
    result=Noted,
    deprecated=datetime(2026, 11, 1, tzinfo=UTC),
    sunset=datetime(2027, 5, 1, tzinfo=UTC),
)
def write_note(command: Note, run: object) -> Noted:
    return Noted(length=len(command.text))


@handles(NoteAgain, queue="notes", result=Noted, result_ttl=3600)
def write_titled_note(command: NoteAgain, run: object) -> Noted:
    return Noted(length=len(command.text))


@handles(Pay, queue="payments", timeout=2 * 3600, rejects=(CardDeclined,))
def pay(command: Pay, run: object) -> None:
    return None


HANDLERS: dict[str, Handler] = {"tests.note": write_note, "tests.note@2": write_titled_note, "tests.pay": pay}
