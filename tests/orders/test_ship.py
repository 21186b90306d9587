"""`orders.ship` and `orders.confirm`: the rest of an order's way."""

from __future__ import annotations

import pytest

from pipelines.orders.ship import ShipOrder
from tests.orders.direct import Job, Outside, Shop


def paid(shop: Shop) -> tuple[Job, Job]:
    """A paid order, and its shipment, yet to be run."""
    shop.stock_up()
    order = shop.run(shop.order())
    shop.run(shop.only("orders.charge"))
    return order, shop.only("orders.ship")


def test_an_order_goes_all_the_way_by_its_follow_ups(shop: Shop, gateway: Outside, carrier: Outside):
    shop.stock_up()
    order = shop.order(("MUG", 2))

    shop.run_all()

    assert [(job.name, job.state) for job in shop.jobs] == [
        ("orders.place", "succeeded"), ("orders.charge", "succeeded"), ("orders.ship", "succeeded"), ("orders.confirm", "succeeded"),
    ]  # fmt: skip
    assert shop.state_of(order) == "confirmed"
    (shipment,) = carrier.books()["shipments"]
    assert (shipment["reference"], shipment["lines"]) == (str(order.id), [{"sku": "MUG", "quantity": 2}])
    assert shop.scalar("select tracking from orders.shipments") == shipment["tracking"]


@pytest.mark.parametrize("fault", ["error_after", "outage"])
def test_a_carrier_that_fails_is_tried_again_and_ships_once(shop: Shop, gateway: Outside, carrier: Outside, fault: str):
    order, shipment = paid(shop)
    carrier.switch(fault, count=1)

    shop.run(shipment)
    first = (shipment.state, shipment.error.code)
    shop.run(shipment)

    assert first == ("failed", "unavailable")
    assert shop.state_of(order) == "shipped"
    assert len(carrier.books()["shipments"]) == 1


def test_a_garbled_answer_of_the_carrier_needs_a_person(shop: Shop, gateway: Outside, carrier: Outside):
    order, shipment = paid(shop)
    carrier.switch("garbage", count=1)

    shop.run(shipment)

    assert (shipment.state, shipment.error.code, shop.state_of(order)) == ("dead", "garbled_answer", "paid")


def test_an_address_that_the_carrier_refuses_needs_a_person_and_can_be_corrected(shop: Shop, gateway: Outside, carrier: Outside):
    order, shipment = paid(shop)
    command = shipment.command
    assert isinstance(command, ShipOrder)
    shipment.command = command.model_copy(update={"address": command.address.model_copy(update={"country": "ZZ"})})

    shop.run(shipment)
    died = (shipment.state, shipment.error.code)
    shipment.command = command
    shop.run(shipment)

    assert died == ("dead", "call_refused")
    assert shop.state_of(order) == "shipped"


def test_confirming_twice_changes_nothing(shop: Shop, gateway: Outside, carrier: Outside):
    order, _ = paid(shop)
    shop.run_all()

    double = shop.run(shop.submit(shop.only("orders.confirm").command))

    assert (double.state, double.error.code) == ("rejected", "wrong_state")
    assert shop.state_of(order) == "confirmed"
