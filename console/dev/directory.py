"""What `haulier dev` keeps in its directory: the lock, the first keys, the database's address, and dev.json for as long as it runs."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import orjson

from console.servers.lock import DirectoryLock


class DevDirectory:
    def __init__(self, path: Path) -> None:
        self.path = path.resolve()
        self.lock = DirectoryLock(self.path)
        self._announcement = self.path / "dev.json"
        self._keys = self.path / "keys.json"

    def prepare(self) -> None:
        """Take it. Raises DirectoryInUseError."""
        self.path.mkdir(parents=True, exist_ok=True)
        self.lock.take()
        self.withdraw()  # left by one that was killed, and its address is no longer good

    def announce(self, what: Mapping[str, Any]) -> None:
        """Tell those who wait that it is ready, and where."""
        write_private(self._announcement, orjson.dumps(what, option=orjson.OPT_INDENT_2) + b"\n")

    def withdraw(self) -> None:
        with suppress(FileNotFoundError):
            self._announcement.unlink()

    def keep_keys(self, keys: Mapping[str, str]) -> None:
        write_private(self._keys, orjson.dumps(keys))

    def kept_keys(self) -> dict[str, str]:
        try:
            return orjson.loads(self._keys.read_bytes())
        except (FileNotFoundError, ValueError):
            return {}

    def keep_port(self, port: int) -> None:
        write_private(self.path / "port", f"{port}\n".encode())

    def kept_port(self) -> int | None:
        """The intake's, the last time."""
        try:
            return int((self.path / "port").read_text())
        except (FileNotFoundError, ValueError):
            return None

    def keep_database_url(self, url: str) -> None:
        write_private(self.path / "database-url", f"{url}\n".encode())


def write_private(path: Path, content: bytes) -> None:
    """All at once, and for nobody else to read."""
    fresh = path.with_suffix(".new")
    with suppress(FileNotFoundError):
        fresh.unlink()
    with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(content)
    fresh.replace(path)
