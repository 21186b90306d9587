"""Who takes part, how its processes are started, and where its jobs are while they wait: in RabbitMQ's queues or in a table."""

from __future__ import annotations

import contextlib
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import LiteralString, Protocol
from urllib.parse import urlsplit

import pika
import psycopg
from pika.adapters.blocking_connection import BlockingChannel, BlockingConnection

from benchmarks.contender import Place
from benchmarks.peers.environments import python_of
from benchmarks.peers.table import PEERS
from benchmarks.processes import ROOT
from console.servers.rabbitmq import RabbitmqNode
from tests.chaos.peers.haulier import Haulier
from tests.chaos.proxy import Proxy

NUMBER = re.compile(rb'"number": ?(\d+)')
SAFE = "benchmarks.peers.safe"


class Jobs(Protocol):
    """A contender's jobs where it keeps them, past the proxies."""

    def count(self) -> int:
        """All that it still has to do, or holds."""
        ...

    def numbers(self) -> set[int]:
        """Which these are, whatever their state; nobody works any more."""
        ...


@dataclass(frozen=True)
class Contender:
    """`module`: what its client submits with. `faults`: its own of `contest.FAULTS`. `settings`: a sentence for below the table."""

    module: str
    faults: tuple[str, ...]
    settings: str
    jobs: Callable[[Place, RabbitmqNode], Jobs]
    peer: str = ""
    work: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict[str, str])

    def python(self) -> str:
        """Raises InstallError."""
        return str(python_of(PEERS[self.peer].module, PEERS[self.peer].packages)) if self.peer else sys.executable

    def start(self, place: Place) -> None:
        """Its workers, by roles that begin with `work`."""
        for copy in (1, 2):
            arguments = [each.format(copy=copy) for each in self.work]
            place.processes.start(f"work-{copy}", [self.python(), *arguments], self.variables(place))

    def variables(self, place: Place) -> dict[str, str]:
        """Its client's and its workers' environment."""
        urls = {
            "BENCH_DATABASE_URL": place.database_url,
            "BENCH_BROKER_URL": place.broker_url,
            "BENCH_RECORDS": str(place.reader.directory),
        }
        return {"PYTHONPATH": str(ROOT), **urls, **self.environment}


@contextlib.contextmanager
def ready(contender: Contender, place: Place) -> Iterator[tuple[dict[str, str], list[Proxy]]]:
    """What must be there before its client: of Haulier all, of the others nothing. Gives the client's environment, and what its connections go through."""
    if contender.module != Haulier.__module__:
        yield contender.variables(place), []
        return
    with contextlib.closing(Haulier(place)) as haulier, contextlib.closing(Proxy(haulier.url)) as door:
        yield contender.variables(place) | {"PEER_URL": door.url, "PEER_KEY": haulier.key}, [door]


class Queues:
    """Of a virtual host, with those that wait for a retry and those that were given up."""

    def __init__(self, place: Place, node: RabbitmqNode) -> None:
        self._node = node
        self._vhost = urlsplit(place.broker_url).path.removeprefix("/")

    def count(self) -> int:
        return sum(self._depths().values())

    def numbers(self) -> set[int]:
        with contextlib.closing(BlockingConnection(pika.URLParameters(self._node.vhost_url(self._vhost)))) as connection:
            channel = connection.channel()
            bodies = [body for name in self._depths() for body in self._drain(channel, name)]
        return {int(number) for body in bodies for number in NUMBER.findall(body)[:1]}

    def _depths(self) -> dict[str, int]:
        """Ready and unacknowledged together; what is a worker's own (Celery's remote control) is left out."""
        lines = self._node.ctl("list_queues", "--vhost", self._vhost, "name", "messages").splitlines()
        counts = {name: int(messages) for name, _, messages in (line.partition("\t") for line in lines) if messages.isdigit()}
        return {name: messages for name, messages in counts.items() if "celery" not in name}

    @staticmethod
    def _drain(channel: BlockingChannel, name: str) -> Iterator[bytes]:
        while body := channel.basic_get(name, auto_ack=True)[2]:
            yield body


class Table:
    """`waiting` and `held` are queries for the numbers of jobs: that are to be done, and of those that nobody will do."""

    def __init__(self, url: str, waiting: LiteralString, held: LiteralString) -> None:
        self._url = url
        self._waiting: LiteralString = waiting
        self._held: LiteralString = held

    def count(self) -> int:
        return len(self._read(self._waiting))

    def numbers(self) -> set[int]:
        return self._read(self._waiting) | self._read(self._held)

    def _read(self, query: LiteralString) -> set[int]:
        with psycopg.connect(self._url) as connection:
            return {row[0] for row in connection.execute(query)}


def table(waiting: LiteralString, held: LiteralString) -> Callable[[Place, RabbitmqNode], Jobs]:
    return lambda place, _node: Table(place.database_url, waiting, held)


_CELERY = (
    *("-m", "celery", "-A", f"{SAFE}.celery", "worker", "-l", "WARNING", "--without-gossip", "--without-mingle"),
    *("-n", "work-{copy}@%h", "-P", "prefork", "-c", "4"),
)
_DRAMATIQ = ("-m", "dramatiq", f"{SAFE}.dramatiq", "--processes", "1", "--threads", "8")
_PROCRASTINATE = ("-m", "procrastinate", "-a", f"{SAFE}.procrastinate.app", "worker", "-q", "bench", "--concurrency", "8")

_IN_RABBITMQ = ("workers killed", "RabbitMQ killed", "connections cut")
_IN_POSTGRES = ("workers killed", "Postgres killed", "connections cut")

CONTENDERS: Mapping[str, Contender] = {
    "haulier": Contender(
        Haulier.__module__,
        ("workers killed", "RabbitMQ killed", "Postgres killed", "connections cut"),
        "all settings by default; the Python client with an idempotency key; the effect by run.execute, in the transaction that ends the job",
        table(
            "select (payload->>'number')::integer from haulier.jobs where state in ('scheduled', 'waiting', 'queued', 'running')",
            "select (payload->>'number')::integer from haulier.jobs where state in ('rejected', 'dead', 'cancelled')",
        ),
    ),
    "celery": Contender(
        f"{SAFE}.celery",
        _IN_RABBITMQ,
        "acks_late, reject_on_worker_lost, confirm_publish, cancel_long_running_tasks_on_connection_loss, autoretry_for every error",
        Queues,
        "celery, prefork",
        _CELERY,
    ),
    "dramatiq": Contender(f"{SAFE}.dramatiq", _IN_RABBITMQ, "its defaults: publishes are not confirmed", Queues, work=_DRAMATIQ),
    "dramatiq, confirmed": Contender(
        f"{SAFE}.dramatiq", _IN_RABBITMQ, "confirm_delivery, else its defaults", Queues, work=_DRAMATIQ, environment={"PEER_CONFIRMS": "1"}
    ),
    "pgqueuer": Contender(
        f"{SAFE}.pgqueuer",
        _IN_POSTGRES,
        "heartbeat_timeout 30 s (its default), shutdown_on_listener_failure, DatabaseRetryEntrypointExecutor, on_failure='hold'",
        table(
            "select convert_from(payload, 'UTF8')::integer from pgqueuer where status in ('queued', 'picked')",
            "select convert_from(payload, 'UTF8')::integer from pgqueuer",
        ),
        "pgqueuer",
        ("-m", f"{SAFE}.pgqueuer"),
    ),
    "procrastinate": Contender(
        f"{SAFE}.procrastinate",
        _IN_POSTGRES,
        "the guide's periodic task for stalled jobs, every 10 s (the guide: every 10 min), for workers silent for 30 s (its default); RetryStrategy",
        table(
            "select (args->>'number')::integer from procrastinate_jobs where task_name = 'take' and status in ('todo', 'doing')",
            "select (args->>'number')::integer from procrastinate_jobs where task_name = 'take' and status not in ('todo', 'doing', 'succeeded')",
        ),
        "procrastinate",
        _PROCRASTINATE,
    ),
}
#: Whoever must be seen to lose; not among those who take part by themselves.
WEAK: Mapping[str, Contender] = {
    "celery, weakened": Contender(
        f"{SAFE}.celery",
        _IN_RABBITMQ,
        "acknowledged before the job, unconfirmed: Celery's defaults",
        Queues,
        "celery, prefork",
        _CELERY,
        {"PEER_WEAK": "1"},
    ),
}
