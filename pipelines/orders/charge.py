"""`orders.charge`, the second step of an order: take the money, and with it the order from reserved to paid."""

from __future__ import annotations

from typing import Annotated, ClassVar
from uuid import UUID

from pydantic import BaseModel, Field, TypeAdapter
from sqlalchemy import Connection, insert

from pipelines.command import WHOLE, Command, CommandError, Retry, exponential, handles
from pipelines.orders import state, stock
from pipelines.orders.breaker import CircuitOpen, Unavailable
from pipelines.orders.cart import Address
from pipelines.orders.gateway import Captured, Declined, gateway
from pipelines.orders.release import ReleaseStock
from pipelines.orders.schema import payments
from pipelines.orders.service import CallRefused, GarbledAnswer
from pipelines.orders.ship import ShipOrder
from pipelines.orders.state import UnknownOrder, WrongState
from pipelines.run import Run


class ChargeOrder(Command):
    """Charge an order's card. Submitted by `orders.place`; what was charged for an order that turns out not to want it is a dead letter."""

    command_name = "orders.charge"
    example: ClassVar = {"order_id": "0192f5a0-7d1c-7c7e-9d0a-3f2b8c1d4e5f", "amount": 1999, "card_token": "tok_visa"}

    order_id: UUID = Field(description="the order, which must be reserved")
    amount: Annotated[int, Field(gt=0, strict=True), WHOLE] = Field(description="the order's total in minor units (cents)")
    card_token: str = Field(
        pattern="^tok_[A-Za-z0-9_]{1,100}$", description="the card, as the gateway's token", json_schema_extra={"writeOnly": True}
    )


class OrderCharged(BaseModel):
    """`charge_id` is the gateway's name for the charge."""

    order_id: UUID
    charge_id: str
    amount: int


class CardDeclined(CommandError):
    """The card's issuer declined the charge; the stock is released."""

    code: ClassVar[str] = "card_declined"


class WrongAmount(CommandError):
    """What was charged is not what the order costs; a person must refund it or correct the order."""

    code: ClassVar[str] = "wrong_amount"


Charge = TypeAdapter[Captured | Declined](Captured | Declined)


@handles(
    ChargeOrder,
    queue="orders",
    retry=Retry(max_failures=15, backoff=exponential(1, cap=300)),
    rejects=(CardDeclined,),
    buries=(GarbledAnswer, CallRefused, WrongAmount, UnknownOrder, WrongState),
    snoozes={CircuitOpen: 5},
    on_rejected=ReleaseStock,
    result=OrderCharged,
    error_codes={Unavailable.code: "The gateway was away in every attempt; replay it when the gateway is back."},
)
def charge_order(command: ChargeOrder, run: Run) -> OrderCharged:
    """A decline is a definite no: rejected, and `orders.release` follows.

    There is deliberately no follow-up for a dead charge: it may have been captured (a lost answer, an outage that outlasted the retries,
    an answer that cannot be right), and stock that was released would be money taken for nothing. So the stock stays reserved until a
    person decides: a replay asks with the same key and finds the one charge, if there is one; and when the gateway's own books show that
    there is none, `orders.release` can be submitted by hand.
    """
    order_id, amount, token = command.order_id, command.amount, command.card_token
    answer = run.once("charge", lambda key: gateway().charge(order_id, amount, token, idempotency_key=key).model_dump())
    charge = Charge.validate_python(answer)
    if isinstance(charge, Declined):
        raise CardDeclined(f"the card was declined: {charge.reason}")
    with run.transaction() as db:
        _book(db, run, order_id, charge)
    return OrderCharged(order_id=order_id, charge_id=charge.id, amount=charge.amount)


def _book(db: Connection, run: Run, order_id: UUID, charge: Captured) -> None:
    order = state.move(db, run.tenant, order_id, "reserved", "paid")
    if order.total != charge.amount:
        raise WrongAmount(f"order {order_id} costs {order.total}, and {charge.amount} were charged as {charge.id}; nothing was booked")
    lines = state.lines_of(db, order_id)
    stock.sell(db, run.tenant, lines)
    db.execute(insert(payments), {"order_id": order_id, "charge_id": charge.id, "amount": charge.amount})
    run.submit(ShipOrder(order_id=order_id, address=Address.model_validate(order.address), lines=lines))
