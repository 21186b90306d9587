"""`orders.place`: prices, discounts, and stock that is never oversold."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta

import pytest

from pipelines.orders.schema import create_tables
from pipelines.orders.stock import SoldOut
from tests.orders.direct import Shop, at_once

YESTERDAY, TOMORROW = (datetime.now(UTC) + timedelta(days=days) for days in (-1, 1))


def test_a_placed_order_has_its_stock_put_aside_and_its_charge_submitted(shop: Shop):
    shop.stock_up("MUG", price=500, stock=10)
    shop.stock_up("POT", price=2000, stock=1)

    order = shop.run(shop.order(("POT", 1), ("MUG", 3)))

    assert order.result.model_dump() == {"order_id": order.id, "subtotal": 3500, "discount": 0, "total": 3500}
    assert shop.state_of(order) == "reserved"
    assert (shop.stock_of("MUG"), shop.stock_of("POT")) == ((7, 3, 0), (0, 1, 0))
    assert shop.only("orders.charge").command.model_dump() == {"order_id": order.id, "amount": 3500, "card_token": "tok_visa"}


def test_two_hundred_carts_for_the_last_five_items_make_five_orders(shop: Shop):
    shop.stock_up(stock=5)
    orders = [shop.order() for _ in range(200)]

    at_once(200, lambda number: shop.run(orders[number]))

    assert (shop.count("orders.place", "succeeded"), shop.count("orders.place", "rejected")) == (5, 195)
    assert all(isinstance(order.error, SoldOut) for order in orders if order.state == "rejected")
    assert shop.stock_of() == (0, 5, 0)
    assert shop.scalar("select count(*) from orders.orders") == 5


def test_carts_with_common_products_in_any_order_do_not_deadlock(shop: Shop):
    skus = [f"SKU-{number}" for number in range(6)]
    for sku in skus:
        shop.stock_up(sku, stock=10_000)
    dice = random.Random(7)
    orders = [shop.order(*((sku, 1) for sku in dice.sample(skus, 5))) for _ in range(80)]

    at_once(10, lambda number: [shop.run(order) for order in orders[number::10]])

    assert [order.error for order in orders if order.state != "succeeded"] == []


def test_a_cart_with_one_thing_sold_out_puts_nothing_aside(shop: Shop):
    shop.stock_up("A", stock=5)
    shop.stock_up("B", stock=1)

    order = shop.run(shop.order(("A", 5), ("B", 2)))

    assert (order.state, order.error.code, str(order.error)) == ("rejected", "sold_out", "2 of 'B' were ordered, and fewer are left")
    assert (shop.stock_of("A"), shop.stock_of("B")) == ((5, 0, 0), (1, 0, 0))
    assert shop.state_of(order) is None


def test_an_unknown_product_is_rejected(shop: Shop):
    shop.stock_up("A")

    order = shop.run(shop.order(("A", 1), ("NO-SUCH", 1)))

    assert (order.state, order.error.code) == ("rejected", "unknown_product")


def test_another_tenants_product_is_an_unknown_one(shop: Shop):
    shop.stock_up("A", tenant="globex")

    order = shop.run(shop.order(("A", 1)))

    assert (order.state, order.error.code) == ("rejected", "unknown_product")
    assert shop.stock_of("A", "globex") == (10, 0, 0)


@pytest.mark.parametrize(
    ("kind", "value", "taken_off"), [("percent", 15, 149), ("percent", 100, 999), ("fixed", 250, 250), ("fixed", 5000, 999)]
)
def test_a_discount_takes_off_whole_cents_and_at_most_all(shop: Shop, kind: str, value: int, taken_off: int):
    shop.stock_up(price=333)
    shop.offer("SALE", kind, value, minimum_total=999, max_uses=1, valid_from=YESTERDAY, valid_until=TOMORROW)

    order = shop.run(shop.order(("MUG", 3), code="SALE"))

    assert (order.result.subtotal, order.result.discount, order.result.total) == (999, taken_off, 999 - taken_off)
    assert shop.scalar("select uses from orders.discounts") == 1


@pytest.mark.parametrize(
    ("rules", "why"),
    [
        ({"valid_until": YESTERDAY}, "the discount 'SALE' is no longer valid"),
        ({"valid_from": TOMORROW}, "the discount 'SALE' is not valid yet"),
        ({"minimum_total": 501}, "the discount 'SALE' asks for a cart of at least 501, this one is 500"),
        ({"max_uses": 0}, "the discount 'SALE' is used up"),
    ],
)
def test_a_discount_that_does_not_apply_rejects_the_order_and_says_why(shop: Shop, rules: dict[str, object], why: str):
    shop.stock_up(price=500)
    shop.offer("SALE", "percent", 10, **rules)

    order = shop.run(shop.order(code="SALE"))

    assert (order.state, order.error.code, str(order.error)) == ("rejected", "discount_refused", why)
    assert shop.stock_of() == (10, 0, 0)


def test_an_unknown_discount_rejects_the_order(shop: Shop):
    shop.stock_up()

    order = shop.run(shop.order(code="NONE"))

    assert (order.state, str(order.error)) == ("rejected", "there is no discount 'NONE'")


def test_a_discounts_cap_is_never_exceeded_by_those_who_use_it_at_once(shop: Shop):
    shop.stock_up(stock=1000)
    shop.offer("FIRST3", "percent", 10, max_uses=3)
    orders = [shop.order(code="FIRST3") for _ in range(50)]

    at_once(50, lambda number: shop.run(orders[number]))

    assert (shop.count("orders.place", "succeeded"), shop.count("orders.place", "rejected")) == (3, 47)
    assert shop.scalar("select uses from orders.discounts") == 3
    assert shop.stock_of() == (997, 3, 0)


def test_an_order_that_a_discount_made_free_is_paid_without_a_charge(shop: Shop):
    shop.stock_up()
    shop.offer("GIFT", "percent", 100)

    order = shop.run(shop.order(code="GIFT"))

    assert shop.state_of(order) == "paid"
    assert shop.stock_of() == (9, 0, 1)
    assert [job.name for job in shop.jobs] == ["orders.place", "orders.ship"]


def test_the_tables_can_be_created_twice_and_from_two_places_at_once(shop: Shop):
    def create(_number: int) -> None:
        with shop.engine.begin() as db:
            create_tables(db)

    with shop.engine.begin() as db:
        db.exec_driver_sql("drop schema orders cascade")
    at_once(4, create)

    assert shop.balance().stock == 0
