"""Send one message to a receiver that we do not control: one connection, to a vetted address, within one deadline for all of it.

On httpcore2, the layer below httpx2: it follows no redirects, reads no proxies from the environment and unpacks no bodies, so that nothing
of that has to be switched off.
"""

from __future__ import annotations

import contextlib
import functools
import ssl
import threading
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import httpcore2

from pipelines.webhooks.address import LOOKUP_TIME, Lookup, Receiver, Rules, UnresolvedError, UnsafeAddressError, _ask, safe_addresses

#: Bytes of an answer's body that are taken off the line, and thrown away; and seconds for that.
MAX_ANSWER = 65_536
ANSWER_TIME = 1.0


class UnreachableError(Exception):
    """No answer: not resolved, not connected, no TLS, cut off, or not in time. Whether the message arrived is not known."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a receiver said. Its body is nobody's business: it is not kept."""

    status: int
    retry_after: str | None


def post(
    receiver: Receiver,
    body: bytes,
    headers: Mapping[str, str],
    rules: Rules,
    seconds: float,
    *,
    context: ssl.SSLContext | None = None,
    lookup: Lookup = _ask,
) -> Answer:
    """POST within `seconds`, from the first look-up to the answer's status. Raises UnsafeAddressError, UnreachableError."""
    until = time.monotonic() + seconds
    url = httpcore2.URL(scheme=receiver.scheme, host=receiver.host, port=receiver.port, target=receiver.target)
    every = {"timeout": dict.fromkeys(("connect", "read", "write", "pool"), seconds)}
    fields: dict[bytes | str, bytes | str] = {"accept": "*/*", "accept-encoding": "identity", "user-agent": "Haulier-Webhooks/1", **headers}
    guard = Guard(rules, until, lookup)
    try:
        with (
            httpcore2.ConnectionPool(ssl_context=context or _context(), network_backend=guard) as pool,
            pool.stream("POST", url, headers=fields, content=body, extensions=every) as response,
        ):
            given = next((value for name, value in response.headers if name.lower() == b"retry-after"), None)
            guard.hurry(min(until, time.monotonic() + ANSWER_TIME))
            _drain(response.iter_stream())
            return Answer(response.status, given.decode("latin-1") if given is not None else None)
    except (httpcore2.TimeoutException, httpcore2.NetworkError, httpcore2.ProtocolError, UnresolvedError) as error:
        raise UnreachableError(f"{type(error).__name__}: {error}"[:500]) from error


def _drain(parts: Iterable[bytes]) -> None:
    """Politely, so that the receiver is not cut off in the middle of a short answer; its status is known already."""
    size = 0
    with contextlib.suppress(httpcore2.TimeoutException, httpcore2.NetworkError, httpcore2.ProtocolError):
        for part in parts:
            size += len(part)
            if size >= MAX_ANSWER:
                return


_creating = threading.Lock()


def _context() -> ssl.SSLContext:
    with _creating:
        return _created()


@functools.cache
def _created() -> ssl.SSLContext:
    """Reading the authorities costs milliseconds."""
    return httpcore2.default_ssl_context()


class Guard(httpcore2.SyncBackend):
    """Connects to vetted addresses only. TLS is still asked for the name, and checked against it."""

    def __init__(self, rules: Rules, until: float, lookup: Lookup = _ask) -> None:
        self._rules = rules
        self._until = until
        self._lookup = lookup
        self._stream: Hurried | None = None

    def hurry(self, until: float) -> None:
        """An earlier deadline for what is still to come."""
        if self._stream is not None:
            self._stream.until.at = until

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore2.NetworkStream:
        addresses = safe_addresses(host, port, self._rules, min(LOOKUP_TIME, left(self._until)), self._lookup)
        *others, last = addresses[:3]
        for address in others:
            with contextlib.suppress(httpcore2.ConnectError, httpcore2.ConnectTimeout):
                return self._connect(address, port, left(self._until) / 2, socket_options)
        return self._connect(last, port, left(self._until), socket_options)

    def _connect(self, address: str, port: int, seconds: float, socket_options: Iterable[Any] | None) -> httpcore2.NetworkStream:
        self._stream = Hurried(super().connect_tcp(address, port, seconds, None, socket_options), Until(self._until))
        return self._stream

    def connect_unix_socket(self, path: str, timeout: float | None = None, socket_options: Iterable[Any] | None = None) -> Any:
        raise UnsafeAddressError(f"{path} is no receiver")


def left(until: float) -> float:
    """Seconds until then. Raises httpcore2.ConnectTimeout when there are none."""
    seconds = until - time.monotonic()
    if seconds <= 0:
        raise httpcore2.ConnectTimeout("no time was left to connect")
    return seconds


@dataclass(slots=True)
class Until:
    """A deadline that may be moved, shared by a stream and its TLS."""

    at: float


class Hurried(httpcore2.NetworkStream):
    """A stream whose reads and writes share one deadline: httpcore's own are for each of them, and a byte a second would never end."""

    def __init__(self, stream: httpcore2.NetworkStream, until: Until) -> None:
        self._stream = stream
        self.until = until

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._stream.read(max_bytes, self._left(httpcore2.ReadTimeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        for start in range(0, len(buffer), 4096):  # little by little, since each of httpcore's own partial writes has the whole time
            self._stream.write(buffer[start : start + 4096], self._left(httpcore2.WriteTimeout))

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore2.NetworkStream:
        return Hurried(self._stream.start_tls(ssl_context, server_hostname, self._left(httpcore2.ConnectTimeout)), self.until)

    def close(self) -> None:
        self._stream.close()

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)

    def _left(self, late: type[httpcore2.TimeoutException]) -> float:
        seconds = self.until.at - time.monotonic()
        if seconds <= 0:
            raise late("its time was over")
        return seconds
