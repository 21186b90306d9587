"""Nobody can make us call into our own network: security.md C2 and trap 19, case by case."""

from __future__ import annotations

import socket
import ssl
import threading
import time
from typing import Any

import pytest

from pipelines.webhooks.address import Rules, UnresolvedError, UnsafeAddressError, check_url, is_safe, read_url, safe_addresses
from pipelines.webhooks.sending import UnreachableError, post
from tests.webhooks.receiver import CERTIFICATE, receiving

STRICT = Rules()
LOOPBACK = Rules.read("127.0.0.0/8, ::1/128", http=True)


def leads_to(*addresses: str) -> Any:
    """A resolver that says so."""
    return lambda host, port: [
        (socket.AF_INET6 if ":" in each else socket.AF_INET, socket.SOCK_STREAM, 6, "", (each, port)) for each in addresses
    ]


@pytest.mark.parametrize(
    "address",
    [
        # Trap 19: all of these are "global" to the standard library, or were in one of its versions.
        "64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe", "64:ff9b:1::1", "2002:7f00:1::", "2001::1", "fec0::1", "::7f00:1", "192.0.0.8", "224.0.0.1",
        "ff02::1", "::ffff:127.0.0.1", "::ffff:a9fe:a9fe", "::ffff:10.0.0.1", "100.64.0.1", "198.18.0.1", "192.88.99.1", "240.0.0.1",
        "255.255.255.255", "3fff::1", "5f00::1", "100::1",
        # And those that everybody knows.
        "127.0.0.1", "127.8.8.8", "0.0.0.0", "10.0.0.1", "172.16.0.1", "192.168.1.1", "169.254.169.254", "::", "::1", "fe80::1", "fe80::1%eth0",
        "fc00::1", "fd00:ec2::254", "2001:db8::1",
    ],
)  # fmt: skip
def test_an_address_that_is_not_public_is_not_safe(address: str):
    assert not is_safe(address, STRICT)
    with pytest.raises(UnsafeAddressError, match="does not lead to a public address"):
        safe_addresses("receiver.test", 443, STRICT, lookup=leads_to("93.184.215.14", address))


@pytest.mark.parametrize("address", ["93.184.215.14", "1.1.1.1", "2606:4700:4700::1111", "64:ff9b::101:101", "::ffff:1.1.1.1"])
def test_a_public_address_is_safe(address: str):
    assert is_safe(address, STRICT)
    assert safe_addresses("receiver.test", 443, STRICT, lookup=leads_to(address)) == [address]


@pytest.mark.parametrize(
    "url",
    [
        # No name but an address, in every way that a resolver takes for one.
        "https://127.0.0.1/", "https://127.1/", "https://2130706433/", "https://0x7f.1/", "https://0x7f000001/", "https://0177.0.0.1/",
        "https://1.2.3.4/", "https://[::1]/", "https://[::ffff:a9fe:a9fe]/", "https://[fe80::1%25eth0]/", "https://receiver.0x7f/",
        # Digits and dots of other alphabets, which become those.
        "https://127。0。0。1/", "https://①②⑦.0.0.1/", "https://１２７.0.0.1/", "https://ﬁ.test/", "https://müller.example/",  # noqa: RUF001
        # A user who looks like the host.
        "https://ok@169.254.169.254/", "https://ok:secret@receiver.test/", "https://receiver.test@10.0.0.1/", "https://receiver.test\\@10.0.0.1/",
        # Two lines, and what else splits parsers.
        "https://receiver.test/\r\nHost: evil", "https://receiver.test/%\n", "https://receiver.test/a b", "https://receiver.test\t/", " https://receiver.test/",
        "https://receiver.test/#@10.0.0.1", "https://receiver.test/\0", "https://receiver.test/<x>", "https://receiver.test\n",
        # Other services' ports, other schemes.
        "https://receiver.test:6379/", "https://receiver.test:5672/", "https://receiver.test:22/", "https://receiver.test:0/", "https://receiver.test:99999/",
        "http://receiver.test/", "http://receiver.test:443/", "ftp://receiver.test/", "gopher://receiver.test/", "file:///etc/passwd", "HTTPS:receiver.test",
        "//receiver.test/", "receiver.test", "", "https://", "https:///x", "https://.test/", "https://receiver..test/", "https://-x.test/",
        "https://receiver.test./", f"https://receiver.test/{'x' * 2048}", f"https://{'x' * 64}.test/",
    ],
)  # fmt: skip
def test_a_url_that_could_mean_something_else_is_refused(url: str):
    with pytest.raises(UnsafeAddressError):
        read_url(url, STRICT)


def test_what_is_registered_is_read_part_by_part():
    receiver = read_url("https://Hooks.Example.com:8443/a/b?c=d&e=%20", STRICT)

    assert (receiver.scheme, receiver.host, receiver.port, receiver.target) == ("https", "hooks.example.com", 8443, "/a/b?c=d&e=%20")
    assert read_url("https://xn--mller-kva.example", STRICT).target == "/"
    assert read_url("https://receiver.test?x", STRICT).target == "/?x"
    assert read_url("http://127.0.0.1:8000/", LOOPBACK).port == 8000
    assert read_url("https://127.0.0.1/", Rules.read("127.0.0.0/8", http=False)).host == "127.0.0.1"


def test_a_name_is_vetted_when_it_is_registered():
    with pytest.raises(UnsafeAddressError):
        check_url("https://localhost/", STRICT)
    assert check_url("https://receiver.test/", STRICT, leads_to("1.1.1.1")).host == "receiver.test"
    # It is vetted again whenever something is sent; that a resolver is away just now is no reason to refuse.
    assert check_url("https://receiver.invalid/", STRICT, _nobody).host == "receiver.invalid"


def _nobody(host: str, port: int) -> Any:
    raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")


def test_a_name_that_changes_its_answer_gains_nothing():
    """Public when it is registered, ours when something is sent: vetted again, and nothing is connected to."""
    answers = iter([leads_to("93.184.215.14"), leads_to("127.0.0.1")])

    def rebinding(host: str, port: int) -> Any:
        return next(answers)(host, port)

    with receiving() as receiver:
        url = f"https://receiver.test:{receiver.port}/"
        target = check_url(url, Rules(http=True), rebinding)
        with pytest.raises(UnsafeAddressError):
            post(target, b"{}", {}, Rules(http=True), 5, lookup=rebinding)
        assert receiver.received == []


def test_the_vetted_address_is_the_one_that_is_connected_to():
    """The name is asked for once: a second answer is never looked at, whatever it would be."""
    asked: list[str] = []

    def once(host: str, port: int) -> Any:
        asked.append(host)
        assert len(asked) == 1
        return leads_to("127.0.0.1")(host, port)

    with receiving() as receiver:
        answer = post(read_url(f"http://receiver.test:{receiver.port}/hook", LOOPBACK), b"{}", {}, LOOPBACK, 5, lookup=once)

        assert answer.status == 204
        assert receiver.received[0].headers["host"] == f"receiver.test:{receiver.port}"
        assert receiver.received[0].headers["accept-encoding"] == "identity"


def test_tls_asks_for_the_name_and_checks_it():
    trusting = ssl.create_default_context(cafile=str(CERTIFICATE))
    with receiving(tls=True) as receiver:
        here = leads_to("127.0.0.1")

        answer = post(read_url(f"https://receiver.test:{receiver.port}/", LOOPBACK), b"{}", {}, LOOPBACK, 5, context=trusting, lookup=here)
        with pytest.raises(UnreachableError, match="CERTIFICATE_VERIFY_FAILED"):
            post(read_url(f"https://other.test:{receiver.port}/", LOOPBACK), b"{}", {}, LOOPBACK, 5, context=trusting, lookup=here)
        with pytest.raises(UnreachableError, match="CERTIFICATE_VERIFY_FAILED"):
            post(read_url(f"https://receiver.test:{receiver.port}/", LOOPBACK), b"{}", {}, LOOPBACK, 5, lookup=here)

        assert answer.status == 204
        assert len(receiver.received) == 1


def test_a_redirect_is_an_answer_and_is_not_followed():
    with receiving(lambda path, times: (302, {"location": f"http://127.0.0.1:{receiver.port}/metadata"})) as receiver:
        answer = post(read_url(f"{receiver.url}/hook", LOOPBACK), b"{}", {}, LOOPBACK, 5)

        assert answer.status == 302
        assert [each.path for each in receiver.received] == ["/hook"]


def test_no_proxy_of_the_environment_is_asked(monkeypatch: pytest.MonkeyPatch):
    with receiving() as receiver, receiving() as proxy:
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, proxy.url)

        assert post(read_url(f"{receiver.url}/hook", LOOPBACK), b"{}", {}, LOOPBACK, 5).status == 204
        assert proxy.received == []


@pytest.mark.parametrize("fault", ["bomb", "endless", "drip body"])
def test_a_body_without_end_is_not_waited_for(fault: str):
    with receiving(lambda path, times: fault) as receiver:
        started = time.monotonic()
        answer = post(read_url(f"{receiver.url}/", LOOPBACK), b"{}", {}, LOOPBACK, 20)

        assert answer.status == 200
        assert time.monotonic() - started < 10


@pytest.mark.parametrize("fault", ["hang", "drip head"])
def test_an_answer_that_does_not_come_ends_at_the_deadline(fault: str):
    """The dripping one sends a byte each 50 ms, 30 s long: no single read ever times out."""
    with receiving(lambda path, times: fault) as receiver:
        started = time.monotonic()
        with pytest.raises(UnreachableError, match="Timeout"):
            post(read_url(f"{receiver.url}/", LOOPBACK), b"{}", {}, LOOPBACK, 0.5)

        assert time.monotonic() - started < 10


def test_a_connection_that_is_closed_is_no_answer():
    with receiving(lambda path, times: "close") as receiver, pytest.raises(UnreachableError):
        post(read_url(f"{receiver.url}/", LOOPBACK), b"{}", {}, LOOPBACK, 5)


def test_a_resolver_that_hangs_is_left_behind():
    released = threading.Event()

    def hang(host: str, port: int) -> Any:
        released.wait(30)
        return []

    with pytest.raises(UnresolvedError, match=r"within 0\.2 s"):
        safe_addresses("receiver.test", 443, STRICT, 0.2, hang)
    with pytest.raises(UnreachableError):
        post(read_url("https://receiver.test/", STRICT), b"{}", {}, STRICT, 0.2, lookup=hang)
    released.set()
