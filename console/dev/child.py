"""All of Haulier's own parts in one process: intake, relay, a worker unit and upkeep, as `haulier dev` runs them.

Started by the supervisor as `python -m console.dev.child DIRECTORY ORDER`; it may be killed and started again at any time.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence

import structlog

from config import changes, logs
from config.settings import Settings
from config.transport import Transport
from config.transport.memory import MemoryQueues, MemoryTransport
from config.transport.rabbitmq import RabbitmqTransport
from ledger import workers
from ledger.connection import Database
from ledger.roles import Role
from pipelines.command import Handler
from pipelines.load import load, queues_of
from producers.intake.serve import IntakeServer, make_server
from producers.relay.relay import Relay, forget_announcements
from workers.broker import DeliveryBroker, MemoryBroker, Perform, QuorumBroker
from workers.dead_letters import drain_dead_letters
from workers.keep import on_dead_message
from workers.slots import Slots
from workers.unit import Unit, keep_orphan
from workers.upkeep import Upkeep

log = structlog.get_logger()


class Parts:
    """They come and go together: when one ends, the others are told to."""

    def __init__(self, settings: Settings, handlers: Mapping[str, Handler], slots: Slots, listener: socket.socket) -> None:
        url = settings.need_database()
        # One login, and for each part the role that it has in production.
        intake, relay, upkeep = (
            Database(url, role, size=size, name=f"haulier dev's {name}")
            for role, size, name in ((Role.INTAKE, 8, "intake"), (Role.RELAY, 1, "relay"), (Role.UPKEEP, 2, "upkeep"))
        )
        self._database = Database(url, Role.WORKER, size=4, name="haulier dev's worker")
        self._stop = threading.Event()
        self._code = 0
        queues = self._queues(handlers)
        transport, make_broker, drain = self._way(settings, queues, slots.threads, relay, upkeep)
        self._changes = changes.connect(settings.redis_url)
        self._unit = Unit(settings, self._database, handlers, make_broker, queues, slots, self._changes)
        self._relay = Relay(settings, relay, transport, self._changes)
        self._upkeep = Upkeep(settings, upkeep, handlers, self._changes)
        self._transport = transport
        self._listener = listener
        self._intake: IntakeServer = make_server(settings, intake, handlers, transport_problem=lambda: transport.problem, bus=self._changes)
        beside = {"relay": self._relay.run, "upkeep": self._upkeep.run, "worker": self._work, **({"drain": drain} if drain else {})}
        self._threads = [threading.Thread(target=self._keep, args=item, name=item[0]) for item in beside.items()]

    def run(self) -> int:
        """Until told to stop; the intake has the main thread, where signals arrive. Returns the exit code."""
        self._unit.start()
        for thread in self._threads:
            thread.start()
        self._intake.run(sockets=[self._listener])
        self._stop.set()
        self._relay.stop()
        self._upkeep.stop()
        self._unit.stop()
        for thread in self._threads:
            thread.join()
        self._transport.close()
        return self._code or (0 if self._intake.started else 1)

    def stop(self) -> None:
        self._intake.stop()

    def _queues(self, handlers: Mapping[str, Handler]) -> list[str]:
        """Those of another table of handlers too, that this directory was used with before: the relay looks after them all."""
        with self._database.plumbing() as tx:
            return sorted({*queues_of(handlers), *workers.queues(tx).values()})

    def _way(
        self, settings: Settings, queues: Sequence[str], threads: int, relay: Database, upkeep: Database
    ) -> tuple[Transport, Callable[[Perform], DeliveryBroker], Callable[[], None] | None]:
        """From relay to worker: RabbitMQ where it is configured, else this process's memory, which has just forgotten everything."""
        on_orphan = keep_orphan(self._database)
        forget = forget_announcements(relay)
        if settings.broker_url is None:
            forget()
            memory = MemoryQueues(queues)
            return MemoryTransport(memory), lambda perform: MemoryBroker(memory, queues, threads, perform, on_orphan), None
        url = settings.need_broker()

        def drain() -> None:
            drain_dead_letters(url, queues, on_dead_message(upkeep), self._stop)

        return RabbitmqTransport(url, queues, forget), lambda perform: QuorumBroker(url, queues, threads, perform, on_orphan), drain

    def _work(self) -> None:
        self._code = self._unit.wait()

    def _keep(self, name: str, run: Callable[[], None]) -> None:
        try:
            run()
        except Exception:
            log.exception("a part of haulier dev broke; all of them are started again", part=name)
            self._code = 1
        if not self._stop.is_set():
            self._intake.stop()


def main() -> None:
    order = json.loads(sys.argv[2])
    settings = Settings()  # pyright: ignore[reportCallIssue]
    logs.configure(settings.log_format)
    parts = Parts(settings, load(settings.handlers), Slots(order["slots"], order["threads"]), socket.socket(fileno=order["listener"]))
    threading.Thread(target=_follow, args=(order["supervisor"], parts.stop), daemon=True).start()
    code = parts.run()
    logs.flush()
    os._exit(code)  # a stuck handler's thread must not keep the process


def _follow(supervisor: int, stop: Callable[[], None]) -> None:
    """Without its supervisor it has no database for long, and nobody to stop it."""
    while os.getppid() == supervisor:
        time.sleep(0.5)
    stop()


if __name__ == "__main__":
    main()
