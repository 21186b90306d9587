"""What stands outside: a small HTTP server in the test's process that counts calls by their key, and holds callers at a gate."""

from __future__ import annotations

import json
import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Sink:
    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()
        #: Who has come to the gate, as "job/attempt".
        self.arrived: set[str] = set()
        self._open: set[str] = set()
        self._all_open = False
        self._changed = threading.Condition()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._make_door())
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def let_through(self, *names: str) -> None:
        """Open the gate for these (`job/attempt`), or for everybody."""
        with self._changed:
            self._open.update(names)
            self._all_open = self._all_open or not names
            self._changed.notify_all()

    def close(self) -> None:
        self.let_through()
        self._server.shutdown()
        self._server.server_close()

    def answer(self, path: str) -> dict[str, Any]:
        _, kind, name = path.split("/", 2)
        with self._changed:
            if kind == "calls":
                self.calls[name] += 1
                return {"calls": self.calls[name]}
            self.arrived.add(name)
            self._changed.wait_for(lambda: self._all_open or name in self._open)
            return {}

    def _make_door(self) -> type[BaseHTTPRequestHandler]:
        sink = self

        class Door(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.dumps(sink.answer(self.path)).encode()
                try:
                    self.send_response(200)
                    self.send_header("content-length", str(len(body)))
                    self.end_headers()
                    self.wfile.write(body)
                except OSError:
                    pass  # the caller has died meanwhile

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
                """Not on the test's terminal."""

        return Door
