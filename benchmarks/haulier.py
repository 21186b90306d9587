"""Haulier: `haulier relay`, `haulier work` with two processes of two threads, and `haulier serve` where jobs come over HTTP.

A backlog is held by stopping the relay (SIGSTOP), and has ended when the ledger says so of every job.
"""

from __future__ import annotations

import http.client
import secrets
import signal
import sys
import time
from http import HTTPStatus
from typing import Any, LiteralString

import orjson
import psycopg

from benchmarks.commands import HANDLERS, QUEUE
from benchmarks.contender import WORKER_PROCESSES, Place, await_
from benchmarks.processes import answers
from benchmarks.work import payload
from config.ids import uuid7
from console.logins import log_in_as
from console.servers.process import free_port
from ledger import jobs, keys, workers
from ledger.jobs import Submission
from ledger.migrate import migrate
from ledger.roles import add_account
from pipelines.load import describe

THREADS = 2
#: Submitted together, as a busy intake does.
SET_SIZE = 200

# Then it is stopped in the middle of nothing.
RELAY_SLEEPS: LiteralString = "select count(*) > 0 from haulier.workers where kind = 'relay' and asleep"
# Only then many of them share a message, as in a system that has run for a while.
WORK_IS_MEASURED: LiteralString = "select count(*) > 0 from haulier.commands where mean_ms is not null"
ENDED: LiteralString = "select extract(epoch from max(finished_at))::float8 from haulier.jobs having bool_and(state = 'succeeded')"


#: What its handlers need of `effect.TABLES`.
RIGHTS: LiteralString = (
    "grant usage on schema bench to haulier_handler; grant select, insert, update on all tables in schema bench to haulier_handler"
)


class Haulier:
    def __init__(
        self,
        place: Place,
        *,
        works: bool = True,
        over_http: bool = False,
        durable: str = "bench.durable",
        processes: int = WORKER_PROCESSES,
    ) -> None:
        """`works`: whether there are a relay and workers. `durable`: the command that has the durable effect."""
        self.url = self.key = ""
        self._place = place
        self._commands = {"noop": "bench.noop", "durable": durable, "random": durable}
        migrate(place.database_url)
        self._database: psycopg.Connection[Any] = psycopg.connect(place.database_url, autocommit=True)
        workers.remember_commands(self._database, describe(HANDLERS))
        self._database.execute(RIGHTS)
        tenant = keys.add_tenant(self._database, "bench", "Benchmark")
        assert tenant is not None
        self.tenant = tenant.id
        if works:
            self.start("work", HAULIER_PROCESSES=str(processes), HAULIER_THREADS=str(THREADS))
            self._relay = self.start("relay")
        if over_http:
            self._open_intake()

    def hold(self) -> None:
        await_(lambda: self._says(WORK_IS_MEASURED) and self._says(RELAY_SLEEPS), "the relay to sleep", self._place)
        self._relay.send_signal(signal.SIGSTOP)

    def submit(self, kind: str, numbers: range) -> None:
        for first in range(numbers.start, numbers.stop, SET_SIZE):
            members = range(first, min(first + SET_SIZE, numbers.stop))
            jobs.submit(self._database, [self._wish(self._commands[kind], payload(kind, number)) for number in members])

    def release(self) -> None:
        self._relay.send_signal(signal.SIGCONT)

    def stop_relay(self) -> None:
        """As it is, whatever it is doing."""
        self._relay.send_signal(signal.SIGSTOP)

    def submit_one(self, number: int) -> float:
        started = time.time()
        body = orjson.dumps({"command": "bench.durable", "payload": payload("durable", number)})
        self._http.request("POST", "/v1/jobs", body, self._headers)
        answer = self._http.getresponse()
        text = answer.read()
        if answer.status != HTTPStatus.ACCEPTED:
            raise RuntimeError(f"expected 202, got {answer.status}: {text[:500]!r}")
        return started

    def ended_at(self) -> float | None:
        row = self._database.execute(ENDED).fetchone()
        return row[0] if row else None

    def close(self) -> None:
        self._database.close()

    def start(self, role: str, **environment: str) -> Any:
        name, password = f"bench_{role}", secrets.token_urlsafe()
        with self._database.transaction():
            add_account(self._database, name, password, role)
        own = {
            "HAULIER_DATABASE_URL": log_in_as(self._place.database_url, name, password),
            "HAULIER_BROKER_URL": self._place.broker_url,
            "HAULIER_HANDLERS": "benchmarks.commands:HANDLERS",
            "BENCH_RECORDS": str(self._place.reader.directory),
        }
        return self._place.processes.start(role, [sys.executable, "-m", "console.main", role], own | environment)

    def _open_intake(self) -> None:
        port = free_port()
        _, self.key = keys.add_key(self._database, self.tenant, "submitter", "bench")
        self._headers = {"authorization": f"Bearer {self.key}", "content-type": "application/json"}
        self.url = f"http://127.0.0.1:{port}"
        self.start("serve", HAULIER_PORT=str(port))
        self._http = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
        await_(lambda: answers(f"{self.url}/readyz"), "the intake to answer", self._place)

    def _wish(self, name: str, carried: dict[str, Any]) -> Submission:
        return Submission(uuid7(), self.tenant, name, QUEUE, orjson.dumps(carried), HANDLERS[name].retry.max_failures)

    def _says(self, question: LiteralString) -> bool:
        row = self._database.execute(question).fetchone()
        return row is not None and row[0]
