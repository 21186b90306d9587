"""The same servers out of containers, where there are no programs for them but there is Docker."""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
from pathlib import Path
from typing import ClassVar

from console.servers.process import ServerError
from console.servers.rabbitmq import RabbitmqNode
from console.servers.redis import RedisServer


def usable() -> bool:
    """Whether there is a daemon behind the program."""
    return shutil.which("docker") is not None and subprocess.run(["docker", "info"], capture_output=True, check=False).returncode == 0


def docker(*arguments: str) -> str:
    done = subprocess.run(["docker", *arguments], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise ServerError(f"docker {arguments[0]} ended with status {done.returncode}: {done.stderr.strip()}")
    return done.stdout.strip()


def discard(container: str) -> None:
    subprocess.run(["docker", "rm", "--force", container], capture_output=True, check=False)


class DockerRabbitmqNode(RabbitmqNode):
    """Its data is in a volume named like the container, so that it outlives `kill`."""

    image: ClassVar[str] = "rabbitmq:4"
    # The first start fetches the image.
    start_within: ClassVar[float] = 600

    def __init__(self, directory: Path | None = None, *, port: int | None = None, schedulers: int | None = None) -> None:
        super().__init__(directory, port=port, schedulers=schedulers)
        self._container = f"haulier-rabbitmq-{secrets.token_hex(6)}"

    @property
    def pid(self) -> int:
        return int(docker("inspect", "--format", "{{.State.Pid}}", self._container))

    def ctl(self, *arguments: str) -> str:
        return docker("exec", self._container, "rabbitmqctl", "--quiet", *arguments)

    def wipe(self) -> None:
        super().wipe()
        subprocess.run(["docker", "volume", "rm", "--force", self._container], capture_output=True, check=False)

    def close(self) -> None:
        super().close()
        self.wipe()

    def evaluate(self, expressions: str) -> bool:
        """Never: no Erlang here reaches into the container."""
        return False

    def _launch(self) -> None:
        self.data.mkdir(mode=0o700, exist_ok=True)
        environment = {**os.environ, "RABBITMQ_DEFAULT_USER": "haulier", "RABBITMQ_DEFAULT_PASS": self._secret("password")}
        command = [
            "docker", "run", "--rm", "--name", self._container, "--hostname", "localhost", "--volume", f"{self._container}:/var/lib/rabbitmq",
            "--publish", f"127.0.0.1:{self.port}:5672", "--env", "RABBITMQ_DEFAULT_USER", "--env", "RABBITMQ_DEFAULT_PASS", self.image,
        ]  # fmt: skip
        self._spawn(command, environment)

    def _kill_all(self) -> None:
        # Killing the client would leave the container.
        if self._processes:
            discard(self._container)
        super()._kill_all()


class DockerRedisServer(RedisServer):
    image: ClassVar[str] = "redis:7"
    start_within: ClassVar[float] = 300

    def __init__(self, directory: Path | None = None, *, port: int | None = None) -> None:
        super().__init__(directory, port=port)
        self._container = f"haulier-redis-{secrets.token_hex(6)}"

    @property
    def pid(self) -> int:
        return int(docker("inspect", "--format", "{{.State.Pid}}", self._container))

    def _launch(self) -> None:
        self.data.mkdir(mode=0o700, exist_ok=True)
        serve = 'exec redis-server --save "" --appendonly no --requirepass "$REDIS_PASSWORD"'
        command = [
            "docker", "run", "--rm", "--name", self._container, "--publish", f"127.0.0.1:{self.port}:6379", "--env", "REDIS_PASSWORD",
            self.image, "sh", "-c", serve,
        ]  # fmt: skip
        self._spawn(command, {**os.environ, "REDIS_PASSWORD": self._password})

    def _kill_all(self) -> None:
        if self._processes:
            discard(self._container)
        super()._kill_all()
