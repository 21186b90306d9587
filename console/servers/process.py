"""What every private server has in common: started behind a guard, waited for, stopped, killed, and started anew over what a crash left."""

from __future__ import annotations

import contextlib
import os
import random
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import ClassVar, Self

import psutil
import structlog

from console.servers.guard import Guard
from console.servers.lock import DirectoryLock

log = structlog.get_logger()

# Below the ports that kernels give to outgoing connections, so that a server which was killed finds its port free again.
PORTS = range(20000, 32000)

#: Waits for its owner's word: without it (the owner was killed before it could name the process to the guard) nothing is started.
GATE = 'read -r go && exec "$@" </dev/null'


class ServerError(Exception):
    """A private server that cannot be had, or did not start or stop."""


def free_port() -> int:
    while True:
        port = random.choice(PORTS)
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port


class PrivateServer(ABC):
    """One server. Without a `directory` it lives in a temporary one, which goes with it.

    `with` (or `start` and `close`) ends it for good; `stop` and `kill` leave its data for another `start`, on the same port.
    """

    name: ClassVar[str]
    #: Whose processes a crash may have left in `data`.
    programs: ClassVar[frozenset[str]]
    start_within: ClassVar[float] = 30
    stop_within: ClassVar[float] = 30
    stop_signal: ClassVar[signal.Signals] = signal.SIGTERM

    def __init__(self, directory: Path | None = None, *, port: int | None = None) -> None:
        self._temporary = directory is None
        self.directory = (directory or Path(tempfile.gettempdir()) / f"haulier-{self.name}-{secrets.token_hex(8)}").resolve()
        self.port = port or free_port()
        self._lock = DirectoryLock(self.directory)
        self._guard: Guard | None = None
        self._processes: list[subprocess.Popen[bytes]] = []

    @property
    def data(self) -> Path:
        """Where the server's own files are; its working directory as well."""
        return self.directory / "data"

    @property
    def log_file(self) -> Path:
        return self.directory / "server.log"

    @property
    @abstractmethod
    def url(self) -> str: ...

    @abstractmethod
    def answers(self) -> bool:
        """Whether it takes requests; False, or an OSError, while it does not yet."""

    @abstractmethod
    def _launch(self) -> None:
        """Prepare what is missing, then `_spawn`."""

    @property
    def pid(self) -> int:
        """The server process itself."""
        if not self._processes:
            raise ServerError(f"{self.name} in {self.directory} is not running")
        return self._processes[-1].pid

    def start(self) -> None:
        """Returns when it answers. Stops first what a crash left running on the same data."""
        self._guard = self._guard or Guard()
        if self._temporary:
            self._guard.remove(self.directory)
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._lock.take()
        try:
            self._kill_leftovers()
            self._launch()
            self._await_answer()
        except BaseException:
            self._kill_all()
            raise

    def stop(self) -> None:
        """In order; killed when that takes too long."""
        for process in reversed(self._processes):
            _signal(process, self.stop_signal)
            try:
                process.wait(self.stop_within)
            except subprocess.TimeoutExpired:
                log.warning("server did not stop in time; killed", server=self.name, pid=process.pid, seconds=self.stop_within)
        self._kill_all()

    def kill(self) -> None:
        """SIGKILL, as a crash would. Returns when its children are gone too."""
        self._kill_all()
        _kill(self._leftovers())

    def wipe(self) -> None:
        """Stop it and remove its data, as if its disk had been lost."""
        self.kill()
        shutil.rmtree(self.data, ignore_errors=True)

    def close(self) -> None:
        """End it for good; a temporary directory goes too."""
        if self._temporary:
            self._discard()
        else:
            self.stop()
        if self._guard is not None:
            self._guard.close()
            self._guard = None

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _discard(self) -> None:
        """Stop without a care for the data."""
        self.kill()

    def _spawn(
        self, command: list[str], environment: Mapping[str, str], *, account: tuple[int, int] | None = None
    ) -> subprocess.Popen[bytes]:
        """Start a process group of its own, known to the guard before it begins."""
        assert self._guard is not None
        user, group = account or (None, None)
        with self.log_file.open("ab") as output:
            process = subprocess.Popen(
                ["/bin/sh", "-c", GATE, "sh", *command], stdin=subprocess.PIPE, stdout=output, stderr=output, cwd=self.data,
                env=dict(environment), start_new_session=True, user=user, group=group, extra_groups=[] if account else None,
            )  # fmt: skip
        assert process.stdin is not None
        self._processes.append(process)
        with process.stdin:
            self._guard.watch(process.pid, self.stop_signal)
            process.stdin.write(b"go\n")
        return process

    def _await_answer(self) -> None:
        deadline = time.monotonic() + self.start_within
        while time.monotonic() < deadline:
            for process in self._processes:
                if process.poll() is not None:
                    raise ServerError(f"{self.name} ended with status {process.returncode} instead of starting; {self._last_words()}")
            try:
                if self.answers():
                    return
            except OSError:
                pass
            time.sleep(0.02)
        raise ServerError(f"{self.name} did not answer on port {self.port} within {self.start_within:g} s; {self._last_words()}")

    def _last_words(self) -> str:
        lines = self.log_file.read_text(errors="replace").splitlines()[-12:] if self.log_file.exists() else []
        return f"the end of {self.log_file}:\n" + "\n".join(lines)

    def _kill_all(self) -> None:
        while self._processes:
            process = self._processes.pop()
            _signal(process, signal.SIGKILL)
            process.wait()
            if self._guard is not None:
                self._guard.forget(process.pid)
        self._lock.release()

    def _kill_leftovers(self) -> None:
        leftovers = self._leftovers()
        if leftovers:
            log.warning("a crash left a server running; killed", server=self.name, pids=[process.pid for process in leftovers])
            _kill(leftovers)

    def _leftovers(self) -> list[psutil.Process]:
        """Only this server's programs, and only in this very directory: a person's shell may stand there too."""
        found = psutil.process_iter(["name", "cwd"])
        return [process for process in found if process.info["name"] in self.programs and process.info["cwd"] == str(self.data)]


def _signal(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    """To the whole group, as long as its leader has not been waited for: until then its id cannot belong to anybody else."""
    if process.returncode is None:
        os.killpg(process.pid, number)


def _kill(processes: list[psutil.Process]) -> None:
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    _, alive = psutil.wait_procs(processes, timeout=10)
    if alive:
        raise ServerError(f"processes {[process.pid for process in alive]} survived SIGKILL for 10 s; nothing was started")
