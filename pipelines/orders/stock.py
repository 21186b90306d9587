"""Stock moves between available, reserved and sold: one guarded statement for a sku, always in sku order, so that two carts with common
products cannot deadlock. Everybody takes locks in one order: the order's row, products by sku, the discount.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from sqlalchemy import Connection, select, update

from pipelines.command import CommandError
from pipelines.orders.cart import Line
from pipelines.orders.schema import products


class SoldOut(CommandError):
    """Not enough of a product is left."""

    code: ClassVar[str] = "sold_out"


class UnknownProduct(CommandError):
    """The cart names a product that does not exist."""

    code: ClassVar[str] = "unknown_product"


def reserve(db: Connection, tenant: str, lines: Sequence[Line]) -> dict[str, int]:
    """Put the cart aside. Returns each product's price. Raises SoldOut or UnknownProduct: the caller rolls back what was put aside."""
    return {line.sku: _reserve(db, tenant, line) for line in _in_order(lines)}


def _reserve(db: Connection, tenant: str, line: Line) -> int:
    statement = (
        update(products)
        .where(products.c.tenant == tenant, products.c.sku == line.sku, products.c.available >= line.quantity)
        .values(available=products.c.available - line.quantity, reserved=products.c.reserved + line.quantity)
        .returning(products.c.price)
    )
    price = db.scalar(statement)
    if price is None:
        raise _why_not(db, tenant, line)
    return price


def _why_not(db: Connection, tenant: str, line: Line) -> CommandError:
    left = db.scalar(select(products.c.available).where(products.c.tenant == tenant, products.c.sku == line.sku))
    if left is None:
        return UnknownProduct(f"there is no product {line.sku!r}")
    return SoldOut(f"{line.quantity} of {line.sku!r} were ordered, and fewer are left")


def sell(db: Connection, tenant: str, lines: Sequence[Line]) -> None:
    """From reserved to sold: it has been paid."""
    for line in _in_order(lines):
        db.execute(
            update(products)
            .where(products.c.tenant == tenant, products.c.sku == line.sku)
            .values(reserved=products.c.reserved - line.quantity, sold=products.c.sold + line.quantity)
        )


def give_back(db: Connection, tenant: str, lines: Sequence[Line]) -> None:
    """From reserved to available: the order will not be paid."""
    for line in _in_order(lines):
        db.execute(
            update(products)
            .where(products.c.tenant == tenant, products.c.sku == line.sku)
            .values(reserved=products.c.reserved - line.quantity, available=products.c.available + line.quantity)
        )


def _in_order(lines: Sequence[Line]) -> list[Line]:
    return sorted(lines, key=lambda line: line.sku)
