"""A private Redis. It keeps nothing: what Haulier puts there may be lost at any time."""

from __future__ import annotations

import os
import secrets
import shutil
import socket
from pathlib import Path
from typing import ClassVar

from console.servers.process import PrivateServer


def installed() -> bool:
    return shutil.which("redis-server") is not None


class RedisServer(PrivateServer):
    name: ClassVar[str] = "redis"
    programs: ClassVar[frozenset[str]] = frozenset({"redis-server"})

    def __init__(self, directory: Path | None = None, *, port: int | None = None) -> None:
        super().__init__(directory, port=port)
        self._password = secrets.token_urlsafe(24)

    @property
    def url(self) -> str:
        return f"redis://:{self._password}@127.0.0.1:{self.port}/0"

    def answers(self) -> bool:
        with socket.create_connection(("127.0.0.1", self.port), timeout=2) as connection:
            connection.sendall(b"PING\r\n")
            return connection.recv(64).startswith((b"-NOAUTH", b"+PONG"))

    def _launch(self) -> None:
        self.data.mkdir(mode=0o700, exist_ok=True)
        settings = self.directory / "redis.conf"
        settings.touch(mode=0o600)
        settings.write_text(f'bind 127.0.0.1\nport {self.port}\nrequirepass {self._password}\ndir {self.data}\nappendonly no\nsave ""\n')
        self._spawn([shutil.which("redis-server") or "redis-server", str(settings)], {"PATH": os.environ.get("PATH", os.defpath)})
