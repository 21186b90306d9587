"""`orders.place`, the first step of an order: price the cart, reserve the stock, and submit the charge, all in one transaction."""

from __future__ import annotations

from typing import Annotated, ClassVar
from uuid import UUID

from pydantic import AfterValidator, BaseModel, Field
from sqlalchemy import Connection, insert

from pipelines.command import Command, handles
from pipelines.orders import discount, stock
from pipelines.orders.cart import MAX_LINES, Address, Line, without_doubles
from pipelines.orders.charge import ChargeOrder
from pipelines.orders.discount import DiscountRefused
from pipelines.orders.schema import order_lines, orders
from pipelines.orders.ship import ShipOrder
from pipelines.orders.stock import SoldOut, UnknownProduct
from pipelines.run import Run


class PlaceOrder(Command):
    """Order a cart of products, to be paid by card and shipped."""

    command_name = "orders.place"
    example: ClassVar = {
        "customer": "ada@example.com",
        "lines": [{"sku": "MUG-BLUE", "quantity": 2}],
        "card_token": "tok_visa",
        "address": {"name": "Ada Lovelace", "street": "12 Main Street", "postal_code": "10115", "city": "Berlin", "country": "DE"},
    }

    customer: str = Field(min_length=1, max_length=200, description="who orders, as the shop knows them")
    lines: Annotated[tuple[Line, ...], AfterValidator(without_doubles)] = Field(
        min_length=1, max_length=MAX_LINES, description="the cart; each sku once"
    )
    discount_code: str | None = Field(default=None, min_length=1, max_length=40, description="a code that takes something off the price")
    card_token: str = Field(
        pattern="^tok_[A-Za-z0-9_]{1,100}$", description="the card, as the gateway's token", json_schema_extra={"writeOnly": True}
    )
    address: Address = Field(description="where the parcel goes")


class OrderPlaced(BaseModel):
    """Amounts are minor units (cents)."""

    order_id: UUID
    subtotal: int
    discount: int
    total: int


class Amounts(BaseModel):
    """What a cart costs, before and after its discount, and each product's price."""

    prices: dict[str, int]
    subtotal: int
    discount: int

    @property
    def total(self) -> int:
        return self.subtotal - self.discount


@handles(PlaceOrder, queue="orders", rejects=(SoldOut, UnknownProduct, DiscountRefused), result=OrderPlaced)
def place_order(command: PlaceOrder, run: Run) -> OrderPlaced:
    """The order gets the job's id. Whatever says no is raised, so that what was reserved until then is rolled back."""
    with run.transaction() as db:
        amounts = _price(db, run.tenant, command)
        _write(db, run, command, amounts)
        if amounts.total:
            run.submit(ChargeOrder(order_id=run.job_id, amount=amounts.total, card_token=command.card_token))
        else:
            # A gateway has no charge over nothing: what a discount made free is paid.
            stock.sell(db, run.tenant, command.lines)
            run.submit(ShipOrder(order_id=run.job_id, address=command.address, lines=command.lines))
    return OrderPlaced(order_id=run.job_id, subtotal=amounts.subtotal, discount=amounts.discount, total=amounts.total)


def _price(db: Connection, tenant: str, command: PlaceOrder) -> Amounts:
    prices = stock.reserve(db, tenant, command.lines)
    subtotal = sum(prices[line.sku] * line.quantity for line in command.lines)
    taken_off = discount.use(db, tenant, command.discount_code, subtotal) if command.discount_code else 0
    return Amounts(prices=prices, subtotal=subtotal, discount=taken_off)


def _write(db: Connection, run: Run, command: PlaceOrder, amounts: Amounts) -> None:
    order = {
        "id": run.job_id,
        "tenant": run.tenant,
        "customer": command.customer,
        "state": "reserved" if amounts.total else "paid",
        "subtotal": amounts.subtotal,
        "discount": amounts.discount,
        "total": amounts.total,
        "discount_code": command.discount_code,
        "address": command.address.model_dump(),
    }
    lines = [
        {"order_id": run.job_id, "tenant": run.tenant, "sku": line.sku, "quantity": line.quantity, "price": amounts.prices[line.sku]}
        for line in command.lines
    ]
    db.execute(insert(orders), order)
    db.execute(insert(order_lines), lines)
