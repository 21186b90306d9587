"""An order's steps from state to state, each guarded: who finds it elsewhere than expected changes nothing."""

from __future__ import annotations

from typing import ClassVar
from uuid import UUID

from sqlalchemy import Connection, Row, func, select, update

from pipelines.command import CommandError
from pipelines.orders.cart import Line
from pipelines.orders.schema import order_lines, orders


class UnknownOrder(CommandError):
    """There is no such order."""

    code: ClassVar[str] = "unknown_order"


class WrongState(CommandError):
    """The order is not in the state that this step starts from."""

    code: ClassVar[str] = "wrong_state"


def move(db: Connection, tenant: str, order_id: UUID, before: str, after: str) -> Row[int, str | None, dict[str, str]]:
    """Take the order from `before` to `after` and return it (total, discount_code, address). Raises WrongState or UnknownOrder."""
    statement = (
        update(orders)
        .where(orders.c.tenant == tenant, orders.c.id == order_id, orders.c.state == before)
        .values(state=after, changed_at=func.now())
        .returning(orders.c.total, orders.c.discount_code, orders.c.address)
    )
    row = db.execute(statement).one_or_none()
    if row is None:
        raise _why_not(db, tenant, order_id, before, after)
    return row


def state_of(db: Connection, tenant: str, order_id: UUID) -> str | None:
    return db.scalar(select(orders.c.state).where(orders.c.tenant == tenant, orders.c.id == order_id))


def lines_of(db: Connection, order_id: UUID) -> tuple[Line, ...]:
    rows = db.execute(select(order_lines.c.sku, order_lines.c.quantity).where(order_lines.c.order_id == order_id))
    return tuple(Line(sku=row.sku, quantity=row.quantity) for row in rows)


def _why_not(db: Connection, tenant: str, order_id: UUID, before: str, after: str) -> CommandError:
    state = state_of(db, tenant, order_id)
    if state is None:
        return UnknownOrder(f"there is no order {order_id}")
    return WrongState(f"order {order_id} is {state}, not {before}; it did not become {after}")
