"""`haulier relay`: one relay as a process, until SIGTERM."""

from __future__ import annotations

from collections.abc import Sequence

from config import changes
from config.settings import Settings
from config.signals import on_stop
from config.transport.rabbitmq import RabbitmqTransport
from ledger.connection import Database
from ledger.roles import Role
from producers.relay.relay import Relay, forget_announcements


def relay(settings: Settings, queues: Sequence[str]) -> int:
    """Carry until told to stop. Returns the exit code."""
    database = Database(settings.need_database(), Role.RELAY, size=1, name="haulier relay")
    transport = RabbitmqTransport(settings.need_broker(), queues, forget_announcements(database))
    bus = changes.connect(settings.redis_url)
    running = Relay(settings, database, transport, bus)
    on_stop(running.stop)
    running.run()
    transport.close()
    bus.close()
    database.close()
    return 0
