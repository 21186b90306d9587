"""Where a receiver may be: a URL that strangers gave us must not lead into our own network (security.md, C2).

Read by a grammar that has no room for tricks; its name resolved with a deadline; every address of it vetted; and the connection made to a
vetted address, never to the name again, so that a name whose answer changes in between gains nothing.
"""

from __future__ import annotations

import ipaddress
import queue
import re
import socket
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Lookup = Callable[[str, int], Sequence[Any]]

MAX_URL = 2048
PORTS = frozenset({443, 8443})
#: Seconds that a name may take to be resolved.
LOOKUP_TIME = 5.0

#: What `is_global` of the standard library lets pass, or let pass in some of its versions, and is not the public internet: NAT64 for local
#: use, 6to4, Teredo, site-local, IPv4-compatible, and ranges for protocols, carriers, benchmarks, anycast relays and documentation.
NOT_PUBLIC = tuple(
    ipaddress.ip_network(text)
    for text in (
        "64:ff9b:1::/48", "2002::/16", "2001::/32", "fec0::/10", "::/96", "100::/64", "3fff::/20", "5f00::/16", "192.0.0.0/24",
        "100.64.0.0/10", "198.18.0.0/15", "192.88.99.0/24", "240.0.0.0/4",
    )
)  # fmt: skip
#: An IPv4 address behind a NAT64 gateway is what its last 32 bits say.
NAT64 = ipaddress.IPv6Network("64:ff9b::/96")


class UnsafeAddressError(ValueError):
    """Not an address that we send to. The text says what is wrong with it."""


class UnresolvedError(Exception):
    """The name has no address just now, or nobody said in time."""


@dataclass(frozen=True, slots=True)
class Rules:
    """`networks` are allowed although they are not public (there a URL may name an address, too); `http`: without TLS, on any port."""

    networks: tuple[Network, ...] = ()
    http: bool = False

    @classmethod
    def read(cls, networks: str, *, http: bool) -> Rules:
        """`networks`: CIDR, with commas between them. Raises ValueError."""
        return cls(tuple(ipaddress.ip_network(part.strip()) for part in networks.split(",") if part.strip()), http)


@dataclass(frozen=True, slots=True)
class Receiver:
    """A URL's parts, as they go onto the wire."""

    scheme: str
    host: str
    port: int
    target: str


# Letters of RFC 3986 only, no user, no fragment; a host of other letters is written in its ASCII form (xn--…).
_URL = re.compile(
    r"(?P<scheme>https?)://(?:(?P<name>[A-Za-z0-9.-]{1,253})|\[(?P<six>[0-9A-Fa-f:.]{2,45})\])(?::(?P<port>[0-9]{1,5}))?"
    r"(?P<target>(?:/[A-Za-z0-9._~!$&'()*+,;=:@%/-]*)?(?:\?[A-Za-z0-9._~!$&'()*+,;=:@%/?-]*)?)"
)
_LABEL = re.compile(r"(?!-)[a-z0-9-]{1,63}(?<!-)")
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")


def read_url(url: str, rules: Rules) -> Receiver:
    """Raises UnsafeAddressError. Asks nobody: see `check_url`."""
    if len(url) > MAX_URL:
        raise UnsafeAddressError(f"the URL must be at most {MAX_URL} characters, got {len(url)}")
    found = _URL.fullmatch(url)
    if found is None:
        raise UnsafeAddressError(
            "expected https://host[:port][/path][?query] in plain ASCII (a host of other letters as xn--…), without user, password or #fragment"
        )
    scheme, port = found["scheme"], int(found["port"] or (443 if found["scheme"] == "https" else 80))
    if scheme == "http" and not rules.http:
        raise UnsafeAddressError("expected https://, got http://: what is sent would be open to all on the way")
    if not rules.http and port not in PORTS:
        raise UnsafeAddressError(f"expected port 443 or 8443, got {port}")
    if not 1 <= port <= 65535:
        raise UnsafeAddressError(f"there is no port {port}")
    host = (found["name"] or found["six"]).lower()
    _check_host(host, rules)
    target = found["target"]
    return Receiver(scheme, host, port, target if target.startswith("/") else f"/{target}")


def _check_host(host: str, rules: Rules) -> None:
    labels = host.split(".")
    if ":" not in host and not _NUMBER.fullmatch(labels[-1]):
        if not all(_LABEL.fullmatch(label) for label in labels):
            raise UnsafeAddressError(f"{host!r} is no host's name")
        return
    # An address, in one of the many ways that resolvers take for one (127.1, 0x7f.1, 2130706433): only the one way that says what it is.
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        address = None
    if address is None or not any(address in network for network in rules.networks):
        raise UnsafeAddressError("expected a host's name, got an address")


def is_safe(address: str, rules: Rules) -> bool:
    """Whether this address is on the public internet, or allowed by the rules."""
    found = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(found, ipaddress.IPv6Address):
        if found.ipv4_mapped:
            found = found.ipv4_mapped
        elif found in NAT64:
            found = ipaddress.IPv4Address(int(found) & 0xFFFF_FFFF)
    if any(found in network for network in rules.networks):
        return True
    return found.is_global and not found.is_multicast and not any(found in network for network in NOT_PUBLIC)


def _ask(host: str, port: int) -> Sequence[Any]:
    return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)


def safe_addresses(host: str, port: int, rules: Rules, seconds: float = LOOKUP_TIME, lookup: Lookup = _ask) -> list[str]:
    """Every address of the host. Raises UnsafeAddressError if one of them is not safe: a name that leads to both is up to something.

    Raises UnresolvedError when there is none, or none in time.
    """
    addresses = [str(info[4][0]) for info in _resolve(host, port, seconds, lookup)]
    if not addresses:
        raise UnresolvedError(f"{host} has no address")
    if not all(is_safe(address, rules) for address in addresses):
        # Which address that is would tell a stranger what our resolver knows.
        raise UnsafeAddressError(f"{host} does not lead to a public address")
    return addresses


def _resolve(host: str, port: int, seconds: float, lookup: Lookup) -> Sequence[Any]:
    """The resolver knows no deadline, so it is left behind in a thread of its own when it takes too long."""
    answer: queue.SimpleQueue[Sequence[Any] | OSError] = queue.SimpleQueue()

    def ask() -> None:
        try:
            answer.put(lookup(host, port))
        except (OSError, UnicodeError) as error:
            answer.put(error if isinstance(error, OSError) else OSError(str(error)))

    threading.Thread(target=ask, name="webhook-lookup", daemon=True).start()
    try:
        found = answer.get(timeout=max(0.0, seconds))
    except queue.Empty:
        raise UnresolvedError(f"{host} was not resolved within {seconds:g} s") from None
    if isinstance(found, OSError):
        raise UnresolvedError(f"{host} cannot be resolved: {found.strerror or found}")
    return found


def check_url(url: str, rules: Rules, lookup: Lookup = _ask) -> Receiver:
    """What is checked when a URL is registered: all of `read_url`, and where its name leads now. Raises UnsafeAddressError.

    A name that cannot be resolved just now is let pass: it is vetted again whenever something is sent.
    """
    receiver = read_url(url, rules)
    try:
        safe_addresses(receiver.host, receiver.port, rules, lookup=lookup)
    except UnresolvedError:
        pass
    return receiver
