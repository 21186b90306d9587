"""`serve` as a process: it comes, and leaves in order."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

import httpx2
import psutil
import psycopg
import pytest

from ledger.connection import Database
from producers.client import Client
from tests.intake.conftest import NOTE, Api, Worker, eventually
from tests.intake.proxy import Proxy

PROGRAM = """
import sys
from config import logs
from config.settings import Settings
from producers.intake.serve import serve
logs.configure()
sys.exit(serve(Settings(), ready=lambda url: print(url, flush=True)))
"""


@pytest.fixture
def process(request: pytest.FixtureRequest, database: Database) -> Iterator[subprocess.Popen[str]]:
    """With `drain` seconds, if the test says so."""
    environment = {"HAULIER_DATABASE_URL": database.url, "HAULIER_PORT": "0", "HAULIER_HANDLERS": "tests.intake.commands:HANDLERS"}
    environment |= {"HAULIER_DRAIN": str(getattr(request, "param", 25))}
    with subprocess.Popen([sys.executable, "-c", PROGRAM], env=os.environ | environment, stdout=subprocess.PIPE, text=True) as process:
        yield process
        process.kill()


def test_a_batch_of_32_mib_does_not_grow_the_intake_by_more_than_a_few(api: Api, process: subprocess.Popen[str]):
    assert process.stdout
    far = Api(process.stdout.readline().strip(), api.keys, api.slug)
    item = json.dumps({**NOTE, "payload": {"text": "x" * 3200}}).encode()

    def batch(items: int, length: int) -> int:
        """The most memory that was seen while it was sent."""
        most = 0

        def body() -> Iterator[bytes]:
            nonlocal most
            yield b"["
            for n in range(items):
                most = max(most, psutil.Process(process.pid).memory_info().rss) if n % 20 == 0 else most
                yield (b"," if n else b"") + item[:-3] + b"y" * (length - len(item)) + item[-3:]
            yield b"]"

        answer = far.post("/v1/jobs/batch", content=body(), headers={"content-type": "application/json"})
        assert (answer.status_code, len(answer.json()["items"])) == (207, items)
        return most

    small = batch(1500, len(item))  # about 5 MiB: from there on, whatever grows does so with the body
    large = batch(10_000, len(item))

    far.client.close()

    assert large - small < 8 << 20


def test_on_sigterm_it_says_that_it_leaves_finishes_what_it_has_and_ends_with_0(
    api: Api, process: subprocess.Popen[str], database: Database
):
    assert process.stdout
    far = Api(process.stdout.readline().strip(), api.keys, api.slug)
    far.accepted()
    with psycopg.connect(database.url) as other, database.plumbing() as tx, ThreadPoolExecutor(1) as hands:
        other.execute(
            "insert into haulier.idempotency_keys (tenant_id, key, job_id, fingerprint)"
            " select id, 'held', gen_random_uuid(), '' from haulier.tenants where slug = %s",
            (api.slug,),
        )
        under_way = hands.submit(far.submit, NOTE, "held")
        eventually(lambda: tx.execute("select true from pg_stat_activity where wait_event_type = 'Lock'").fetchone())
        process.send_signal(signal.SIGTERM)
        eventually(lambda: far.call("GET", "/readyz", None).status_code == 503)
        ready = far.call("GET", "/readyz", None)
        other.rollback()

        assert ready.json()["dependencies"]["process"] == {"ok": False, "needed": True, "detail": "leaving"}
        assert under_way.result(10).status_code == 202
    assert process.wait(20) == 0
    far.client.close()


def test_on_sigterm_those_who_follow_and_wait_are_answered_and_go_on_at_another_intake(
    api: Api, process: subprocess.Popen[str], worker: Worker
):
    assert process.stdout
    far = Api(process.stdout.readline().strip(), api.keys, api.slug)
    proxy, job_id, other = Proxy(far.url), far.accepted(), far.accepted()
    lease = worker.begin(job_id)
    headers = {"authorization": f"Bearer {api.keys['viewer']}"}

    def read(path: str) -> list[str]:
        """All lines of a stream, which must end as one ends that is whole."""
        with httpx2.stream("GET", far.url + path, headers=headers, timeout=60) as answer:
            return list(answer.iter_lines())

    def follow() -> list[tuple[str, str]]:
        with Client(proxy.url, api.keys["viewer"]) as client:
            return [(event.id, event.kind) for event in client.follow(job_id)]

    def wait() -> str:
        with Client(proxy.url, api.keys["viewer"]) as client:
            return client.wait(job_id)["state"]

    with ThreadPoolExecutor(9) as hands:
        streams = [hands.submit(read, path) for path in ("/v1/events", f"/v1/jobs/{other}/events", f"/v1/jobs/{other}/events?family=true")]
        polls = [hands.submit(far.get, f"/v1/jobs/{other}", headers={"prefer": "wait=50"}) for _ in range(3)]
        clients = hands.submit(follow), hands.submit(wait)
        eventually(lambda: (streaming(far), waiting(far)) == (4, 6))  # whoever follows a job waits for its progress, too
        began = time.monotonic()
        process.send_signal(signal.SIGTERM)
        proxy.lead_to(api.url)
        lines = [stream.result(10) for stream in streams]
        answers = [poll.result(10) for poll in polls]
        code = process.wait(10)
        took = time.monotonic() - began
        worker.complete(lease, "null")
        heard, state = clients[0].result(30), clients[1].result(30)
    proxy.close()
    far.client.close()

    assert (code, took < 5) == (0, True)
    assert [sum(line.startswith("event: accepted") for line in each) for each in lines] == [0, 1, 1]
    assert [(answer.status_code, answer.json()["state"]) for answer in answers] == [(200, "queued")] * 3
    assert heard == [("1", "accepted"), ("2", "started"), ("3", "succeeded")]
    assert state == "succeeded"


def streaming(api: Api) -> float:
    return number(api, "haulier_streams")


def waiting(api: Api) -> float:
    return number(api, "haulier_requests_waiting")


def number(api: Api, metric: str) -> float:
    text = api.call("GET", "/metrics", None).text
    return next(float(line.split()[-1]) for line in text.splitlines() if line.startswith(metric + " "))


@pytest.mark.parametrize("process", [3], indirect=True)
def test_who_takes_nothing_of_a_stream_holds_up_the_end_no_longer_than_the_time_for_it(api: Api, process: subprocess.Popen[str]):
    assert process.stdout
    far = Api(process.stdout.readline().strip(), api.keys, api.slug)
    parts = urlsplit(far.url)
    with socket.socket() as stuck:
        stuck.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        stuck.connect((parts.hostname, parts.port))
        stuck.sendall(f"GET /v1/events HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {api.keys['viewer']}\r\n\r\n".encode())
        eventually(lambda: streaming(far) == 1)
        for _ in range(12):  # more than the system's buffers take
            far.post("/v1/jobs/batch", [NOTE] * 1000)
        began = time.monotonic()
        process.send_signal(signal.SIGTERM)

        assert process.wait(20) == 0
        assert 2 < time.monotonic() - began < 5
    far.client.close()
