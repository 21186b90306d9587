"""`haulier serve`, `relay`, `work` and `upkeep`: each one part of the way as a process, until SIGTERM."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Annotated

import typer
from prometheus_client.registry import Collector

from config.metrics import Ours, Places
from config.metrics import serve as serve_metrics
from config.settings import Settings
from console.failing import FailedError, WrongUseError
from console.starting import begin, begin_without_waiting, read_settings
from ledger.connection import Database
from ledger.roles import Role
from pipelines.load import queues_of
from producers.intake.serve import make_server
from producers.relay.serve import relay as run_relay
from workers.keep import keep
from workers.runner import work as run_workers


def serve() -> None:
    """Run an intake: the HTTP door, at HAULIER_HOST and HAULIER_PORT."""
    settings = read_settings()
    handlers = begin_without_waiting(settings, "serve")
    database = Database(settings.need_database(), Role.INTAKE, size=16, name="haulier intake")
    server = make_server(settings, database, handlers)
    server.run()
    database.close()
    raise typer.Exit(0 if server.started else 1)


def relay() -> None:
    """Run a relay: carry what is due from the ledger to RabbitMQ."""
    settings = read_settings()
    settings.need_broker()
    handlers = begin(settings, "relay")
    _open_metrics(settings, Ours())
    raise typer.Exit(run_relay(settings, queues_of(handlers)))


def work(
    queues: Annotated[str | None, typer.Option(help="only these, with commas between them; all by default")] = None,
    processes: Annotated[int | None, typer.Option(help="worker processes; HAULIER_PROCESSES by default")] = None,
    threads: Annotated[int | None, typer.Option(help="threads of each; HAULIER_THREADS by default")] = None,
) -> None:
    """Run workers: processes that carry out jobs, each replaced when it dies."""
    settings = read_settings(processes=processes, threads=threads)
    settings.need_broker()
    known = queues_of(begin(settings, "work"))
    wanted = known if queues is None else [name.strip() for name in queues.split(",") if name.strip()]
    unknown = sorted(set(wanted) - set(known))
    if unknown or not wanted:
        raise WrongUseError(f"--queues takes some of {', '.join(known)}, got {queues!r}; nothing was started")
    with Places() if settings.metrics_port else nullcontext() as places:
        _open_metrics(settings, places)
        raise typer.Exit(run_workers(settings, wanted, places))


def upkeep() -> None:
    """Run upkeep: rescue, expire, archive, and watch what RabbitMQ gave up."""
    settings = read_settings()
    settings.need_broker()
    begin(settings, "upkeep")
    _open_metrics(settings, Ours())
    raise typer.Exit(keep(settings))


def _open_metrics(settings: Settings, collector: Collector | None) -> None:
    if settings.metrics_port is None or collector is None:
        return
    try:
        serve_metrics(settings.host, settings.metrics_port, collector)
    except OSError as error:
        raise FailedError(f"/metrics cannot be served at {settings.host}:{settings.metrics_port} (HAULIER_METRICS_PORT): {error}") from None
