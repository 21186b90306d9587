"""The books balance to the unit after anything, and say so when they do not."""

from __future__ import annotations

import random
import re

import pytest
from sqlalchemy import text

from pipelines.orders.balance import balance
from pipelines.orders.breaker import Breaker
from pipelines.orders.carrier import carrier as carrier_client
from pipelines.orders.gateway import gateway as gateway_client
from tests.orders.direct import Outside, Shop, at_once

FAULTS = ["outage", "error_after", "error_after", "garbage", "wrong_amount", "declined"]


@pytest.mark.parametrize("seed", [1, 2])
def test_after_a_random_mix_of_orders_and_faults_stock_and_money_balance(shop: Shop, gateway: Outside, carrier: Outside, seed: int):
    gateway_client().service.breaker = carrier_client().service.breaker = Breaker("both", failures=1_000_000)
    dice = random.Random(seed)
    skus = [f"SKU-{number}" for number in range(5)]
    for sku in skus:
        shop.stock_up(sku, price=dice.randint(1, 999), stock=dice.randint(5, 40))
    shop.offer("SALE", "percent", 33, max_uses=20)
    orders = [
        shop.order(
            *((sku, dice.randint(1, 3)) for sku in dice.sample(skus, dice.randint(1, 4))),
            card=dice.choice(["tok_visa", "tok_visa", "tok_visa", "tok_declined"]),
            code=dice.choice([None, None, "SALE", "NONE"]),
        )
        for _ in range(80)
    ]

    at_once(8, lambda number: [shop.run(order) for order in orders[number::8]])
    during = shop.balance()
    for _ in range(6):
        gateway.switch(dice.choice(FAULTS), count=dice.randint(1, 4))
        carrier.switch(dice.choice(["outage", "error_after", "garbage"]), count=dice.randint(1, 4))
        waiting = [job for job in shop.jobs if job.state in {"queued", "failed"}]
        at_once(4, lambda number, waiting=waiting: [shop.run(job) for job in waiting[number::4]])
    gateway.switch("none")
    carrier.switch("none")
    shop.run_all("failed", "dead")

    books = shop.balance()
    assert during.discrepancies == books.discrepancies == ()
    assert books.reserved == 0
    assert books.captured == gateway.books()["captured"] > 0
    assert shop.compare(gateway) == ()
    assert {job.state for job in shop.jobs} == {"succeeded", "rejected"}
    assert shop.scalar("select array_agg(distinct state order by state) from orders.orders") == ["cancelled", "confirmed"]


@pytest.mark.parametrize(
    ("damage", "found"),
    [
        ("update orders.products set reserved = reserved - 1, available = available + 1", "MUG of acme: 9 \\+ 0 \\+ 1 is not"),
        ("delete from orders.payments", "costs 500 .* and 0 was captured"),
        ("update orders.payments set amount = 501", "and 501 was captured"),
        ("update orders.discounts set uses = 2", "discount SALE of acme: 2 uses, 1 orders have it, cap 5"),
        ("update orders.orders set state = 'confirmed' where state = 'paid'", "is confirmed and has no shipment"),
    ],
)
def test_a_unit_that_is_missing_is_named(shop: Shop, gateway: Outside, damage: str, found: str):
    shop.stock_up(price=600, stock=10)
    shop.offer("SALE", "fixed", 100, max_uses=5)
    shop.run(shop.order(code="SALE"))
    shop.run(shop.only("orders.charge"))
    shop.run(shop.order())

    with shop.engine.connect() as db:
        db.execute(text(damage))
        books = balance(db)

    assert not books.holds
    assert any(re.search(found, line) for line in books.discrepancies), books.discrepancies
