"""The books of the domain: whether stock, money and discounts balance to the unit, by recounting the orders. Reads only."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import LiteralString

from sqlalchemy import Connection, text


@dataclass(frozen=True, slots=True)
class Balance:
    """Sums over all tenants, and each discrepancy as a sentence."""

    stock: int
    available: int
    reserved: int
    sold: int
    orders: int
    paid: int
    captured: int
    discrepancies: tuple[str, ...]

    @property
    def holds(self) -> bool:
        return not self.discrepancies


@dataclass(frozen=True, slots=True)
class Charge:
    """One line of the gateway's own books. `reference` is the order's id."""

    id: str
    reference: str
    amount: int


SUMS: LiteralString = """
select (select coalesce(sum(stock), 0)::bigint from orders.products) as stock,
       (select coalesce(sum(available), 0)::bigint from orders.products) as available,
       (select coalesce(sum(reserved), 0)::bigint from orders.products) as reserved,
       (select coalesce(sum(sold), 0)::bigint from orders.products) as sold,
       (select count(*) from orders.orders) as orders,
       (select coalesce(sum(total), 0)::bigint from orders.orders where state in ('paid', 'shipped', 'confirmed')) as paid,
       (select coalesce(sum(amount), 0)::bigint from orders.payments) as captured
"""

#: Each product against the lines of the orders that hold it.
STOCK: LiteralString = """
select format('%s of %s: %s + %s + %s is not the stock of %s; orders hold %s reserved and %s sold',
              p.sku, p.tenant, p.available, p.reserved, p.sold, p.stock, held.reserved, held.sold)
  from orders.products p
  cross join lateral (
      select coalesce(sum(l.quantity) filter (where o.state = 'reserved'), 0) as reserved,
             coalesce(sum(l.quantity) filter (where o.state in ('paid', 'shipped', 'confirmed')), 0) as sold
        from orders.order_lines l join orders.orders o on o.id = l.order_id
       where l.tenant = p.tenant and l.sku = p.sku) held
 where p.available + p.reserved + p.sold <> p.stock or p.reserved <> held.reserved or p.sold <> held.sold
 order by p.tenant, p.sku
"""

#: Each order against its lines and its payment; a free one has none.
MONEY: LiteralString = """
select format('order %s is %s, costs %s (lines %s) and %s was captured', o.id, o.state, o.total, line.amount, coalesce(p.amount, 0))
  from orders.orders o
  left join orders.payments p on p.order_id = o.id
  cross join lateral (select coalesce(sum(quantity * price), 0) as amount from orders.order_lines where order_id = o.id) line
 where o.subtotal <> line.amount
    or coalesce(p.amount, 0) <> case when o.state in ('paid', 'shipped', 'confirmed') then o.total else 0 end
 order by o.id
"""

#: Each order's place with the carrier.
SHIPMENTS: LiteralString = """
select format('order %s is %s and has %s shipment', o.id, o.state, case when s.order_id is null then 'no' else 'a' end)
  from orders.orders o left join orders.shipments s on s.order_id = o.id
 where (s.order_id is not null) <> (o.state in ('shipped', 'confirmed'))
 order by o.id
"""

DISCOUNTS: LiteralString = """
select format('discount %s of %s: %s uses, %s orders have it, cap %s', d.code, d.tenant, d.uses, had.orders, coalesce(d.max_uses::text, 'none'))
  from orders.discounts d
  cross join lateral (
      select count(*) as orders from orders.orders o
       where o.tenant = d.tenant and o.discount_code = d.code and o.state <> 'cancelled') had
 where d.uses <> had.orders or d.uses > d.max_uses
 order by d.tenant, d.code
"""


def balance(connection: Connection) -> Balance:
    """Recount everything. Run it in a transaction of its own at `repeatable read` while orders are moving, else the sums are of
    different moments.
    """
    sums = connection.execute(text(SUMS)).one()
    found = [line for books in (STOCK, MONEY, SHIPMENTS, DISCOUNTS) for line in connection.scalars(text(books))]
    if sums.paid != sums.captured:
        found.append(f"orders of {sums.paid} are paid, and {sums.captured} were captured")
    return Balance(*sums, discrepancies=tuple(found))


def compare_with_gateway(connection: Connection, charges: Iterable[Charge]) -> tuple[str, ...]:
    """Our payments against the gateway's books, charge by charge: money taken that nobody booked, booked and not taken, or taken twice."""
    payments = connection.execute(text("select charge_id, order_id, amount from orders.payments"))
    ours = {row.charge_id: Charge(row.charge_id, str(row.order_id), row.amount) for row in payments}
    theirs = {charge.id: charge for charge in charges}
    found: list[str] = []
    for charge_id in sorted(theirs.keys() | ours.keys()):
        taken, booked = theirs.get(charge_id), ours.get(charge_id)
        if booked is None:
            found.append(f"charge {charge_id}: the gateway took {taken}, and no payment of ours is for it")
        elif taken is None:
            found.append(f"charge {charge_id}: we booked {booked}, and the gateway does not know it")
        elif taken != booked:
            found.append(f"charge {charge_id}: we booked {booked}, and the gateway took {taken}")
    return tuple(found)
