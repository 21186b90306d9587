"""A shop on a database of its own, and the outside services that its handlers call."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from sqlalchemy import create_engine

from console.demo import carrier as demo_carrier
from console.demo import gateway as demo_gateway
from console.demo.serving import running
from ledger.connection import sqlalchemy_url
from ledger.roles import Role
from pipelines.orders import carrier as carrier_client
from pipelines.orders import gateway as gateway_client
from pipelines.orders.schema import create_tables
from pipelines.orders.settings import settings
from tests.orders.direct import Outside, Shop


@pytest.fixture
def shop(database_url: str) -> Iterator[Shop]:
    """Whatever a test did, its books balance at the end."""
    engine = create_engine(sqlalchemy_url(database_url), pool_size=20, pool_timeout=60)
    with engine.begin() as db:
        create_tables(db)
    handlers = create_engine(
        sqlalchemy_url(database_url), pool_size=20, pool_timeout=60, connect_args={"options": f"-c role={Role.HANDLER}"}
    )
    shop = Shop(engine, handlers)
    yield shop
    assert shop.balance().discrepancies == ()
    engine.dispose()
    handlers.dispose()


@pytest.fixture
def gateway(monkeypatch: pytest.MonkeyPatch) -> Iterator[Outside]:
    with running(demo_gateway.create_app()) as url:
        monkeypatch.setenv("HAULIER_GATEWAY_URL", url)
        settings.cache_clear()
        yield Outside(url)
        close(gateway_client.gateway())
        gateway_client._gateway.cache_clear()  # the next test's may get the same port
    settings.cache_clear()


@pytest.fixture
def carrier(monkeypatch: pytest.MonkeyPatch) -> Iterator[Outside]:
    with running(demo_carrier.create_app()) as url:
        monkeypatch.setenv("HAULIER_CARRIER_URL", url)
        settings.cache_clear()
        yield Outside(url)
        close(carrier_client.carrier())
        carrier_client._carrier.cache_clear()
    settings.cache_clear()


def close(client: gateway_client.Gateway | carrier_client.Carrier) -> None:
    client.service._client.close()
