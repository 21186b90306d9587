"""Commands of the intake's tests. Nobody carries them out here."""

from __future__ import annotations

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


@handles(Note, queue="notes", retry=Retry(max_failures=5), result=Noted)
def write_note(command: Note, run: object) -> Noted:
    return Noted(length=len(command.text))


@handles(Pay, queue="payments", rejects=(CardDeclined,))
def pay(command: Pay, run: object) -> None:
    return None


HANDLERS: dict[str, Handler] = {"tests.note": write_note, "tests.pay": pay}
