"""A real Chromium that opens a page of another origin and reports what the page's script found."""

from __future__ import annotations

import json
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

from console.servers.find import chromium

PAGE = """<!doctype html><title>a shop</title><script type="module">
const report = found => fetch("/report", {method: "POST", body: JSON.stringify(found)})
try { report({found: await (async () => { SCRIPT })()}) } catch (error) { report({failed: String(error)}) }
</script>"""


class Site(ThreadingHTTPServer):
    """An origin of its own, with one page, which reports once."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.script = ""
        self.report: Any = None
        self.reported = threading.Event()

    @property
    def origin(self) -> str:
        return f"http://localhost:{self.server_port}"

    def open(self, script: str, seconds: float = 60) -> Any:
        """What the script returns, an error as {"failed": …}. Its fetches and cookies are the browser's own."""
        self.script = script
        self.reported.clear()
        with TemporaryDirectory(prefix="haulier-browser-", ignore_cleanup_errors=True) as profile:
            browser = launch(profile, self.origin)
            try:
                assert self.reported.wait(seconds), (Path(profile) / "log").read_text(errors="replace")[-3000:]
            finally:
                browser.kill()
                browser.wait()
        return self.report


def launch(profile: str, url: str) -> subprocess.Popen[bytes]:
    options = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run", "--remote-debugging-port=0")
    with (Path(profile) / "log").open("wb") as log:
        return subprocess.Popen([chromium(), *options, f"--user-data-dir={profile}", url], stdout=log, stderr=log)


class Handler(BaseHTTPRequestHandler):
    @property
    def site(self) -> Site:
        return cast("Site", self.server)

    def do_GET(self) -> None:
        self._answer(PAGE.replace("SCRIPT", self.site.script).encode() if self.path == "/" else b"")

    def do_POST(self) -> None:
        self.site.report = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self._answer(b"")
        self.site.reported.set()

    def _answer(self, body: bytes) -> None:
        self.send_response(200)
        self.send_header("content-type", "text/html; charset=utf-8")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        """Nobody reads it."""


@contextmanager
def site() -> Iterator[Site]:
    server = Site()
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
