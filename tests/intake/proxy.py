"""A TCP proxy in front of a server that can refuse, freeze, and lose the very answer that a client waits for."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable
from urllib.parse import urlsplit, urlunsplit


class Proxy:
    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._target = (parts.hostname or "127.0.0.1", parts.port or 5432)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._flowing = threading.Event()
        self._flowing.set()
        self._refusing = False
        self._freezing: bytes | None = None
        self._refuse_after_loss = False
        self._marker: tuple[bytes, bool] | None = None
        self._tear: Callable[[], int] | None = None
        #: How many answers, or statements, were lost.
        self.losses = 0
        credentials = parts.netloc.rpartition("@")[0]
        self.url = urlunsplit(parts._replace(netloc=f"{credentials}@127.0.0.1:{self._listener.getsockname()[1]}"))
        threading.Thread(target=self._accept, daemon=True).start()

    def refuse(self) -> None:
        """As a server that is down: every connection ends, and new ones do too."""
        self._refusing = True
        self.cut()

    def freeze(self, marker: bytes) -> None:
        """As a network that is gone from the moment the marker is sent: connections stay open, and nothing comes."""
        self._freezing = marker

    def let_through(self) -> None:
        self._refusing = False
        self._flowing.set()

    def lose(self, marker: bytes, *, answer: bool = True, then_refuse: bool = False) -> None:
        """Lose the connection on which the marker is sent, once: with the answer, when the server has done it, or before it is asked."""
        self._marker = (marker, answer)
        self._refuse_after_loss = then_refuse

    def tear(self, after: Callable[[], int]) -> None:
        """Each connection from now on ends when it has answered so many bytes, wherever that is."""
        self._tear = after

    def lead_to(self, url: str) -> None:
        """New connections go there."""
        parts = urlsplit(url)
        self._target = (parts.hostname or "127.0.0.1", parts.port or 5432)

    def cut(self) -> None:
        pairs, self._pairs = self._pairs, []
        for pair in pairs:
            end(pair)

    def close(self) -> None:
        self._listener.close()
        self._flowing.set()
        self.cut()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                if self._refusing:
                    near.close()
                    continue
                try:
                    pair = (near, socket.create_connection(self._target))
                except OSError:  # as it is: nobody listens there
                    near.close()
                    continue
                self._pairs.append(pair)
                losing = threading.Event()
                threading.Thread(target=self._ask, args=(*pair, losing), daemon=True).start()
                threading.Thread(target=self._answer, args=(*pair, losing), daemon=True).start()

    def _ask(self, near: socket.socket, far: socket.socket, losing: threading.Event) -> None:
        with contextlib.suppress(OSError):
            while data := near.recv(1 << 20):
                if self._freezing and self._freezing in data:
                    self._freezing = None
                    self._flowing.clear()
                self._flowing.wait()
                if self._marker and self._marker[0] in data:
                    _, answer = self._marker
                    self._marker = None
                    self.losses += 1
                    losing.set()
                    if not answer:
                        break
                far.sendall(data)
        end((near, far))

    def _answer(self, near: socket.socket, far: socket.socket, losing: threading.Event) -> None:
        left = self._tear() if self._tear else None
        with contextlib.suppress(OSError):
            while data := far.recv(1 << 20):
                self._flowing.wait()
                if losing.is_set():
                    self._refusing = self._refuse_after_loss
                    break
                near.sendall(data[:left])
                if left is not None and (left := left - len(data)) <= 0:
                    self.losses += 1
                    break
        end((near, far))
        if self._refusing:
            self.cut()


def end(pair: tuple[socket.socket, socket.socket]) -> None:
    for each in pair:
        with contextlib.suppress(OSError):
            each.shutdown(socket.SHUT_RDWR)
        each.close()
