"""`orders.release`, what follows a declined charge: give the stock and the discount's use back, and cancel the order."""

from __future__ import annotations

from typing import ClassVar
from uuid import UUID

from pydantic import BaseModel, Field

from pipelines.command import Command, handles
from pipelines.orders import discount, state, stock
from pipelines.orders.state import UnknownOrder, WrongState
from pipelines.run import Run


class ReleaseStock(Command):
    """Cancel an order that is reserved and will not be paid. Never for one whose charge may have been captured."""

    command_name = "orders.release"
    example: ClassVar = {"order_id": "0192f5a0-7d1c-7c7e-9d0a-3f2b8c1d4e5f"}

    order_id: UUID = Field(description="the order, which must be reserved")


class StockReleased(BaseModel):
    """`units` is how many pieces went back on the shelf."""

    order_id: UUID
    units: int


@handles(ReleaseStock, queue="orders", rejects=(UnknownOrder, WrongState), result=StockReleased)
def release_stock(command: ReleaseStock, run: Run) -> StockReleased:
    """The step out of `reserved` happens once, so what is given back is given back once, however many ask for it."""
    with run.transaction() as db:
        order = state.move(db, run.tenant, command.order_id, "reserved", "cancelled")
        lines = state.lines_of(db, command.order_id)
        stock.give_back(db, run.tenant, lines)
        if order.discount_code:
            discount.give_back(db, run.tenant, order.discount_code)
    return StockReleased(order_id=command.order_id, units=sum(line.quantity for line in lines))
