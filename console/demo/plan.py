"""What the demo orders, and how each order is meant to end: worked out beforehand, so that the end can be held against it."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection, insert

from console.demo.carrier import NOWHERE
from console.demo.gateway import DECLINED_CARD
from pipelines.orders.schema import bind, discounts, products

#: Sku → price in cents. There is enough of each.
PRICES = {"MUG-BLUE": 1250, "MUG-RED": 1250, "PLATE-WHITE": 1890, "BOWL-OAK": 3400, "SPOON-SET": 2299, "TEAPOT": 5900}
#: Of this one there is not.
SCARCE = "LAMP-LAST"

#: Discount code → kind and value. A gift costs nothing, so nothing is charged.
DISCOUNTS = {"WELCOME10": ("percent", 10), "FIVER": ("fixed", 500), "GIFT": ("percent", 100)}

ADDRESS = {"name": "Ada Lovelace", "street": "12 Main Street", "postal_code": "10115", "city": "Berlin", "country": "DE"}


@dataclass(frozen=True, slots=True)
class Order:
    """`times`: how often the client submits it, under the one key. `ending`: of its family."""

    key: str
    ending: str
    payload: dict[str, Any]
    times: int = 1


@dataclass(frozen=True, slots=True)
class Plan:
    orders: Sequence[Order]
    scarce_stock: int
    declined: int
    sold_out: int
    undeliverable: int
    repeated: int

    #: Families by how they end. Who gets the last lamps is open; how many do is not.
    endings: Counter[str] = field(default_factory=Counter[str])

    @property
    def submissions(self) -> int:
        return sum(order.times for order in self.orders)


def make_plan(count: int) -> Plan:
    """The same for the same count. Raises ValueError for fewer orders than it takes to show everything."""
    if count < 40:
        raise ValueError(f"the demo takes at least 40 orders, got {count}")
    chance = random.Random(count)
    declined, scarce, undeliverable, repeated = count // 16, count // 20, 2, count // 10
    sold_out = scarce - scarce // 2
    kinds = ["declined"] * declined + ["scarce"] * scarce + ["undeliverable"] * undeliverable
    kinds += ["plain"] * (count - len(kinds))
    chance.shuffle(kinds)
    often = set(chance.sample(range(count), repeated))
    orders = [_order(number, kind, 3 if number in often else 1, chance) for number, kind in enumerate(kinds, 1)]
    endings = Counter({"rejected": declined + sold_out, "dead": undeliverable})
    endings["succeeded"] = count - endings.total()
    return Plan(orders, scarce // 2, declined, sold_out, undeliverable, repeated, endings)


def _order(number: int, kind: str, times: int, chance: random.Random) -> Order:
    payload: dict[str, Any] = {"customer": f"customer-{number}@example.com", "card_token": "tok_visa", "address": ADDRESS}
    payload["lines"] = [{"sku": sku, "quantity": chance.randint(1, 3)} for sku in chance.sample(sorted(PRICES), chance.randint(1, 3))]
    match kind:
        case "declined":
            payload["card_token"] = DECLINED_CARD
        case "scarce":
            payload["lines"] = [{"sku": SCARCE, "quantity": 1}]
        case "undeliverable":
            payload["address"] = {**ADDRESS, "country": NOWHERE}
        case _ if chance.random() < 0.25:
            payload["discount_code"] = chance.choice(sorted(DISCOUNTS))
        case _:
            pass
    return Order(f"demo-order-{number}", kind, payload, times)


def stock_up(db: Connection, tenant: str, plan: Plan) -> None:
    """Fill the shop."""
    stocks = {sku: (price, 9 * len(plan.orders)) for sku, price in PRICES.items()} | {SCARCE: (9900, plan.scarce_stock)}
    rows = [
        {"tenant": tenant, "sku": sku, "name": sku.title(), "price": price, "stock": stock, "available": stock}
        for sku, (price, stock) in stocks.items()
    ]
    bind(db, tenant)
    db.execute(insert(products), rows)
    db.execute(
        insert(discounts), [{"tenant": tenant, "code": code, "kind": kind, "value": value} for code, (kind, value) in DISCOUNTS.items()]
    )
