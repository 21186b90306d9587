"""One address in front of several servers, as a load balancer or a moved address is: a new connection goes to one that takes it."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Sequence
from urllib.parse import urlsplit, urlunsplit

#: Seconds for which a server may leave a connection untaken.
PATIENCE = 1.0


class Front:
    """`url` is the first server's, at this address. One connection after the other goes to the next server."""

    def __init__(self, url: str, ports: Sequence[int]) -> None:
        parts = urlsplit(url)
        self._ports = list(ports)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = urlunsplit(parts._replace(netloc=f"{parts.netloc.rpartition('@')[0]}@127.0.0.1:{self._listener.getsockname()[1]}"))
        self._ends: set[socket.socket] = set()
        self._closed = False
        self._door = threading.Thread(target=self._accept, daemon=True)
        self._door.start()

    def point_at(self, *ports: int) -> None:
        """From now on; what is connected to another server is cut."""
        self._ports = list(ports)
        self._cut()

    def close(self) -> None:
        self._closed = True
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # wakes the thread that accepts
        self._door.join()
        self._listener.close()
        self._cut()

    def _cut(self) -> None:
        for end in list(self._ends):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while not self._closed:
                near, _ = self._listener.accept()
                threading.Thread(target=self._join, args=(near,), daemon=True).start()

    def _join(self, near: socket.socket) -> None:
        far = self._dial()
        if far is None:
            near.close()
            return
        self._ends |= {near, far}
        back = threading.Thread(target=self._carry, args=(far, near), daemon=True)
        back.start()
        self._carry(near, far)
        back.join()
        self._ends -= {near, far}
        near.close()
        far.close()

    def _dial(self) -> socket.socket | None:
        for _ in range(len(self._ports)):
            port = self._ports.pop(0)
            self._ports.append(port)
            with contextlib.suppress(OSError):
                found = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE)
                found.settimeout(None)
                return found
        return None

    def _carry(self, source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65_536):
                target.sendall(data)
        for end in (source, target):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
