"""A tenant's receiver: a small HTTP server in the test's process that keeps what it was sent, and misbehaves when it is told to."""

from __future__ import annotations

import contextlib
import gzip
import ssl
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

#: For receiver.test, signed by itself; its key is in the same file, and opens nothing.
CERTIFICATE = Path(__file__).with_name("receiver.pem")


@dataclass(frozen=True)
class Received:
    path: str
    headers: dict[str, str]
    body: bytes


#: How to answer: a status, headers with it, or a fault by name.
Fault = str
Answer = int | Fault | tuple[int, dict[str, str]]


@dataclass
class Receiver:
    """`answer` says how, by path and by how often that path has been asked (from 1)."""

    answer: Callable[[str, int], Answer] = lambda path, times: 204
    received: list[Received] = field(default_factory=list)
    tls: bool = False

    def __post_init__(self) -> None:
        self._lock = threading.Lock()
        self._leaving = threading.Event()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._make_door())
        self._server.daemon_threads = True
        if self.tls:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(CERTIFICATE)
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self.port: int = self._server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}"
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def close(self) -> None:
        self._leaving.set()
        self._server.shutdown()
        self._server.server_close()

    def at(self, path: str) -> list[Received]:
        with self._lock:
            return [each for each in self.received if each.path == path]

    def _take(self, received: Received) -> Answer:
        with self._lock:
            self.received.append(received)
            return self.answer(received.path, sum(each.path == received.path for each in self.received))

    def _make_door(self) -> type[BaseHTTPRequestHandler]:
        receiver = self

        class Door(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("content-length", 0)))
                answer = receiver._take(Received(self.path, {name.lower(): value for name, value in self.headers.items()}, body))
                with contextlib.suppress(OSError):  # the caller may have had enough
                    self._answer(answer)

            do_GET = do_POST  # noqa: N815

            def _answer(self, answer: Answer) -> None:
                match answer:
                    case int():
                        self._say(answer)
                    case (status, headers):
                        self._say(status, headers)
                    case "hang":
                        receiver._leaving.wait(60)
                    case "close":
                        self.close_connection = True
                    case "drip head":
                        self._drip(b"HTTP/1.1 200 OK\r\nx-long: " + b"x" * 600)
                    case "drip body":
                        self.wfile.write(b"HTTP/1.1 200 OK\r\ncontent-length: 600\r\n\r\n")
                        self._drip(b"x" * 600)
                    case "bomb":
                        bomb = gzip.compress(bytes(50_000_000))
                        self._say(200, {"content-encoding": "gzip"}, bomb * 20)
                    case "endless":
                        self.wfile.write(b"HTTP/1.1 200 OK\r\n\r\n")
                        while not receiver._leaving.is_set():
                            self.wfile.write(bytes(65_536))
                    case _:
                        raise AssertionError(f"unknown fault {answer!r}")

            def _say(self, status: int, headers: dict[str, str] | None = None, body: bytes = b"") -> None:
                self.send_response(status)
                for name, value in {"content-length": str(len(body)), **(headers or {})}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)

            def _drip(self, content: bytes) -> None:
                for byte in content:
                    self.wfile.write(bytes([byte]))
                    self.wfile.flush()
                    if receiver._leaving.wait(0.05):
                        return

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
                """Not on the test's terminal."""

        return Door


@contextlib.contextmanager
def receiving(answer: Callable[[str, int], Answer] = lambda path, times: 204, *, tls: bool = False) -> Iterator[Receiver]:
    receiver = Receiver(answer, tls=tls)
    try:
        yield receiver
    finally:
        receiver.close()
