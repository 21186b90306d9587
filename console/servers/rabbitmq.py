"""A private RabbitMQ node, from the programs that are installed here. It has its own epmd, cookie and home: no other node is its peer."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import socket
import subprocess
import time
from pathlib import Path
from typing import ClassVar

import psutil

from console.servers.process import PrivateServer, ServerError, free_port

NODE = "haulier@localhost"

#: Programs by their place, newest first. Debian's wrapper in /usr/sbin changes the user and writes to /var/log.
PLACES = (
    "usr/lib/rabbitmq/lib/rabbitmq_server-*/sbin",
    "opt/rabbitmq*/sbin",
    "opt/homebrew/opt/rabbitmq/sbin",
    "usr/local/opt/rabbitmq/sbin",
)

LOOPBACK = "-kernel inet_dist_use_interface {127,0,0,1}"

# Erlang's busy waiting takes a core for nothing where there are few.
QUIET = "+sbwt none +sbwtdcpu none +sbwtdio none"


def programs() -> Path | None:
    """The directory with rabbitmq-server and rabbitmqctl, or None."""
    found = [path for place in PLACES for path in sorted(Path("/").glob(place), reverse=True) if (path / "rabbitmq-server").exists()]
    if found:
        return found[0]
    onpath = shutil.which("rabbitmq-server")
    return Path(onpath).resolve().parent if onpath else None


def installed() -> bool:
    return programs() is not None and shutil.which("erl") is not None


class RabbitmqNode(PrivateServer):
    """`schedulers` limits its Erlang threads, and so the cores that it takes; by default one for each core."""

    name: ClassVar[str] = "rabbitmq"
    programs: ClassVar[frozenset[str]] = frozenset({"beam.smp", "epmd"})
    start_within: ClassVar[float] = 90

    def __init__(self, directory: Path | None = None, *, port: int | None = None, schedulers: int | None = None) -> None:
        super().__init__(directory, port=port)
        self.node = NODE
        self._schedulers = schedulers
        self._dist_port = free_port()
        self._epmd_port = free_port()

    @property
    def url(self) -> str:
        return self.vhost_url("%2F")

    def vhost_url(self, vhost: str) -> str:
        return f"amqp://haulier:{self._secret('password')}@127.0.0.1:{self.port}/{vhost}"

    @property
    def pid(self) -> int:
        """The Erlang machine's, below the script that starts it."""
        for process in psutil.Process(super().pid).children(recursive=True):
            if process.name() == "beam.smp":
                return process.pid
        raise ServerError(f"rabbitmq in {self.directory} is not running")

    def answers(self) -> bool:
        with socket.create_connection(("127.0.0.1", self.port), timeout=5) as connection:
            connection.sendall(b"AMQP\x00\x00\x09\x01")
            return connection.recv(1) == b"\x01"

    def ctl(self, *arguments: str) -> str:
        """What `rabbitmqctl` prints; about a second each. Raises ServerError with what it complained about."""
        done = subprocess.run(
            [str(self._sbin / "rabbitmqctl"), "--quiet", *arguments], env=self._environment(), capture_output=True, text=True, check=False
        )
        if done.returncode != 0:
            raise ServerError(f"rabbitmqctl {' '.join(arguments)} ended with status {done.returncode}:\n{done.stdout}{done.stderr}")
        return done.stdout

    def add_vhost(self, vhost: str) -> str:
        """Its URL."""
        everything = '<<".*">>'
        made = self.evaluate(
            f'rabbit_vhost:add(<<"{vhost}">>, <<"haulier">>),'
            f'rabbit_auth_backend_internal:set_permissions(<<"haulier">>, <<"{vhost}">>, {everything}, {everything}, {everything}, <<"haulier">>).'
        )
        if not made:
            self.ctl("add_vhost", vhost)
            self.ctl("set_permissions", "--vhost", vhost, "haulier", ".*", ".*", ".*")
        return self.vhost_url(vhost)

    def delete_vhost(self, vhost: str) -> None:
        """With its queues; its connections are closed."""
        if not self.evaluate(f'rabbit_vhost:delete(<<"{vhost}">>, <<"haulier">>).'):
            self.ctl("delete_vhost", vhost)

    def evaluate(self, expressions: str) -> bool:
        """Whether they ended in `ok`. Through erl_call: a few milliseconds, where rabbitmqctl takes a second and a core."""
        program = shutil.which("erl_call")
        if program is None:
            return False
        done = subprocess.run(
            [program, "-sname", self.node, "-e"],
            input=expressions + "\n",
            env=self._environment(),
            capture_output=True,
            text=True,
            check=False,
        )
        return done.stdout.strip() == "{ok, ok}"

    @property
    def _sbin(self) -> Path:
        found = programs()
        if found is None:
            raise ServerError("rabbitmq-server is not installed here")
        return found

    def _launch(self) -> None:
        self.data.mkdir(mode=0o700, exist_ok=True)
        self._write_files()
        epmd = shutil.which("epmd") or "epmd"
        self._spawn([epmd, "-port", str(self._epmd_port), "-address", "127.0.0.1"], self._environment())
        self._await_epmd()
        self._spawn([str(self._sbin / "rabbitmq-server")], self._environment())

    def _await_epmd(self) -> None:
        """A node that finds none starts one of its own, and ours ends because its port is taken."""
        deadline = time.monotonic() + self.start_within
        while self._processes[-1].poll() is None and time.monotonic() < deadline:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self._epmd_port), timeout=5):
                return
            time.sleep(0.01)

    def _write_files(self) -> None:
        self._secret(".erlang.cookie")
        (self.directory / "env.conf").touch()
        (self.directory / "enabled_plugins").write_text("[].\n")
        settings = self.directory / "rabbitmq.conf"
        settings.touch(mode=0o600)
        settings.write_text(
            f"listeners.tcp.1 = 127.0.0.1:{self.port}\n"
            "distribution.listener.interface = 127.0.0.1\n"
            f"distribution.listener.port_range.min = {self._dist_port}\n"
            f"distribution.listener.port_range.max = {self._dist_port}\n"
            "default_user = haulier\n"
            f"default_pass = {self._secret('password')}\n"
        )

    def _secret(self, name: str) -> str:
        """What is kept in this file, made up when it is not there."""
        file = self.directory / name
        if not file.exists():
            file.touch(mode=0o600)
            file.write_text(secrets.token_hex(16))
            file.chmod(0o400)
        return file.read_text()

    def _environment(self) -> dict[str, str]:
        schedulers = f"+S {self._schedulers}:{self._schedulers} " if self._schedulers else ""
        return {
            "PATH": os.environ.get("PATH", os.defpath),
            "LANG": "C.UTF-8",
            "HOME": str(self.directory),
            "ERL_EPMD_PORT": str(self._epmd_port),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "ERL_CRASH_DUMP": str(self.directory / "erl_crash.dump"),
            "RABBITMQ_NODENAME": self.node,
            "RABBITMQ_CONF_ENV_FILE": str(self.directory / "env.conf"),
            "RABBITMQ_CONFIG_FILE": str(self.directory / "rabbitmq.conf"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(self.directory / "enabled_plugins"),
            "RABBITMQ_MNESIA_BASE": str(self.data),
            "RABBITMQ_LOG_BASE": str(self.directory),
            "RABBITMQ_LOGS": "-",
            "RABBITMQ_PID_FILE": str(self.directory / "pid"),
            "RABBITMQ_DIST_PORT": str(self._dist_port),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": f"{schedulers}{QUIET} {LOOPBACK}",
            "RABBITMQ_CTL_ERL_ARGS": LOOPBACK,
        }
