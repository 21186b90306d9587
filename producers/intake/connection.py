"""A client's connection, before there is a request: what no route can refuse, since it never gets to one.

uvicorn waits for the rest of a request's head for ever, takes a head of any size into memory, and answers what is no HTTP with plain text
(as of 0.54). Here a head has its time and its size, and every error is a problem document.
"""

from __future__ import annotations

import asyncio

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from producers.intake.problems import Problem

#: Seconds between two requests, and for the whole of a request's head.
PATIENCE = 30
#: Bytes that belong to no body (a head, the framing of chunks, trailers) and may come in a row: well over what the gate lets through.
MAX_HEAD = 64 << 10


class Connection(HttpToolsProtocol):
    """uvicorn's, with `timeout_keep_alive` holding from the first byte of a head to its last as well."""

    _late: asyncio.TimerHandle | None = None
    #: Bytes since a head was whole, or since something of a body came.
    _framing = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._late = self.loop.call_later(self.timeout_keep_alive, self._give_up)

    def data_received(self, data: bytes) -> None:
        self._framing += len(data)
        super().data_received(data)  # the usual request is whole with this, and begins
        if self.cycle and not self.cycle.response_complete:
            self._forget_time()
        elif self._late is None:
            self._late = self.loop.call_later(self.timeout_keep_alive, self._give_up)
        if self._framing > MAX_HEAD:
            self._refuse(Problem("headers-too-large", f"the headers must be at most {MAX_HEAD} bytes together"))

    def on_headers_complete(self) -> None:
        self._framing = 0
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._framing = 0
        super().on_body(body)

    def connection_lost(self, exc: Exception | None) -> None:
        self._forget_time()
        super().connection_lost(exc)

    def send_400_response(self, msg: str) -> None:
        """What the parser cannot read; uvicorn has logged it as a warning."""
        self._refuse(Problem("malformed-request", "this is no HTTP request that can be read"))

    def _give_up(self) -> None:
        if self._framing:
            self._refuse(Problem("request-timeout", f"the request's head did not arrive within {self.timeout_keep_alive} s"))
        else:
            self.transport.close()  # nothing was asked, so nothing is answered

    def _forget_time(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None

    def _refuse(self, problem: Problem) -> None:
        """Answer, unless an answer is under way already, and close."""
        if self.transport.is_closing():
            return
        if not self.cycle or self.cycle.response_complete or not self.cycle.response_started:
            response = problem.response("")
            response.headers.update({"x-content-type-options": "nosniff", "connection": "close"})
            fields = [*self.server_state.default_headers, *response.raw_headers]
            head = STATUS_LINE[problem.status] + b"".join(b"%b: %b\r\n" % field for field in fields)
            self.transport.write(head + b"\r\n" + bytes(response.body))
        self.transport.close()
