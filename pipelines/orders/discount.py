"""Discount codes: what one takes off a cart, and that it is used no oftener than its cap, whoever uses it at the same time."""

from __future__ import annotations

from typing import ClassVar

from sqlalchemy import Connection, func, or_, select, update

from pipelines.command import CommandError
from pipelines.orders.schema import discounts


class DiscountRefused(CommandError):
    """The discount code does not exist, is not valid now, is used up, or asks for a larger cart."""

    code: ClassVar[str] = "discount_refused"


def use(db: Connection, tenant: str, code: str, subtotal: int) -> int:
    """Use the code once. Returns what it takes off `subtotal`, rounded down. Raises DiscountRefused.

    The database's clock decides on the validity; the row stays locked until the caller commits, so it comes last of all locks.
    """
    statement = (
        update(discounts)
        .where(
            discounts.c.tenant == tenant,
            discounts.c.code == code,
            discounts.c.valid_from <= func.now(),
            discounts.c.valid_until > func.now(),
            discounts.c.minimum_total <= subtotal,
            or_(discounts.c.max_uses.is_(None), discounts.c.uses < discounts.c.max_uses),
        )
        .values(uses=discounts.c.uses + 1)
        .returning(discounts.c.kind, discounts.c.value)
    )
    row = db.execute(statement).one_or_none()
    if row is None:
        raise DiscountRefused(_why_not(db, tenant, code, subtotal))
    return subtotal * row.value // 100 if row.kind == "percent" else min(row.value, subtotal)


def _why_not(db: Connection, tenant: str, code: str, subtotal: int) -> str:
    now = func.now()
    facts = select(
        discounts.c.minimum_total, (now < discounts.c.valid_from).label("early"), (now >= discounts.c.valid_until).label("late")
    ).where(discounts.c.tenant == tenant, discounts.c.code == code)
    row = db.execute(facts).one_or_none()
    if row is None:
        return f"there is no discount {code!r}"
    if row.early or row.late:
        return f"the discount {code!r} is {'not valid yet' if row.early else 'no longer valid'}"
    if subtotal < row.minimum_total:
        return f"the discount {code!r} asks for a cart of at least {row.minimum_total}, this one is {subtotal}"
    return f"the discount {code!r} is used up"


def give_back(db: Connection, tenant: str, code: str) -> None:
    """Undo one use."""
    db.execute(update(discounts).where(discounts.c.tenant == tenant, discounts.c.code == code).values(uses=discounts.c.uses - 1))
