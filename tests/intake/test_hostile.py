"""What no well-meaning client sends: each a clear 4xx, and none of it logged as a mistake of ours. Bodies are in `test_strict_json`."""

from __future__ import annotations

import contextlib
import gzip
import json
import socket
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest
import structlog

from ledger.connection import Database
from producers.intake import serve
from producers.intake.connection import MAX_HEAD
from tests.intake.conftest import NOTE, Api, count, running_intake


@pytest.fixture(autouse=True)
def no_mistake_of_ours() -> Iterator[None]:
    with structlog.testing.capture_logs() as logged:
        yield
    assert [entry for entry in logged if entry["log_level"] in {"error", "critical"}] == []


Raw = tuple[int, dict[str, str], bytes]


def connect(api: Api) -> socket.socket:
    parts = urlsplit(api.url)
    return socket.create_connection((parts.hostname or "", parts.port or 0), timeout=20)


def talk(api: Api, request: bytes, more: bytes = b"") -> Raw:
    """Send bytes as they are; returns status, header fields and the start of the body."""
    with connect(api) as connection:
        connection.sendall(request + more)
        return hear(connection)


def hear(connection: socket.socket) -> Raw:
    with connection.makefile("rb") as answer:
        status = int(answer.readline().split()[1])
        fields = dict(line.decode().rstrip().lower().split(": ", 1) for line in iter(answer.readline, b"\r\n"))
        return status, fields, answer.read(int(fields.get("content-length", 0)))


def head(api: Api, line: str, *fields: str) -> bytes:
    return "\r\n".join([line, "Host: intake", f"Authorization: Bearer {api.keys['submitter']}", *fields, "", ""]).encode("latin-1")


@pytest.mark.parametrize("field", ["state", "tenant_id", "tenant", "fence", "attempt", "id", "root_id", "worker_id", "queue"])
def test_a_field_that_is_the_ledger_s_own_is_a_422(api: Api, database: Database, field: str):
    answer = api.submit({**NOTE, field: 1})

    assert (answer.status_code, answer.json()["errors"][0]["pointer"]) == (422, f"/{field}")
    assert count(database, api) == 0


def test_a_body_that_does_not_come_in_time_is_a_408(api: Api, database: Database):
    with running_intake(database, request_deadline=0.5) as slow:
        own = Api(slow.url, api.keys, api.slug)
        fields = ("Content-Type: application/json", "Content-Length: 100")
        status, answered, body = talk(own, head(own, "POST /v1/jobs HTTP/1.1", *fields), b'{"command"')
        own.client.close()

    assert (status, json.loads(body)["type"], answered["connection"]) == (408, "/problems/request-timeout", "close")
    assert count(database, api) == 0


RAW: list[tuple[str, tuple[str, ...], bytes, int]] = [
    ("TRACE /v1/jobs HTTP/1.1", (), b"", 405),
    ("OPTIONS /v1/jobs HTTP/1.1", (), b"", 405),
    ("PROPFIND /v1/jobs HTTP/1.1", (), b"", 405),
    ("GET /v1/jobs/%00 HTTP/1.1", (), b"", 404),
    ("GET /v1/jobs%2F..%2Fkeys HTTP/1.1", (), b"", 404),
    ("GET /v1/jobs?state=%00 HTTP/1.1", (), b"", 400),
    ("GET /v1/jobs?limit=1&limit=x HTTP/1.1", (), b"", 400),
    ("GET /v1/jobs?command=%00 HTTP/1.1", (), b"", 400),
    ("GET /v1/jobs?label.a=%00 HTTP/1.1", (), b"", 400),
    ("GET /v1/jobs HTTP/1.1", tuple(f"X-{n}: {'x' * 90}" for n in range(200)), b"", 431),
    ("POST /v1/jobs HTTP/1.1", ("Content-Type: application/json", "Transfer-Encoding: chunked"), b"5\r\n{}{}x\r\n0\r\n\r\n", 400),
    ("POST /v1/jobs HTTP/1.1", ("Content-Type: application/json", "Transfer-Encoding: chunked"), b"zz\r\n{}\r\n", 400),
    ("POST /v1/jobs HTTP/1.1", ("Content-Type: application/json; charset=utf-16", "Content-Length: 2"), b"{}", 415),
    ("POST /v1/jobs HTTP/1.1", ("Content-Type: text/xml", "Content-Length: 4"), b"<a/>", 415),
    ("POST /v1/jobs HTTP/1.1", ("Content-Type: application/json", "Content-Length: 99999999999999"), b"", 413),
    ("POST /v1/jobs HTTP/1.1", ("Content-Length: -1",), b"", 400),
    ("POST /v1/jobs HTTP/1.1", ("Content-Length: 2", "Content-Length: 3"), b"{}", 400),
    ("GET /v1/jobs HTTP/9.9", (), b"", 400),
    ("nonsense", (), b"", 400),
]


@pytest.mark.parametrize(("line", "fields", "body", "status"), RAW)
def test_what_no_client_library_would_send_is_a_clear_no(api: Api, line: str, fields: tuple[str, ...], body: bytes, status: int):
    answered, told, problem = talk(api, head(api, line, *fields), body)

    assert (answered, told["content-type"]) == (status, "application/problem+json")
    assert json.loads(problem)["status"] == status


#: What dribbles, before its first byte and after each of which the client waits; and what is answered when it has taken too long.
DRIBBLES: list[tuple[bytes, bytes, int | None]] = [
    (b"", b"", None),
    (b"", b"GET /v1/jobs HTTP/1.1\r\nX-Slow: " + b"x" * 500, 408),
    (b"GET /livez HTTP/1.1\r\nHost: intake\r\n\r\n", b"GET /v1/jobs HTTP/1.1\r\nX-Slow: " + b"x" * 500, 408),
    (b"POST /nowhere HTTP/1.1\r\nHost: intake\r\nContent-Length: 9999\r\n\r\n", b"x" * 500, None),  # of a body that nobody reads
]


@pytest.mark.parametrize(("first", "dribble", "status"), DRIBBLES)
def test_who_dribbles_is_not_waited_for(
    database: Database, monkeypatch: pytest.MonkeyPatch, first: bytes, dribble: bytes, status: int | None
):
    monkeypatch.setattr(serve, "PATIENCE", 0.6)
    with running_intake(database) as short, connect(short) as connection:
        connection.sendall(first)
        if first:
            assert hear(connection)[0] in {200, 404}
        connection.settimeout(0.05)
        sent, answer = 0, None
        while answer is None:
            connection.sendall(dribble[sent : sent + 1])
            sent += 1
            assert sent < 200
            with contextlib.suppress(TimeoutError):
                answer = connection.recv(1, socket.MSG_PEEK)
        connection.settimeout(20)
        told = hear(connection) if status else None

        assert (
            (told[0], told[1]["connection"], json.loads(told[2])["type"]) == (status, "close", "/problems/request-timeout")
            if told
            else answer == b""
        )
        assert connection.recv(1) == b""


def test_who_asks_well_keeps_the_connection_however_often_and_however_long_the_answer_takes(
    api: Api, database: Database, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(serve, "PATIENCE", 0.6)
    path = f"/v1/jobs/{api.accepted()}"
    with running_intake(database) as short, connect(short) as connection:
        own = Api(short.url, api.keys, api.slug)
        for _ in range(10):
            connection.sendall(head(own, f"GET {path} HTTP/1.1", f"X-Large: {'x' * 10_000}"))
            assert hear(connection)[0] == 200
        connection.sendall(head(own, f"GET {path} HTTP/1.1", "Prefer: wait=2"))
        waited, _, job = hear(connection)
        own.client.close()

    assert (waited, json.loads(job)["state"]) == (200, "queued")


ENDLESS = {
    "target": ("GET /", b""),
    "header": ("GET / HTTP/1.1\r\nX-Endless: ", b""),
    "headers": ("GET / HTTP/1.1", b"\r\nX-Endless: x"),
    "chunk extension": ("POST /v1/jobs HTTP/1.1", b"5;endless="),
    "trailers": ("POST /v1/jobs HTTP/1.1", b"0\r\nX-Endless: "),
}


@pytest.mark.parametrize(("begin", "more"), ENDLESS.values(), ids=ENDLESS)
def test_what_has_no_end_and_is_no_body_is_not_kept_in_memory(api: Api, begin: str, more: bytes):
    most = MAX_HEAD + 1  # so that nothing is left that nobody reads
    with connect(api) as connection:
        if begin.startswith("POST"):
            fields = ("Content-Type: application/json", "Transfer-Encoding: chunked", "Expect: 100-continue")
            connection.sendall(head(api, begin, *fields))
            assert hear(connection)[0] == 100
            connection.sendall(more.ljust(most, b"x"))
        else:
            repeated = more * (most // len(more)) if more else b""
            connection.sendall((begin.encode() + repeated).ljust(most, b"x")[:most])
        status, fields, problem = hear(connection)

    assert (status, fields["connection"], json.loads(problem)["type"]) == (431, "close", "/problems/headers-too-large")


@pytest.mark.parametrize("encoding", ["gzip", "br", "deflate, gzip"])
def test_a_compressed_body_is_a_415(api: Api, encoding: str):
    headers = {"content-type": "application/json", "content-encoding": encoding}

    assert api.post("/v1/jobs", content=gzip.compress(json.dumps(NOTE).encode()), headers=headers).status_code == 415


@pytest.mark.parametrize("value", [None, [], "x", 1, True, {"a": {"b": []}}])
@pytest.mark.parametrize("path", ["/v1/jobs", "/v1/keys", "/v1/tenants"])
def test_a_body_of_another_type_is_a_422(api: Api, path: str, value: Any):
    role = {"/v1/jobs": "submitter", "/v1/keys": "admin", "/v1/tenants": "platform"}[path]

    answer = api.post(path, role=role, content=json.dumps(value), headers={"content-type": "application/json"})

    assert (answer.status_code, answer.json()["type"]) == (422, "/problems/invalid")
