"""One rig for the whole matrix: what a case does not kill goes on to the next."""

from __future__ import annotations

import secrets
from collections.abc import Iterator

import pytest

from console.servers.postgres import PostgresServer
from console.servers.rabbitmq import RabbitmqNode
from ledger.migrate import migrate
from tests.crash.rig import Rig
from tests.servers import fresh_database


@pytest.fixture(scope="module")
def rig(postgres_server: PostgresServer, rabbitmq_node: RabbitmqNode, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    vhost = f"crash_{secrets.token_hex(6)}"
    broker_url = rabbitmq_node.add_vhost(vhost)
    with fresh_database(postgres_server, "template0") as database_url:
        migrate(database_url)
        with Rig(database_url, broker_url, tmp_path_factory.mktemp("logs")) as found:
            found.start_all()
            yield found
    rabbitmq_node.delete_vhost(vhost)
