"""The ways from relay to worker that a contract must hold on."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.chaos.proxy import Proxy
from tests.transport.way import MemoryWay, RabbitmqWay, Way


@pytest.fixture(params=["memory", "rabbitmq"])
def way(request: pytest.FixtureRequest) -> Iterator[Way]:
    found = MemoryWay() if request.param == "memory" else RabbitmqWay(request.getfixturevalue("rabbitmq_url"))
    yield found
    found.close()


@pytest.fixture
def rabbitmq_way(rabbitmq_url: str) -> Iterator[RabbitmqWay]:
    found = RabbitmqWay(rabbitmq_url)
    yield found
    found.close()


@pytest.fixture
def proxy(rabbitmq_url: str) -> Iterator[Proxy]:
    found = Proxy(rabbitmq_url)
    yield found
    found.close()
