"""The peers, and how each is run. Its own module beside this one says what is durable about it, and what can be lost."""

from __future__ import annotations

from dataclasses import dataclass

PSYCOPG = "psycopg[binary]==3.3.9"
ASYNCPG = "asyncpg==0.32.0"


@dataclass(frozen=True)
class Peer:
    module: str
    packages: tuple[str, ...]
    #: Arguments of its Python.
    work: tuple[str, ...]
    #: How many such processes.
    copies: int
    #: Of the jobs that others get: one measurement lasts no longer than theirs.
    share: float

    @property
    def version(self) -> str:
        return self.packages[0].partition("==")[2]


_CELERY = ("-m", "celery", "-A", "benchmarks.peers.celery", "worker", "-l", "WARNING", "--without-gossip", "--without-mingle")

PEERS: dict[str, Peer] = {
    "celery, prefork": Peer("celery", ("celery==5.7.0", PSYCOPG), (*_CELERY, "-P", "prefork", "-c", "2"), 1, 0.3),
    "celery, threads": Peer("celery", ("celery==5.7.0", PSYCOPG), (*_CELERY, "-P", "threads", "-c", "16"), 1, 0.3),
    "dbos": Peer("dbos", ("dbos==3.4.0", PSYCOPG), ("-m", "benchmarks.peers.dbos"), 2, 0.1),
    "huey": Peer(
        "huey", ("huey==3.5.4", "redis==8.1.0", PSYCOPG),
        ("-m", "huey.bin.huey_consumer", "benchmarks.peers.huey.huey", "--quiet", "-k", "thread", "-w", "8"), 2, 0.7,
    ),
    "pgqueuer": Peer("pgqueuer", ("pgqueuer==1.6.0", ASYNCPG, PSYCOPG), ("-m", "benchmarks.peers.pgqueuer"), 2, 1.0),
    "procrastinate": Peer(
        "procrastinate", ("procrastinate==3.10.0", ASYNCPG, PSYCOPG),
        ("-m", "procrastinate", "-a", "benchmarks.peers.procrastinate.app", "worker", "-q", "bench", "--concurrency", "8"), 2, 0.1,
    ),
    "taskiq": Peer(
        "taskiq", ("taskiq==0.13.0", "taskiq-aio-pika==0.6.1", ASYNCPG, PSYCOPG),
        ("-m", "taskiq", "worker", "benchmarks.peers.taskiq:broker", "--workers", "2", "--log-level", "WARNING"), 1, 0.4,
    ),
}  # fmt: skip
