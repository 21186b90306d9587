"""`haulier dev`: take the directory, start the servers, make the first keys, and keep the child with Haulier's own parts running."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Annotated

import httpx2
import psutil
import psycopg
import structlog
import typer
from psycopg import sql
from pydantic import SecretStr

from config import logs
from config.settings import Settings
from config.signals import on_stop
from console.client import DEV_DIRECTORY
from console.dev.directory import DevDirectory
from console.dev.first_keys import TENANT, first_keys
from console.dev.surroundings import receivers, surroundings
from console.failing import FailedError
from console.migrating import create_everything
from console.printing import print_facts
from console.servers.guard import Guard, birth
from console.servers.lock import DirectoryInUseError
from console.servers.postgres import PostgresServer
from console.servers.process import ServerError, free_port
from console.starting import AWAY, introduce, load_handlers, read_settings
from workers.runner import Post, Runner

log = structlog.get_logger()

CHILD = "console.dev.child"
DATABASE = "haulier"


def dev(
    data_dir: Annotated[Path, typer.Option(help="where everything is kept")] = DEV_DIRECTORY,
    port: Annotated[int | None, typer.Option(min=0, max=65535, help="of the intake; 0 takes a free one")] = None,
) -> None:
    """Run everything in one command, on embedded parts unless HAULIER_DATABASE_URL or HAULIER_BROKER_URL say otherwise."""
    settings = read_settings(port=port)
    logs.configure(settings.log_format)
    load_handlers(settings)
    directory = DevDirectory(data_dir)
    stop = threading.Event()
    on_stop(stop.set)
    try:
        directory.prepare()
        raise typer.Exit(_run(settings, directory, stop))
    except (DirectoryInUseError, ServerError) as error:
        raise FailedError(str(error)) from None
    except AWAY as error:
        raise FailedError(f"the database cannot be reached: {str(error).strip()}") from None


def _run(settings: Settings, directory: DevDirectory, stop: threading.Event) -> int:
    _kill_leftovers(directory.path)
    with ExitStack() as stack:
        listener = stack.enter_context(_listen(settings, directory))
        postgres = None
        url = settings.database_url.get_secret_value() if settings.database_url else None
        if url is None:
            postgres = stack.enter_context(PostgresServer(directory.path / "postgres"))
            url = _create_database(postgres)
        directory.keep_database_url(url)
        create_everything(url)
        introduce(url, load_handlers(settings))
        keys = first_keys(url, directory)
        around = stack.enter_context(surroundings(url, TENANT))
        ready = settings.model_copy(update={"database_url": SecretStr(url)})
        supervisor = stack.enter_context(supervising(Supervisor(ready, directory, postgres, listener, keys, around)))
        on_stop(supervisor.stop)
        if stop.is_set():
            supervisor.stop()
        return supervisor.run()


@contextmanager
def supervising(supervisor: Supervisor) -> Iterator[Supervisor]:
    try:
        yield supervisor
    finally:
        supervisor.close()


class Supervisor(Runner):
    """A runner with one post, whose process holds intake, relay and upkeep as well.

    It keeps the intake's socket open, so that clients who come while the child is being replaced wait instead of being refused.
    """

    def __init__(
        self,
        settings: Settings,
        directory: DevDirectory,
        postgres: PostgresServer | None,
        listener: socket.socket,
        keys: dict[str, str],
        around: dict[str, str],
    ) -> None:
        super().__init__(settings, [], 1, settings.threads)
        self._directory = directory
        self._postgres = postgres
        self._listener = listener
        self._keys = keys
        self._around = around
        self._guard = Guard()
        self._is_announced = False
        self._look_at = 0.0
        host = "127.0.0.1" if settings.host in {"0.0.0.0", "::"} else settings.host  # noqa: S104
        self._url = f"http://{f'[{host}]' if ':' in host else host}:{listener.getsockname()[1]}"

    def close(self) -> None:
        self._directory.withdraw()
        self._guard.close()

    def _look_after(self, post: Post) -> None:
        self._look_after_postgres()
        super()._look_after(post)
        if not self._is_announced and time.monotonic() >= self._look_at and self._is_ready():
            self._announce()

    def _look_after_postgres(self) -> None:
        postgres = self._postgres
        if postgres is not None and not birth(postgres.pid):
            log.error("postgres died; it is started again")
            postgres.kill()
            postgres.start()

    def _start(self, post: Post) -> None:
        inherited = {"slots": post.slots.descriptor, "listener": self._listener.fileno()}
        order = json.dumps({**inherited, "threads": post.slots.threads, "supervisor": os.getpid()})
        post.process = subprocess.Popen(
            [sys.executable, "-m", CHILD, str(self._directory.path), order],
            env={**os.environ, **receivers(self._settings), "HAULIER_DATABASE_URL": self._settings.need_database()},
            pass_fds=list(inherited.values()),
            start_new_session=True,  # Ctrl-C is for the supervisor, which stops it in order
        )
        self._guard.watch(post.process.pid, signal.SIGTERM)
        post.started_at = time.monotonic()

    def _bury(self, post: Post, code: int) -> None:
        assert post.process is not None
        self._guard.forget(post.process.pid)
        super()._bury(post, code)

    def _drain(self) -> int:
        self._listener.close()
        return super()._drain()

    def _is_ready(self) -> bool:
        self._look_at = time.monotonic() + 0.1
        try:
            return httpx2.get(f"{self._url}/readyz", timeout=1, trust_env=False).is_success
        except httpx2.TransportError:
            return False

    def _announce(self) -> None:
        self._is_announced = True
        console_url = f"{self._url}/docs"
        keys = {f"{role} key": key for role, key in self._keys.items()}
        print("\nHaulier is ready.")
        written = self._directory.path / "dev.json"
        print_facts({"base URL": self._url, "console": console_url, "tenant": TENANT, **keys, **self._around, "written to": written})
        sys.stdout.flush()
        self._directory.announce({"url": self._url, "console_url": console_url, "tenant": TENANT, "keys": self._keys})


def _create_database(postgres: PostgresServer) -> str:
    with psycopg.connect(postgres.url, autocommit=True) as connection:
        if connection.execute("select 1 from pg_database where datname = %s", (DATABASE,)).fetchone() is None:
            connection.execute(sql.SQL("create database {}").format(sql.Identifier(DATABASE)))
    return postgres.database_url(DATABASE)


def _listen(settings: Settings, directory: DevDirectory) -> socket.socket:
    """The intake's socket; on a free port, if that was asked for, but the same as the last time where it can be. Raises FailedError."""
    trouble: OSError | None = None
    for port in [settings.port] if settings.port else [directory.kept_port() or free_port(), free_port()]:
        try:
            listener = socket.create_server((settings.host, port), backlog=1024)
        except OSError as error:
            trouble = error
        else:
            directory.keep_port(port)
            return listener
    raise FailedError(f"port {settings.port} at {settings.host}: {trouble and trouble.strerror}; choose another with --port")


def _kill_leftovers(directory: Path) -> None:
    """A child whose supervisor was killed a moment ago may still be on its way out."""
    left: list[psutil.Process] = []
    for process in psutil.process_iter(["cmdline"]):
        words: list[str] = process.info["cmdline"] or []
        if CHILD in words and str(directory) in words:
            log.warning("a killed supervisor left its child; killed", pid=process.pid)
            left.append(process)
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
    psutil.wait_procs(left, timeout=10)
