"""The rig: intake, relay, workers and upkeep as processes of their own, on real servers, to be killed, paused and started again."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable, Container, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, LiteralString, Self
from uuid import UUID

import pika
import psutil
import psycopg
from pika.adapters.blocking_connection import BlockingConnection
from psycopg.rows import dict_row

from config.ids import uuid7
from config.outage import ride_out
from config.transport import topology
from config.transport.message import Announcement, Message, encode
from console.servers.process import free_port
from ledger import jobs, keys, webhooks, workers
from ledger.connection import Database
from ledger.webhooks import Webhook
from pipelines.load import describe
from pipelines.webhooks.signing import make_secret
from tests.crash.commands import HANDLERS, QUEUE, RIGHTS, TABLE
from tests.crash.sink import Sink

ROOT = Path(__file__).parents[2]
#: Quick, so that a crash costs a test little time; long enough that a busy machine takes nobody for dead.
QUICK = {"heartbeat": 0.3, "lease": 2.0, "tick": 0.2, "processes": 1, "threads": 2, "drain": 10, "webhook_retry_scale": 0.02}
#: Receivers of the test's own process.
NEARBY = {"webhook_networks": "127.0.0.0/8", "webhook_http": True}

NOT_AT_ONCE = """
select j.id::text, j.command, j.state::text, j.reason, j.attempt, j.failures, j.solo, o.announced_at::text, o.attempt
  from haulier.jobs j left join haulier.outbox o on o.job_id = j.id where j.state <> 'succeeded' or j.attempt > 1 order by j.id desc limit 50
"""


class Part:
    """One process of the rig and what it starts: a process group of its own."""

    def __init__(
        self,
        role: str,
        environment: dict[str, str],
        log_file: Path,
        armed_next: Sequence[str] = (),
        tree: Path = ROOT,
        module: str = "tests.crash.launch",
    ) -> None:
        self.role = role
        #: What the one that takes its place after its failpoint has killed it shall be armed with, and that one's successor, …
        self.armed_next = armed_next
        self.log_file = log_file
        with log_file.open("ab") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-m", module, role],
                env=environment,
                cwd=tree,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def log(self) -> str:
        return self.log_file.read_text(errors="replace")

    @property
    def code(self) -> int | None:
        """None while it runs."""
        return self._process.poll()

    def units(self) -> list[psutil.Process]:
        """A runner's worker processes that live now."""
        with contextlib.suppress(psutil.NoSuchProcess):
            return [child for child in psutil.Process(self.pid).children() if child.status() != psutil.STATUS_ZOMBIE]
        return []

    def kill(self) -> None:
        """SIGKILL, it and all that it started."""
        self._signal(signal.SIGKILL)
        self._process.wait()

    def pause(self) -> None:
        self._signal(signal.SIGSTOP)

    def go_on(self) -> None:
        self._signal(signal.SIGCONT)

    def stop(self, within: float = 30) -> int:
        """SIGTERM to it alone; returns its exit code."""
        self.begin_to_stop()
        return self._process.wait(within)

    def begin_to_stop(self) -> None:
        if self.code is None:
            self._process.terminate()

    def end(self) -> None:
        """In whatever state it is."""
        if self.code is None:
            self.go_on()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.stop(3)
        self.kill()

    def wait_for_log(self, text: str, seconds: float = 20) -> None:
        eventually(lambda: text in self.log, seconds, f"the {self.role} never said {text!r}:\n{self.log[-3000:]}")

    def _signal(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, number)


class Rig:
    """Use it with `with`: at its end every process that it started is gone, and it says so if one was not."""

    def __init__(self, database_url: str, broker_url: str, directory: Path, **settings: object) -> None:
        self.database_url = database_url
        self.broker_url = broker_url
        self.sink = Sink()
        self.parts: list[Part] = []
        #: Every job that anybody has a receipt for.
        self.accepted: set[UUID] = set()
        self._directory = directory
        self._token = secrets.token_hex(8)
        self._port = free_port()
        self._started = 0
        self._tending = threading.Lock()
        self._deaths: Counter[str] = Counter()
        self._settings = QUICK | NEARBY | settings
        self._database = Database(database_url, size=1, name="haulier rig")
        with self._database.plumbing() as tx:
            tx.execute(TABLE)
            tx.execute(RIGHTS)
            tenant = keys.add_tenant(tx, "crash", "Crash")
            assert tenant is not None
            self.tenant_id = tenant.id
            _, self._key = keys.add_key(tx, tenant.id, "admin", "the rig's")
            workers.remember_commands(tx, describe(HANDLERS))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.sink.let_through()
        with ThreadPoolExecutor(8) as hands:
            list(hands.map(Part.end, self.parts))
        self.sink.close()
        self._database.close()
        eventually(lambda: not self._left(), 10, lambda: f"still there: {[process.cmdline() for process in self._left()]}")

    # Processes.

    def start(self, role: str, *failpoints: str, tree: Path = ROOT, **settings: object) -> Part:
        """An intake takes the port of the one that was killed. Failpoints: one for it, one for its successor, and so on. `tree`: whose code runs."""
        environment = {
            **os.environ,
            "HAULIER_DATABASE_URL": self.database_url,
            "HAULIER_BROKER_URL": self.broker_url,
            "HAULIER_HANDLERS": "tests.crash.commands:HANDLERS",
            "HAULIER_PORT": str(self._port),
            "HAULIER_SINK": self.sink.url,
            "HAULIER_RIG": self._token,
            "PYTHONPATH": str(tree),
            **{f"HAULIER_{name.upper()}": str(value) for name, value in (self._settings | settings).items()},
        }
        if failpoints:
            environment |= {"HAULIER_FAILPOINTS": failpoints[0], "HAULIER_RIG_NEXT": "|".join(failpoints[1:])}
        self._started += 1
        part = Part(role, environment, self._directory / f"{self._started:03}-{role}.log", failpoints[1:], tree)
        self.parts.append(part)
        return part

    def replace(self, role: str, *failpoints: str) -> Part:
        """The process of this role is stopped in order, and another one takes its place; an intake only once the port is free."""
        old = self.started(role)
        for part in old:
            part.begin_to_stop()
            if role == "intake":
                part.stop()
        self._deaths[role] = 0
        new = self.start(role, *failpoints)
        for part in old:
            part.stop()
            part.kill()
            self.parts.remove(part)
        return new

    def crash(self, role: str) -> None:
        """Kill it and all that it started; another one takes its place."""
        for part in self.started(role):
            part.kill()
            self.parts.remove(part)
            self.start(role)

    def started(self, role: str) -> list[Part]:
        return [part for part in self.parts if part.role == role]

    def start_all(self) -> dict[str, Part]:
        return {role: self.start(role) for role in ("intake", "relay", "work", "upkeep")}

    def wait_for_crew(self, units: int, heartbeat: float) -> None:
        """Until so many worker processes, which beat every so many seconds, have made themselves known."""
        sql = "select count(*) from haulier.workers where kind = 'worker' and stopped_at is null and seen_at > now() - make_interval(secs => %s)"
        eventually(lambda: self.value(sql, 2 * heartbeat) >= units, 20, self.logs)

    # Jobs.

    def submit(self, command: str, payload: dict[str, Any], key: str | None = None, within: float = 30, **fields: Any) -> UUID:
        """Over HTTP, repeated with the same key until it is accepted, as a client does."""
        _, answer = self.post("/v1/jobs", {"command": command, "payload": payload, **fields}, key, within)
        job_id = UUID(answer["id"])
        self.accepted.add(job_id)
        return job_id

    def submit_batch(self, *items: tuple[str, dict[str, Any]]) -> list[UUID]:
        """The same for many in one request."""
        _, answer = self.post("/v1/jobs/batch", [{"command": command, "payload": payload} for command, payload in items])
        ids = [UUID(item["id"]) for item in answer["items"]]
        self.accepted.update(ids)
        return ids

    def post(self, path: str, body: Any, key: str | None = None, within: float = 30, until: Container[int] = ()) -> tuple[int, Any]:
        """Repeated with the same key until it is answered with a 2xx, or one of `until`."""
        headers = {
            "authorization": f"Bearer {self._key}",
            "content-type": "application/json",
            "idempotency-key": key or secrets.token_hex(8),
        }
        deadline = time.monotonic() + within
        while True:
            request = urllib.request.Request(f"http://127.0.0.1:{self._port}{path}", json.dumps(body).encode(), headers, method="POST")
            try:
                with urllib.request.urlopen(request, timeout=10) as answer:
                    return answer.status, json.load(answer)
            except urllib.error.HTTPError as error:
                with error:
                    if error.code in until:
                        return error.code, json.load(error)
                    if error.code not in (409, 503):
                        raise AssertionError(f"{error.code}: {error.read().decode()}") from error
            except OSError:
                pass  # refused, or cut off: nobody knows whether it was accepted
            assert time.monotonic() < deadline, f"nothing accepted within {within} s\n{self.logs()}"
            self.tend()
            time.sleep(0.02)

    def write(self, command: str, payload: dict[str, Any], **fields: Any) -> UUID:
        """Into the ledger by itself, as a caller in Python does: for tests in which no intake takes part."""
        handler = HANDLERS[command]
        wish = jobs.Submission(
            uuid7(), self.tenant_id, command, handler.queue, json.dumps(payload).encode(), handler.retry.max_failures, **fields
        )
        with self._database.plumbing() as tx:
            jobs.submit(tx, [wish])
            workers.wake(tx)
        self.accepted.add(wish.id)
        return wish.id

    def write_waiting(self, end: str = "count", command: str = "crash.wait") -> UUID:
        """A job whose first attempt is at the gate now."""
        job_id = self.write(command, {"end": end})
        self.wait_for_arrival(job_id, 1)
        return job_id

    def wait_for_arrival(self, job_id: UUID, attempt: int) -> None:
        eventually(lambda: f"{job_id}/{attempt}" in self.sink.arrived, 60, self.describe)

    def tend(self) -> None:
        """Start again what was killed by its failpoint."""
        with self._tending:
            for part in list(self.parts):
                if part.code == -signal.SIGKILL:
                    self.parts.remove(part)
                    part.kill()
                    self._deaths[part.role] += 1
                    self.start(part.role, *part.armed_next)

    def deaths(self, role: str) -> int:
        """How many processes of this role their failpoints have killed, since it was last replaced. A runner survives, and tells of it."""
        self.tend()
        if role == "work":
            return sum(part.log.count(f"code={-signal.SIGKILL}") for part in self.started(role))
        return self._deaths[role]

    def is_final(self, job_id: UUID) -> bool:
        self.tend()
        return self.job(job_id)["finished_at"] is not None

    def wait_until_final(self, ids: Sequence[UUID], seconds: float = 40) -> None:
        """All of these and their families."""
        sql = "select count(*) from haulier.jobs where root_id = any(%s) and state not in ('succeeded', 'rejected', 'dead', 'cancelled')"

        def are_final() -> bool:
            self.tend()
            return self.value(sql, list(ids)) == 0

        eventually(are_final, seconds, self.describe)

    @contextlib.contextmanager
    def webhook(self, url: str, *events: str) -> Iterator[Webhook]:
        """Gone at the end, also of a test that failed: nobody would be told what the jobs of the next one have come to."""
        with self._database.plumbing() as tx, tx.transaction():
            webhook = webhooks.add(tx, self.tenant_id, "", url, events, None, make_secret())
        try:
            yield webhook
        finally:
            with self._database.plumbing() as tx:
                webhooks.remove(tx, webhook.id)

    # What is there.

    def rows(self, sql: LiteralString, *values: object) -> list[tuple[Any, ...]]:
        def read() -> list[tuple[Any, ...]]:
            with self._database.plumbing() as tx:
                return tx.execute(sql, values).fetchall()

        return ride_out("the database", read, (psycopg.OperationalError,))

    def value(self, sql: LiteralString, *values: object) -> Any:
        return self.rows(sql, *values)[0][0]

    def job(self, job_id: UUID) -> dict[str, Any]:
        with self._database.plumbing() as tx, tx.cursor(row_factory=dict_row) as cursor:
            found = cursor.execute("select * from haulier.every_job where id = %s", (job_id,)).fetchone()
        assert found is not None
        return found

    def effects(self, job_id: UUID) -> list[int]:
        """The attempts that left a row for this job."""
        return [row[0] for row in self.rows("select attempt from effects where job_id = %s order by at", job_id)]

    def outcomes(self, job_id: UUID) -> list[str]:
        """How its attempts ended, in order."""
        return [row[0] for row in self.rows("select outcome from haulier.attempts where job_id = %s order by number", job_id)]

    def kinds(self, job_id: UUID) -> list[str]:
        """Its timeline."""
        return [row[0] for row in self.rows("select kind from haulier.events where job_id = %s order by seq", job_id)]

    # RabbitMQ.

    def publish(self, *bodies: bytes, queue: str = topology.wire_name(QUEUE)) -> None:
        """Put these into the queue; returns when RabbitMQ has them."""
        with contextlib.closing(BlockingConnection(pika.URLParameters(self.broker_url))) as connection:
            channel = connection.channel()
            topology.declare(channel, [QUEUE])
            channel.confirm_delivery()
            for body in bodies:
                channel.basic_publish("", queue, body, pika.BasicProperties(delivery_mode=2), mandatory=True)

    def announce(self, *jobs: tuple[UUID, int]) -> None:
        """One message that names these jobs with the attempt that is expected of each."""
        self.publish(encode(Message(QUEUE, tuple(Announcement(job_id, attempt, None) for job_id, attempt in jobs))))

    def ready_messages(self, queue: str = topology.wire_name(QUEUE)) -> int:
        return self._queue(queue).message_count

    def consumers(self) -> int:
        return self._queue(topology.wire_name(QUEUE)).consumer_count

    # For the one who reads a failure.

    def logs(self) -> str:
        return "\n".join(f"--- {part.log_file.name} (exit code {part.code})\n{part.log[-2500:]}" for part in self.parts)

    def describe(self) -> str:
        return "\n".join(["not succeeded at once:", *map(str, self.rows(NOT_AT_ONCE)), self.logs()])

    def _queue(self, name: str) -> Any:
        with contextlib.closing(BlockingConnection(pika.URLParameters(self.broker_url))) as connection:
            return connection.channel().queue_declare(name, passive=True).method

    def _left(self) -> list[psutil.Process]:
        """Every process that carries this rig's token, whoever its parent is by now."""
        found: list[psutil.Process] = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if process.environ().get("HAULIER_RIG") == self._token and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
        return found


def eventually(holds: Callable[[], object], seconds: float, complaint: str | Callable[[], str] = "") -> None:
    """Returns when it holds; fails with the complaint when it does not in time."""
    deadline = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > deadline:
            raise AssertionError(f"did not come true within {seconds} s; {complaint() if callable(complaint) else complaint}")
        time.sleep(0.02)
