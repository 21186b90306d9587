"""`orders.ship`, the third step of an order: hand the parcel to the carrier."""

from __future__ import annotations

from typing import Annotated, ClassVar
from uuid import UUID

from pydantic import AfterValidator, BaseModel, Field
from sqlalchemy import insert

from pipelines.command import Command, Retry, exponential, handles
from pipelines.orders import state
from pipelines.orders.breaker import CircuitOpen, Unavailable
from pipelines.orders.carrier import Booked, carrier
from pipelines.orders.cart import MAX_LINES, Address, Line, without_doubles
from pipelines.orders.confirm import ConfirmOrder
from pipelines.orders.schema import shipments
from pipelines.orders.service import CallRefused, GarbledAnswer
from pipelines.orders.state import UnknownOrder, WrongState
from pipelines.run import Run


class ShipOrder(Command):
    """Have the carrier take a paid order. Submitted by `orders.charge`."""

    command_name = "orders.ship"
    example: ClassVar = {
        "order_id": "0192f5a0-7d1c-7c7e-9d0a-3f2b8c1d4e5f",
        "address": {"name": "Ada Lovelace", "street": "12 Main Street", "postal_code": "10115", "city": "Berlin", "country": "DE"},
        "lines": [{"sku": "MUG-BLUE", "quantity": 2}],
    }

    order_id: UUID = Field(description="the order, which must be paid")
    address: Address = Field(description="where the parcel goes")
    lines: Annotated[tuple[Line, ...], AfterValidator(without_doubles)] = Field(
        min_length=1, max_length=MAX_LINES, description="what is in the parcel"
    )


class OrderShipped(BaseModel):
    """`tracking` is for the customer."""

    order_id: UUID
    shipment_id: str
    tracking: str


@handles(
    ShipOrder,
    queue="orders",
    retry=Retry(max_failures=15, backoff=exponential(1, cap=300)),
    buries=(GarbledAnswer, CallRefused, UnknownOrder, WrongState),
    snoozes={CircuitOpen: 5},
    result=OrderShipped,
    error_codes={Unavailable.code: "The carrier was away in every attempt; replay it when the carrier is back."},
)
def ship_order(command: ShipOrder, run: Run) -> OrderShipped:
    """The order is paid, so no no of the carrier's is the client's matter: an address that it refuses is a dead letter, to be replayed
    with a corrected one, or refunded by a person.
    """
    answer = run.once(
        "ship", lambda key: carrier().ship(command.order_id, command.address, command.lines, idempotency_key=key).model_dump()
    )
    booked = Booked.model_validate(answer)
    with run.transaction() as db:
        state.move(db, run.tenant, command.order_id, "paid", "shipped")
        db.execute(insert(shipments), {"order_id": command.order_id, "shipment_id": booked.id, "tracking": booked.tracking})
        run.submit(ConfirmOrder(order_id=command.order_id))
    return OrderShipped(order_id=command.order_id, shipment_id=booked.id, tracking=booked.tracking)
