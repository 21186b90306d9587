"""Every command that there is, by name, and who carries it out. A new command is one line here."""

from __future__ import annotations

import difflib

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


class UnknownCommandError(LookupError):
    """No handler has this name. `nearest` is the known name most like it, if any is."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.nearest = next(iter(difflib.get_close_matches(name, HANDLERS, n=1)), None)
        super().__init__(f"unknown command {name!r}" + (f", did you mean {self.nearest!r}?" if self.nearest else ""))


def handler_for(name: str) -> Handler:
    """Raises UnknownCommandError."""
    try:
        return HANDLERS[name]
    except KeyError:
        raise UnknownCommandError(name) from None
