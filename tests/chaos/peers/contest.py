"""One contender under one fault: a client submits numbered jobs at a steady rate, the fault comes meanwhile, and what took effect is counted in Postgres."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import psycopg

from benchmarks.contender import Place
from benchmarks.peers.safe import effects
from benchmarks.processes import ROOT
from benchmarks.servers import Servers, new_place
from tests.chaos.peers.contenders import Contender, Jobs, ready
from tests.chaos.place import eventually
from tests.chaos.proxy import Proxy

#: Seconds without an effect after which it is looked whether anything is left; that what is left is waited for; until the first job is done.
QUIET, BOUND, FIRST = 5.0, 90.0, 60.0


@dataclass(frozen=True)
class Scene:
    """Whatever a fault may break."""

    servers: Servers
    place: Place
    proxies: Sequence[Proxy]
    supervisor: threading.Lock

    def kill_workers(self) -> None:
        """All at once, and started again at once."""
        with self.supervisor:
            for role in [role for role in self.place.processes.pids() if role.startswith("work")]:
                self.place.processes.start_again(role)

    def kill_rabbitmq(self) -> None:
        self.servers.rabbitmq.kill()
        self.servers.rabbitmq.start()

    def kill_postgres(self) -> None:
        self.servers.postgres.kill()
        self.servers.postgres.start()

    def cut(self) -> None:
        for proxy in self.proxies:
            proxy.cut()


@dataclass(frozen=True)
class Fault:
    """`at`: when it comes, in shares of the load."""

    strike: Callable[[Scene], None]
    at: tuple[float, ...]


FAULTS: Mapping[str, Fault] = {
    "workers killed": Fault(Scene.kill_workers, (0.35, 0.65)),
    "RabbitMQ killed": Fault(Scene.kill_rabbitmq, (0.5,)),
    "Postgres killed": Fault(Scene.kill_postgres, (0.35, 0.65)),
    "connections cut": Fault(Scene.cut, (0.35, 0.5, 0.65)),
}


@dataclass(frozen=True)
class Result:
    """`lost`: accepted, no effect, and nowhere to be found. `stuck`: still there when the time was up, or held as failed. `doubled`: with more than one effect, of which the client
    had submitted `resubmitted` more than once, because a try had failed. `seconds`: from the last fault's end to the last effect.
    """

    contender: str
    fault: str
    accepted: int
    lost: int
    doubled: int
    resubmitted: int
    stuck: int
    seconds: float
    #: Accepted by nobody's account, and done all the same.
    unacknowledged: int

    def as_row(self) -> dict[str, Any]:
        return asdict(self)


def run(servers: Servers, name: str, contender: Contender, fault: str, jobs: int, rate: float) -> Result:
    with new_place(servers) as bare, contextlib.ExitStack() as stack:
        with psycopg.connect(bare.database_url) as database:
            database.execute(effects.TABLE)
        proxies = [stack.enter_context(contextlib.closing(Proxy(url))) for url in (bare.database_url, bare.broker_url)]
        place = replace(bare, database_url=proxies[0].url, broker_url=proxies[1].url)
        variables, more = stack.enter_context(ready(contender, place))
        scene = Scene(servers, place, [*proxies, *more], threading.Lock())
        client = stack.enter_context(new_client(contender, variables, place, jobs, rate))
        contender.start(place)
        stack.enter_context(supervised(scene))
        tell(client)
        eventually(lambda: took_effect(bare), FIRST, f"{name} does not work; see {place.logs}")
        healed = strike(scene, FAULTS[fault], client, jobs / rate)
        kept = contender.jobs(bare, servers.rabbitmq)
        wait_until_quiet(bare, kept)
        stop_work(scene)
        return count(name, fault, read_receipts(place), took_effect(bare), kept.numbers(), healed)


@contextlib.contextmanager
def new_client(contender: Contender, variables: Mapping[str, str], place: Place, jobs: int, rate: float) -> Iterator[subprocess.Popen[str]]:
    """Ready to begin."""
    command = [contender.python(), "-m", "benchmarks.peers.safe.client", contender.module, str(jobs), str(rate), str(receipts(place))]
    environment = {**os.environ, **variables}
    with (place.logs / "client.log").open("wb") as log:
        client = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True, bufsize=1
        )
    try:
        assert client.stdout
        if client.stdout.readline() != "ready\n":
            raise RuntimeError(f"the client ended with status {client.wait()}; see {place.logs}/client.log")
        yield client
    finally:
        client.kill()
        client.communicate()


def tell(client: subprocess.Popen[str]) -> None:
    assert client.stdin
    print("go", file=client.stdin, flush=True)


@contextlib.contextmanager
def supervised(scene: Scene) -> Iterator[None]:
    """Whatever ends by itself is started again, as a supervisor of processes does."""
    over = threading.Event()

    def look() -> None:
        while not over.wait(0.5):
            with scene.supervisor:
                for role in scene.place.processes.ended():
                    scene.place.processes.start_again(role)

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def strike(scene: Scene, fault: Fault, client: subprocess.Popen[str], seconds: float) -> float:
    """Returns when all is submitted, or given up: when the fault was over, in Unix seconds."""
    tell(client)
    began = time.monotonic()
    healed = time.time()
    for share in fault.at:
        time.sleep(max(0.0, began + share * seconds - time.monotonic()))
        fault.strike(scene)
        healed = time.time()
    client.wait()
    return healed


def stop_work(scene: Scene) -> None:
    with scene.supervisor:
        for role in list(scene.place.processes.pids()):
            scene.place.processes.kill(role)


def wait_until_quiet(place: Place, kept: Jobs) -> None:
    """Until nothing has happened for a while and nothing is left to do, or the time is up."""
    until = time.monotonic() + BOUND
    done, since = 0, time.monotonic()
    while time.monotonic() < until:
        now = sum(len(times) for times in took_effect(place).values())
        if now != done:
            done, since = now, time.monotonic()
        elif time.monotonic() - since > QUIET and kept.count() == 0:
            return
        time.sleep(1)


def receipts(place: Place) -> Path:
    return place.logs / "accepted.jsonl"


def read_receipts(place: Place) -> dict[int, int]:
    """By number: how often it was tried until it was accepted."""
    rows = [json.loads(line) for line in receipts(place).read_text().splitlines()]
    return {row["number"]: row["tries"] for row in rows}


def took_effect(place: Place) -> dict[int, list[float]]:
    """By number: when, in Unix seconds."""
    with psycopg.connect(place.database_url) as database:
        rows = database.execute("select number, array_agg(extract(epoch from at)::float8) from bench.effects group by 1")
        return dict(rows.fetchall())


def count(name: str, fault: str, accepted: Mapping[int, int], done: Mapping[int, Sequence[float]], kept: set[int], healed: float) -> Result:
    """`accepted`: number → tries. `done`: number → times. `kept`: numbers that are still there. Job 0 came before everything and does not count."""
    numbers = accepted.keys() - {0}
    missing = numbers - done.keys()
    doubled = {number for number, times in done.items() if number and len(times) > 1}
    last = max((time for times in done.values() for time in times), default=healed)
    return Result(
        contender=name,
        fault=fault,
        accepted=len(numbers),
        lost=len(missing - kept),
        doubled=len(doubled),
        resubmitted=sum(1 for number in doubled if accepted.get(number, 1) > 1),
        stuck=len(missing & kept),
        seconds=round(max(0.0, last - healed), 1),
        unacknowledged=len(done.keys() - numbers - {0}),
    )
