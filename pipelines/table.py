"""Every command that there is, by name, and who carries it out. A new command is one line here."""

from __future__ import annotations

from pipelines.command import Handler
from pipelines.orders.charge import charge_order
from pipelines.orders.confirm import confirm_order
from pipelines.orders.place import place_order
from pipelines.orders.release import release_stock
from pipelines.orders.ship import ship_order

HANDLERS: dict[str, Handler] = {
    "orders.place": place_order,
    "orders.charge": charge_order,
    "orders.ship": ship_order,
    "orders.confirm": confirm_order,
    "orders.release": release_stock,
}
