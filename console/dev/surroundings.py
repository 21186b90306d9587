"""What is around in `haulier dev`, unless it is configured: a stocked shop, a payment gateway and a carrier, and receivers of webhooks on this machine."""

from __future__ import annotations

import os
from collections.abc import Generator
from contextlib import ExitStack, contextmanager

from sqlalchemy import create_engine
from sqlalchemy.dialects.postgresql import insert

from config.settings import Settings
from console.demo import carrier, gateway
from console.demo.serving import running
from ledger.connection import sqlalchemy_url
from pipelines.orders.schema import bind, products
from pipelines.orders.settings import OrdersSettings

#: In minor units of the domain's currency.
SHELVES = {"MUG-BLUE": ("A blue mug", 999), "MUG-RED": ("A red mug", 999), "TEAPOT": ("A teapot", 3450)}
PIECES = 1000


@contextmanager
def surroundings(database_url: str, tenant: str) -> Generator[dict[str, str]]:
    """Gives their addresses. The child finds them in its environment."""
    configured = OrdersSettings()
    with ExitStack() as stack:
        found: dict[str, str] = {}
        if configured.gateway_url is None:
            _stock(database_url, tenant)
            found["payment gateway"] = os.environ["HAULIER_GATEWAY_URL"] = stack.enter_context(running(gateway.create_app()))
        if configured.carrier_url is None:
            found["carrier"] = os.environ["HAULIER_CARRIER_URL"] = stack.enter_context(running(carrier.create_app()))
        yield found


def receivers(settings: Settings) -> dict[str, str]:
    """For the child's environment: webhooks may be tried with a receiver on this machine, without TLS. What is configured holds instead."""
    allowed = {"webhook_networks": "127.0.0.0/8,::1/128", "webhook_http": "true"}
    return {f"HAULIER_{name.upper()}": value for name, value in allowed.items() if name not in settings.model_fields_set}


def _stock(database_url: str, tenant: str) -> None:
    """Once: what is sold stays sold."""
    shelves = [
        {"tenant": tenant, "sku": sku, "name": name, "price": price, "stock": PIECES, "available": PIECES}
        for sku, (name, price) in SHELVES.items()
    ]
    engine = create_engine(sqlalchemy_url(database_url))
    with engine.begin() as connection:
        bind(connection, tenant)
        connection.execute(insert(products).on_conflict_do_nothing(), shelves)
    engine.dispose()
