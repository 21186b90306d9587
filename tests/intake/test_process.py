"""`serve` as a process: it comes, and leaves in order."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import psutil
import psycopg
import pytest

from ledger.connection import Database
from tests.intake.conftest import NOTE, Api, eventually

PROGRAM = """
import sys
from config import logs
from config.settings import Settings
from producers.intake.serve import serve
logs.configure()
sys.exit(serve(Settings(), ready=lambda url: print(url, flush=True)))
"""


@pytest.fixture
def process(database: Database) -> Iterator[subprocess.Popen[str]]:
    environment = {"HAULIER_DATABASE_URL": database.url, "HAULIER_PORT": "0", "HAULIER_HANDLERS": "tests.intake.commands:HANDLERS"}
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
