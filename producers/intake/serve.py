"""`haulier serve`: one intake as a process, until SIGTERM; then it is not ready any more, finishes what it has, and leaves."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Mapping
from types import FrameType

import structlog
import uvicorn

from config.changes import Changes
from config.settings import Settings
from ledger import workers
from ledger.connection import Database
from ledger.roles import Role
from pipelines.command import Handler
from pipelines.load import describe, load
from producers.intake.app import create_app
from producers.intake.connection import PATIENCE, Connection
from producers.intake.parts import Parts

log = structlog.get_logger()

#: From "not ready" to "takes no new connections", so that a load balancer has seen it.
NOTICE = 0.5
#: Seconds for which a client may take nothing of what is sent to it, before the connection is cut.
STALLED = 30


class IntakeServer(uvicorn.Server):
    """A uvicorn that says where it listens, and says that it is leaving before it leaves."""

    def __init__(self, config: uvicorn.Config, parts: Parts, ready: Callable[[str], None] | None) -> None:
        super().__init__(config)
        self._parts = parts
        self._ready = ready
        self._loop: asyncio.AbstractEventLoop | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        self._loop = asyncio.get_running_loop()
        await super().startup(sockets)
        if self.should_exit:
            return
        for listening in (each for server in self.servers for each in server.sockets):
            if listening.family in {socket.AF_INET, socket.AF_INET6}:  # those accepted there inherit it
                listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, STALLED * 1000)
        host, port = self.servers[0].sockets[0].getsockname()[:2]
        url = f"http://{f'[{host}]' if ':' in host else host}:{port}"
        log.info("the intake listens", url=url)
        if self._ready:
            self._ready(url)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """A second signal means at once."""
        if self._parts.leaving:
            super().handle_exit(sig, frame)
        self.stop()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Whoever waits is answered now: who asks again finds another intake."""
        self._parts.hub.leave()
        self._parts.tail.leave()
        await super().shutdown(sockets)

    def stop(self) -> None:
        """From any thread: leave in order."""
        self._parts.leaving = True
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._loop.call_later, NOTICE, setattr, self, "should_exit", True)
        else:
            self.should_exit = True


def make_server(
    settings: Settings,
    database: Database,
    handlers: Mapping[str, Handler],
    ready: Callable[[str], None] | None = None,
    transport_problem: Callable[[], str | None] | None = None,
    bus: Changes | None = None,
) -> IntakeServer:
    """A server to `run()`, in the main thread (it then minds SIGTERM) or in another (then `stop()` it)."""
    app, parts = create_app(settings, database, handlers, transport_problem=transport_problem, bus=bus)
    config = uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        loop="uvloop",
        http=Connection,
        ws="none",
        lifespan="on",
        access_log=False,
        log_config=None,
        server_header=False,
        proxy_headers=bool(settings.trusted_proxies),
        forwarded_allow_ips=settings.trusted_proxies,
        timeout_keep_alive=PATIENCE,
        timeout_graceful_shutdown=max(1, int(settings.drain - 2 * NOTICE)),  # and the rest is for leaving
    )
    return IntakeServer(config, parts, ready)


def serve(
    settings: Settings,
    *,
    database: Database | None = None,
    handlers: Mapping[str, Handler] | None = None,
    ready: Callable[[str], None] | None = None,
    transport_problem: Callable[[], str | None] | None = None,
) -> int:
    """Serve until told to stop. `ready` is called with the base URL. Returns the exit code."""
    own = Database(settings.need_database(), Role.INTAKE, size=8, name="haulier intake") if database is None else None
    ledger = database or own
    assert ledger is not None
    table = load(settings.handlers) if handlers is None else handlers
    try:
        with ledger.plumbing() as tx:
            workers.remember_commands(tx, describe(table))
        server = make_server(settings, ledger, table, ready, transport_problem)
        server.run()
        return 0 if server.started else 1
    finally:
        if own is not None:
            own.close()
