"""`haulier upkeep`: upkeep as a process, and beside it the drain of RabbitMQ's dead-letter queues."""

from __future__ import annotations

import threading
from uuid import UUID

import structlog

from config import changes
from config.settings import Settings
from config.signals import on_stop
from config.transport.message import Message
from ledger import orphans, outbox
from ledger.connection import Database
from ledger.roles import Role
from pipelines.load import load, queues_of
from workers import metrics
from workers.dead_letters import OnDeadMessage, drain_dead_letters
from workers.upkeep import Upkeep

log = structlog.get_logger()


def keep(settings: Settings) -> int:
    """Until SIGTERM or SIGINT; returns the exit code."""
    database = Database(settings.need_database(), Role.UPKEEP, size=2, name="haulier upkeep", by_index=True)
    handlers = load(settings.handlers)
    bus = changes.connect(settings.redis_url)
    upkeep = Upkeep(settings, database, handlers, bus)
    stop = threading.Event()
    drain = threading.Thread(
        target=drain_dead_letters, args=(settings.need_broker(), queues_of(handlers), on_dead_message(database), stop), daemon=True
    )
    drain.start()
    on_stop(lambda: (upkeep.stop(), stop.set()))
    upkeep.run()
    drain.join(5)
    bus.close()
    database.close()
    return 0


def on_dead_message(database: Database) -> OnDeadMessage:
    """What RabbitMQ gave up kills no job: its jobs are announced again at once, and what names none is kept as an orphan."""

    def tell(queue: str, message: Message | None, body: bytes, reason: str) -> None:
        with database.plumbing() as tx:
            if message is None:
                metrics.ORPHANS.labels(queue).inc()
                orphans.keep(tx, queue, body, f"dead-lettered by RabbitMQ; {reason}")
                return
            ids: list[UUID] = [job.job_id for job in message.jobs]
            again = outbox.unmark(tx, ids)
        metrics.GIVEN_UP.labels(queue).inc()
        log.warning("RabbitMQ gave a message up; its jobs are announced again", queue=queue, reason=reason, jobs=len(ids), waiting=again)

    return tell
