"""Where a private RabbitMQ or Redis comes from: programs that are here, else Debian's packages, else Docker, else a clear error.
The browser and the curl of the tests come in the same way, but for Docker.

`python -m console.servers.find` sees to it beforehand that they can be had, as `make test` does.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import structlog

from console.servers import docker, rabbitmq, redis
from console.servers.process import ServerError
from console.servers.rabbitmq import RabbitmqNode
from console.servers.redis import RedisServer

log = structlog.get_logger()

#: Installs $1 without starting what it brings. In a shell of its own, so that the policy is put back even when we are killed.
INSTALL = """
policy=/usr/sbin/policy-rc.d
[ -e $policy ] && mv $policy $policy.before-haulier
trap 'rm -f $policy; [ -e $policy.before-haulier ] && mv $policy.before-haulier $policy' EXIT
printf '#!/bin/sh\\nexit 101\\n' > $policy && chmod 755 $policy
options="-o DPkg::Lock::Timeout=300 --quiet --yes --no-install-recommends"
apt-get update --quiet
apt-get install $options "$1"
"""


def rabbitmq_node(directory: Path | None = None, *, port: int | None = None, schedulers: int | None = None) -> RabbitmqNode:
    """Not started yet. Raises ServerError when there is no way to one."""
    if rabbitmq.installed() or _install("rabbitmq-server", rabbitmq.installed):
        return RabbitmqNode(directory, port=port, schedulers=schedulers)
    if docker.usable():
        return docker.DockerRabbitmqNode(directory, port=port, schedulers=schedulers)
    raise ServerError(_choices("RabbitMQ", "rabbitmq-server", "HAULIER_TEST_BROKER_URL (tests) or HAULIER_BROKER_URL (demo)"))


def redis_server(directory: Path | None = None, *, port: int | None = None) -> RedisServer:
    """Not started yet. Raises ServerError when there is no way to one."""
    if redis.installed() or _install("redis-server", redis.installed):
        return RedisServer(directory, port=port)
    if docker.usable():
        return docker.DockerRedisServer(directory, port=port)
    raise ServerError(_choices("Redis", "redis-server", "HAULIER_TEST_REDIS_URL"))


def program(package: str, *names: str) -> str:
    """The path of a program that tests run. `names`: what else it may be called. Raises ServerError when there is no way to it."""

    def find() -> str | None:
        return next(filter(None, map(shutil.which, (package, *names))), None)

    path = find()
    if path is None and _install(package, lambda: find() is not None):
        path = find()
    if path is None:
        raise ServerError(f"{package} is needed and is not here. Either of these will do: install {package}; be root on Debian.")
    return path


def chromium() -> str:
    return program("chromium", "chromium-browser", "google-chrome")


def _install(package: str, installed: Callable[[], bool]) -> bool:
    """Whether it is there now."""
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        return False
    log.info("installing a package; this takes a minute", package=package)
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    done = subprocess.run(
        ["/bin/sh", "-c", INSTALL, "sh", package], env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, start_new_session=True,
        check=False,
    )  # fmt: skip
    if done.returncode != 0:
        log.warning("apt-get could not install the package", package=package, output=(done.stdout + done.stderr)[-1000:])
    return installed()


def _choices(server: str, package: str, setting: str) -> str:
    return f"{server} is needed and there is none. Any of these will do: set {setting}; install {package}; start Docker; be root on Debian."


def main() -> None:
    """Install what is missing, so that no test has to wait for it."""
    for server in (rabbitmq_node(), redis_server()):
        log.info("server can be had", server=server.name, kind=type(server).__name__)
    log.info("programs can be had", paths=[chromium(), program("curl")])


if __name__ == "__main__":
    main()
