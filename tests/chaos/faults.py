"""Every class of fault that a run draws from: how it begins and ends, and who must notice it (I11: no silent error)."""

from __future__ import annotations

import contextlib
import json
import os
import random
import secrets
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from uuid import UUID

import pika
import psutil
import psycopg
from pika.adapters.blocking_connection import BlockingChannel, BlockingConnection
from psycopg import sql

from config.transport import topology
from config.transport.message import Announcement, Message, encode
from tests.chaos.place import Place
from tests.chaos.proxy import Proxy, Toxic

#: Where faketime's library may be; a clock can be moved for one process by it.
FAKETIME = ("/usr/lib/*/faketime/libfaketime.so.1", "/usr/lib/faketime/libfaketime.so.1", "/opt/homebrew/lib/faketime/libfaketime.1.dylib")
#: What the product says when a server is away, by any role that uses it.
POSTGRES_AWAY = (
    "until it is back: the database", "does not reach the database", "ledger is away", "met a ledger", "a pass of the relay failed",
    "cannot be woken", "attempt ended: interrupted", "back again: the database", "the database again", "ledger is back",
)  # fmt: skip
RABBITMQ_AWAY = (
    "until it is back: RabbitMQ",
    "connection to RabbitMQ is lost",
    "dead-letter queues are not watched",
    "not confirmed",
    "slow to confirm",
    "back again: RabbitMQ",  # one outage may be two faults, of which it is told once that it begins and once that it is over
    "RabbitMQ is back",
)


@dataclass(frozen=True)
class Fault:
    """`run(place, chance)` breaks something for as long as its `with` block lasts, and heals it at the end.

    `on`: faults on one and the same thing do not overlap. `seconds`: the least and the most that it lasts. `noticed`: log lines of the product of which
    at least one must appear (a part of the sentence will do), or the reason why none can.
    """

    name: str
    on: str
    seconds: tuple[float, float]
    run: Callable[[Place, random.Random], AbstractContextManager[object]]
    noticed: tuple[str, ...] | str


# Processes.


@contextmanager
def killed(role: str, place: Place, chance: random.Random) -> Iterator[None]:
    """SIGKILL to one of them and all that it started; started again at the end."""
    slot = chance.choice(place.of(role))
    with slot.held():
        slot.kill()
        yield
        slot.start()


@contextmanager
def all_killed(place: Place, chance: random.Random) -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        for slot in place.of("work"):
            stack.enter_context(slot.held())
            slot.kill()
        yield
        for slot in place.of("work"):
            slot.start()


@contextmanager
def unit_killed(place: Place, chance: random.Random) -> Iterator[None]:
    """Only the worker's process; its runner lives."""
    with chance.choice(place.of("work")).held() as part:
        for unit in part.units()[:1]:
            unit.send_signal(signal.SIGKILL)
    yield


@contextmanager
def paused(role: str, place: Place, chance: random.Random) -> Iterator[None]:
    """A zombie: longer than its lease, and then it goes on where it was."""
    with chance.choice(place.of(role)).held_up() as part:
        part.pause()
        yield
        part.go_on()


@contextmanager
def out_of_files(place: Place, chance: random.Random) -> Iterator[None]:
    """A worker's process may open nothing more, and its connections are gone."""
    with chance.choice(place.of("work")).held() as part:
        units = part.units()
    before = [unit.rlimit(psutil.RLIMIT_NOFILE) for unit in units]
    for unit in units:
        unit.rlimit(psutil.RLIMIT_NOFILE, (4, before[0][1]))
    place.to_postgres.cut()
    yield
    for unit, limit in zip(units, before, strict=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            unit.rlimit(psutil.RLIMIT_NOFILE, limit)


@contextmanager
def stopped(role: str, place: Place, chance: random.Random) -> Iterator[None]:
    """SIGTERM, as a deployment does, and started again."""
    slot = chance.choice(place.of(role))
    with slot.held_up():
        slot.stop()
        slot.start()
        yield


@contextmanager
def skewed(role: str, offset: str, place: Place, chance: random.Random) -> Iterator[None]:
    """One process lives an hour away from the others."""
    slot = chance.choice(place.of(role))
    with slot.held():
        slot.stop()
        slot.start({"LD_PRELOAD": faketime() or "", "FAKETIME": offset, "FAKETIME_DONT_FAKE_MONOTONIC": "1", "DONT_FAKE_MONOTONIC": "1"})
        yield
        slot.stop()
        slot.start()


def faketime() -> str | None:
    return next((str(path) for pattern in FAKETIME for path in sorted(Path("/").glob(pattern.lstrip("/")))), None)


# Postgres.


@contextmanager
def backend_killed(place: Place, chance: random.Random) -> Iterator[None]:
    """SIGKILL to one of its backends: Postgres ends all of them and recovers."""
    backends = [row[0] for row in place.sql("select pid from pg_stat_activity where usename like 'chaos_%%' order by pid")]
    if backends:
        os.kill(chance.choice(backends), signal.SIGKILL)
    yield


@contextmanager
def postgres_killed(place: Place, chance: random.Random) -> Iterator[None]:
    place.postgres.kill()
    yield
    place.postgres.start()


@contextmanager
def postgres_stopped(place: Place, chance: random.Random) -> Iterator[None]:
    place.postgres.stop()
    yield
    place.postgres.start()


@contextmanager
def flushes_failing(place: Place, chance: random.Random) -> Iterator[None]:
    """The next flush of its log fails in whichever backend makes it: Postgres then gives up and recovers, for nobody knows what the disk has."""
    backends = [row[0] for row in place.sql("select pid from pg_stat_activity where usename like 'chaos_%%'")]
    command = ["strace", "-qq", "-e", "inject=fdatasync:error=EIO", "-o", "/dev/null", *(f"-p{backend}" for backend in backends)]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as tracer:
        yield
        tracer.terminate()


@contextmanager
def backends_terminated(place: Place, chance: random.Random) -> Iterator[None]:
    place.sql("select pg_terminate_backend(pid) from pg_stat_activity where usename like 'chaos_%%'")
    yield


@contextmanager
def locked(place: Place, chance: random.Random) -> Iterator[None]:
    table = sql.Identifier("haulier", chance.choice(["jobs", "outbox", "leases", "events"]))
    with psycopg.connect(place.database_url) as connection:
        connection.execute(sql.SQL("lock table {} in access exclusive mode").format(table))
        yield
        connection.rollback()


@contextmanager
def limited(place: Place, chance: random.Random) -> Iterator[None]:
    """One of the accounts may have a single connection, and what it has is ended."""
    account = f"chaos_{chance.choice(['serve', 'work'])}"
    with psycopg.connect(place.database_url, autocommit=True) as connection:
        connection.execute(sql.SQL("alter role {} connection limit 1").format(sql.Identifier(account)))
        connection.execute("select pg_terminate_backend(pid) from pg_stat_activity where usename = %s", (account,))
    yield
    with psycopg.connect(place.database_url, autocommit=True) as connection:
        connection.execute(sql.SQL("alter role {} connection limit -1").format(sql.Identifier(account)))


# RabbitMQ.


@contextmanager
def rabbitmq_killed(place: Place, chance: random.Random) -> Iterator[None]:
    place.rabbitmq.kill()
    yield
    place.rabbitmq.start()


@contextmanager
def rabbitmq_wiped(place: Place, chance: random.Random) -> Iterator[None]:
    place.rabbitmq.wipe()
    yield
    place.rabbitmq.start()


@contextmanager
def controlled(begin: tuple[str, ...], end: tuple[str, ...], place: Place, chance: random.Random) -> Iterator[None]:
    """By rabbitmqctl."""
    place.rabbitmq.ctl(*begin)
    yield
    if end:
        place.rabbitmq.ctl(*end)


@contextmanager
def revoked(place: Place, chance: random.Random) -> Iterator[None]:
    """A channel remembers for a while what it may do; so connections are closed as well."""
    place.rabbitmq.ctl("clear_permissions", "haulier")
    place.rabbitmq.ctl("close_all_connections", "chaos")
    yield
    place.rabbitmq.ctl("set_permissions", "haulier", ".*", ".*", ".*")


@contextmanager
def queue_deleted(place: Place, chance: random.Random) -> Iterator[None]:
    with channel(place) as found:
        found.queue_delete(topology.wire_name(chance.choice(["crash", "orders"])))
    yield


@contextmanager
def doubled(place: Place, chance: random.Random) -> Iterator[None]:
    """What was announced lately comes five times more, in any order."""
    rows = place.sql("select id, queue, attempt from haulier.jobs order by id desc limit 100")
    messages = [
        (queue, encode(Message(queue, (Announcement(UUID(str(job)), max(1, attempt + more), None),))))
        for job, queue, attempt in rows
        for more in (0, 0, 0, 1, 1)
    ]
    chance.shuffle(messages)
    publish(place, messages)
    yield


@contextmanager
def garbage(place: Place, chance: random.Random) -> Iterator[None]:
    bodies = [b"", b"not json", b"\x00\xff" * 50, b'{"queue_name": "crash"}', json.dumps({"args": secrets.token_hex(8)}).encode()]
    publish(place, [("crash", body + chance.randbytes(4)) for body in bodies])
    yield


def publish(place: Place, messages: list[tuple[str, bytes]]) -> None:
    with channel(place) as found:
        for queue, body in messages:
            found.basic_publish("", topology.wire_name(queue), body, pika.BasicProperties(delivery_mode=2))


@contextmanager
def channel(place: Place) -> Iterator[BlockingChannel]:
    with contextlib.closing(BlockingConnection(pika.URLParameters(place.rabbitmq.url))) as connection:
        yield connection.channel()


# The network.


@contextmanager
def poisoned(which: str, toxic: Toxic, place: Place, chance: random.Random) -> Iterator[None]:
    """What was left unsettled on the connections of that time is given back with them at the end, as RabbitMQ's own timeout would."""
    proxy: Proxy = place.to_postgres if which == "postgres" else place.to_rabbitmq
    proxy.set(toxic)
    yield
    proxy.heal()
    if toxic.swallow == "ack":
        proxy.cut()


@contextmanager
def cut(which: str, place: Place, chance: random.Random) -> Iterator[None]:
    (place.to_postgres if which == "postgres" else place.to_rabbitmq).cut()
    yield


@contextmanager
def blocked(place: Place, chance: random.Random) -> Iterator[None]:
    place.to_rabbitmq.block()
    yield
    place.to_rabbitmq.unblock()


# What stands beside.


@contextmanager
def redis_killed(place: Place, chance: random.Random) -> Iterator[None]:
    place.redis.kill()
    yield
    place.redis.start()


@contextmanager
def outside(mode: str, place: Place, chance: random.Random) -> Iterator[None]:
    place.switch_outside(mode, seconds=2)
    yield
    place.switch_outside("none")


SUPERVISED = "the process is gone or stopped: whoever supervises it sees that, none of the others misses it"
SLOW = "nothing fails, it only takes longer: haulier_request_seconds shows it"
_vm = "set_vm_memory_high_watermark"

FAULTS: Mapping[str, Fault] = {
    fault.name: fault
    for fault in (
        Fault("worker killed", "work", (1, 3), partial(killed, "work"), ("jobs taken back", "runner started")),
        Fault("relay killed", "relay", (1, 3), partial(killed, "relay"), SUPERVISED),
        Fault("intake killed", "serve", (1, 3), partial(killed, "serve"), ("the intake listens",)),
        Fault("upkeep killed", "upkeep", (1, 3), partial(killed, "upkeep"), SUPERVISED),
        Fault("all workers killed", "work", (6, 10), all_killed, ("jobs taken back", "runner started")),
        Fault("worker process killed", "work", (1, 2), unit_killed, ("worker process died",)),
        Fault("worker paused", "work", (7, 9), partial(paused, "work"), ("stood still",)),
        Fault("relay paused", "relay", (7, 9), partial(paused, "relay"), SUPERVISED),
        Fault("intake paused", "serve", (3, 6), partial(paused, "serve"), SUPERVISED),
        Fault("upkeep paused", "upkeep", (7, 9), partial(paused, "upkeep"), SUPERVISED),
        Fault("worker out of files", "work", (3, 5), out_of_files, POSTGRES_AWAY),
        Fault("worker stopped", "work", (1, 2), partial(stopped, "work"), ("runner stops",)),
        Fault("relay stopped", "relay", (1, 2), partial(stopped, "relay"), SUPERVISED),
        Fault("intake stopped", "serve", (1, 2), partial(stopped, "serve"), ("the intake listens",)),
        Fault("worker's clock +1 h", "work", (5, 8), partial(skewed, "work", "+1h"), "no clock but the database's counts, so nothing goes wrong"),
        Fault("intake's clock -1 h", "serve", (5, 8), partial(skewed, "serve", "-1h"), "no clock but the database's counts, so nothing goes wrong"),
        Fault("postgres backend killed", "postgres", (1, 2), backend_killed, POSTGRES_AWAY),
        Fault("postgres killed", "postgres", (1, 3), postgres_killed, POSTGRES_AWAY),
        Fault("postgres stopped", "postgres", (10, 10), postgres_stopped, POSTGRES_AWAY),
        Fault("flush fails", "postgres", (2, 3), flushes_failing, POSTGRES_AWAY),
        Fault("postgres backends terminated", "postgres", (1, 2), backends_terminated, POSTGRES_AWAY),
        Fault("table locked", "postgres", (4, 6), locked, POSTGRES_AWAY),
        Fault("connections limited", "postgres", (4, 6), limited, POSTGRES_AWAY),
        Fault("rabbitmq killed", "rabbitmq", (1, 3), rabbitmq_killed, RABBITMQ_AWAY),
        Fault("rabbitmq wiped", "rabbitmq", (1, 3), rabbitmq_wiped, ("has forgotten every message",)),
        Fault("memory alarm", "rabbitmq", (6, 12), partial(controlled, (_vm, "0"), (_vm, "0.4")), ("takes no messages",)),
        Fault(
            "disk alarm", "rabbitmq", (6, 12), partial(controlled, ("set_disk_free_limit", "999GB"), ("set_disk_free_limit", "50MB")),
            ("takes no messages",),
        ),
        Fault("rabbitmq connections closed", "rabbitmq", (1, 2), partial(controlled, ("close_all_connections", "chaos"), ()), RABBITMQ_AWAY),
        Fault("permissions revoked", "rabbitmq", (3, 6), revoked, RABBITMQ_AWAY),
        Fault("queue deleted", "rabbitmq", (2, 4), queue_deleted, (*RABBITMQ_AWAY, "announcing again")),
        Fault("deliveries doubled", "messages", (1, 2), doubled, "suppressed is not wrong: haulier_duplicates_suppressed_total counts them"),
        Fault("garbage messages", "messages", (1, 2), garbage, ("orphan message kept",)),
        Fault("postgres slow", "to postgres", (5, 10), partial(poisoned, "postgres", Toxic(latency=0.1, jitter=0.05)), SLOW),
        Fault("postgres silent", "to postgres", (5, 12), partial(poisoned, "postgres", Toxic(blackhole=True)), POSTGRES_AWAY),
        Fault("postgres unreachable", "to postgres", (3, 6), partial(poisoned, "postgres", Toxic(down=True)), POSTGRES_AWAY),
        Fault("postgres connections reset", "to postgres", (3, 6), partial(poisoned, "postgres", Toxic(reset=0.02)), POSTGRES_AWAY),
        Fault("postgres in slices", "to postgres", (3, 6), partial(poisoned, "postgres", Toxic(slices=100)), SLOW),
        Fault(
            "commit's answer lost", "to postgres", (4, 8), partial(poisoned, "postgres", Toxic(swallow="commit", chance=0.1)),
            (*POSTGRES_AWAY, "lease lost", "leases lost", "taken back"),
        ),
        Fault(
            "statement's answer lost", "to postgres", (4, 8), partial(poisoned, "postgres", Toxic(swallow="answer", chance=0.03)),
            (*POSTGRES_AWAY, "lease lost", "leases lost", "taken back"),
        ),
        Fault("rabbitmq slow", "to rabbitmq", (5, 10), partial(poisoned, "rabbitmq", Toxic(latency=0.2, jitter=0.1)), SLOW),
        Fault("rabbitmq silent", "to rabbitmq", (12, 16), partial(poisoned, "rabbitmq", Toxic(blackhole=True)), RABBITMQ_AWAY),
        Fault("rabbitmq unreachable", "to rabbitmq", (3, 6), partial(poisoned, "rabbitmq", Toxic(down=True)), RABBITMQ_AWAY),
        Fault("rabbitmq connections reset", "to rabbitmq", (3, 6), partial(poisoned, "rabbitmq", Toxic(reset=0.02)), RABBITMQ_AWAY),
        Fault("rabbitmq cut", "to rabbitmq", (1, 2), partial(cut, "rabbitmq"), RABBITMQ_AWAY),
        Fault("rabbitmq in slices", "to rabbitmq", (3, 6), partial(poisoned, "rabbitmq", Toxic(slices=50)), SLOW),
        Fault("confirms lost", "to rabbitmq", (6, 12), partial(poisoned, "rabbitmq", Toxic(swallow="confirm", chance=0.3)), ("not confirmed",)),
        Fault("confirms refused", "to rabbitmq", (4, 8), partial(poisoned, "rabbitmq", Toxic(refuse=True, chance=0.3)), ("not confirmed",)),
        Fault("acks lost", "to rabbitmq", (4, 8), partial(poisoned, "rabbitmq", Toxic(swallow="ack", chance=0.5)), RABBITMQ_AWAY),
        Fault("connection blocked", "to rabbitmq", (4, 8), blocked, ("takes no messages",)),
        Fault("redis killed", "redis", (3, 8), redis_killed, ("redis is away",)),
        Fault("outside away", "outside", (5, 10), partial(outside, "outage"), ("circuit opened",)),
        Fault("outside fails after it has done its part", "outside", (4, 8), partial(outside, "error_after"), ("circuit opened",)),
        Fault("outside too busy", "outside", (4, 8), partial(outside, "busy"), ("circuit opened",)),
        Fault("outside slow", "outside", (4, 8), partial(outside, "slow"), SLOW),
    )
}  # fmt: skip


def missing() -> dict[str, str]:
    """Faults that cannot be made on this machine, and why."""
    found: dict[str, str] = {}
    if faketime() is None:
        found |= {name: "there is no libfaketime (apt-get install faketime)" for name in FAULTS if "clock" in name}
    if shutil.which("strace") is None or os.geteuid() != 0:
        found["flush fails"] = "it takes strace (apt-get install strace) and root"
    return found
