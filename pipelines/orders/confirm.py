"""`orders.confirm`, the last step of an order: it is shipped, and now the customer's order is done."""

from __future__ import annotations

from typing import ClassVar
from uuid import UUID

from pydantic import BaseModel, Field

from pipelines.command import Command, handles
from pipelines.orders import state
from pipelines.orders.state import UnknownOrder, WrongState
from pipelines.run import Run


class ConfirmOrder(Command):
    """Mark a shipped order as done. Submitted by `orders.ship`."""

    command_name = "orders.confirm"
    example: ClassVar = {"order_id": "0192f5a0-7d1c-7c7e-9d0a-3f2b8c1d4e5f"}

    order_id: UUID = Field(description="the order, which must be shipped")


class OrderConfirmed(BaseModel):
    order_id: UUID
    total: int


@handles(ConfirmOrder, queue="orders", rejects=(UnknownOrder, WrongState), result=OrderConfirmed)
def confirm_order(command: ConfirmOrder, run: Run) -> OrderConfirmed:
    with run.transaction() as db:
        order = state.move(db, run.tenant, command.order_id, "shipped", "confirmed")
    return OrderConfirmed(order_id=command.order_id, total=order.total)
