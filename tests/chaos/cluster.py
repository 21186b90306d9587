"""`python -m tests.chaos.cluster`: three nodes of RabbitMQ on this machine, killed, stopped, cut off and frozen while jobs go through. Four minutes.

A partition is made with Erlang's own means: the node to be cut off is given a wrong cookie for its peers, so that neither side lets the other in
until it is told the right one again. (RabbitMQ's own tests swap the distribution's carrier for that, which Debian's package does not have; blocking
ports takes root.) A peer that says nothing, instead of one that is gone, is a node that is stopped for longer than `net_ticktime`.
"""

from __future__ import annotations

import os
import secrets
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import ClassVar

import psutil

from config.transport import topology
from console.servers.postgres import PostgresServer
from console.servers.process import PrivateServer, free_port
from console.servers.rabbitmq import RabbitmqNode
from ledger.migrate import migrate
from tests.chaos.front import Front
from tests.chaos.steady import Load
from tests.crash.commands import QUEUE
from tests.crash.rig import Rig, eventually
from tests.crash.verdict import all_succeeded_once

#: Seconds after which a peer that says nothing is taken for gone.
TICK = 10


class Epmd(PrivateServer):
    """Erlang's name service, which outlives the nodes that are killed."""

    name: ClassVar[str] = "epmd"
    programs: ClassVar[frozenset[str]] = frozenset({"epmd"})

    @property
    def url(self) -> str:
        return f"tcp://127.0.0.1:{self.port}"

    def answers(self) -> bool:
        socket.create_connection(("127.0.0.1", self.port), timeout=5).close()
        return True

    def _launch(self) -> None:
        self.data.mkdir(exist_ok=True)
        self._spawn(["epmd", "-port", str(self.port), "-address", "127.0.0.1"], {"PATH": os.environ.get("PATH", os.defpath)})


class Member(RabbitmqNode):
    """One of three; all have one cookie and one user."""

    def __init__(self, number: int, epmd: Epmd, shared: dict[str, str]) -> None:
        super().__init__(schedulers=1)
        self.node = f"c{number}@localhost"
        self._epmd_port = epmd.port
        self.directory.mkdir(mode=0o700)
        for name, value in shared.items():
            (self.directory / name).write_text(value)
            (self.directory / name).chmod(0o400)

    def freeze(self) -> None:
        psutil.Process(self.pid).suspend()

    def thaw(self) -> None:
        psutil.Process(self.pid).resume()

    def cut_off_from(self, others: Sequence[Member]) -> None:
        wrong = [f"erlang:set_cookie('{other.node}', wrong), erlang:disconnect_node('{other.node}')" for other in others]
        assert self.evaluate(", ".join([*wrong, "ok."]))

    def reunite_with(self, others: Sequence[Member]) -> None:
        right = [f"erlang:set_cookie('{other.node}', erlang:get_cookie())" for other in others]
        assert self.evaluate(", ".join([*right, "ok."]))

    def _launch(self) -> None:
        self.data.mkdir(mode=0o700, exist_ok=True)
        self._write_files()
        self._spawn([str(self._sbin / "rabbitmq-server")], self._environment())

    def _write_files(self) -> None:
        super()._write_files()
        peers = "".join(f"cluster_formation.classic_config.nodes.{number} = c{number}@localhost\n" for number in (1, 2, 3))
        with (self.directory / "rabbitmq.conf").open("a") as settings:
            settings.write(
                f"cluster_formation.peer_discovery_backend = classic_config\n{peers}"
                f"cluster_partition_handling = pause_minority\nnet_ticktime = {TICK}\n"
            )


@contextmanager
def cluster() -> Iterator[list[Member]]:
    with ExitStack() as stack:
        epmd = stack.enter_context(Epmd(port=free_port()))
        shared = {".erlang.cookie": secrets.token_hex(16), "password": secrets.token_hex(16)}
        members = [Member(number, epmd, shared) for number in (1, 2, 3)]
        for member in members:
            stack.callback(member.close)
        start_all(members)
        yield members


def start_all(members: Sequence[Member]) -> None:
    """Side by side: they wait for each other."""
    with ThreadPoolExecutor(len(members)) as hands:
        list(hands.map(Member.start, members))


def leader(members: Sequence[Member], asked: Member) -> Member:
    """Of the queue that the jobs' messages are in."""
    rows = [row.split("\t") for row in asked.ctl("list_queues", "name", "leader").splitlines()]
    (node,) = [row[1] for row in rows if row[0] == topology.wire_name(QUEUE)]
    return next(member for member in members if member.node == node)


def main() -> int:
    with ExitStack() as stack:
        postgres = stack.enter_context(PostgresServer())
        migrate(postgres.url)
        began = time.monotonic()
        members = stack.enter_context(cluster())
        print(f"three nodes up after {time.monotonic() - began:.0f} s", flush=True)
        front = Front(members[0].url, [member.port for member in members])
        stack.callback(front.close)
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="haulier-cluster-")))
        rig = stack.enter_context(Rig(postgres.url, front.url, directory, tick=0.5, lease=8.0, heartbeat=2.0, threads=4))
        rig.start_all()
        with Load(rig) as load:
            eventually(lambda: len(load.ids) > 20, 60, rig.describe)
            for fault in FAULTS:
                tell(load, fault, members)
        eventually(lambda: rig.wait_until_final(load.ids, 5) or True, 120, rig.describe)
        all_succeeded_once(rig, load.ids)
        row = rig.rows("select count(*), count(*) filter (where attempt > 1 and command <> 'crash.snooze') from haulier.jobs")[0]
        print(f"{len(load.ids)} jobs accepted, {row[0]} with their follow-ups, {row[1]} begun again: lost 0, done twice 0")
    return 0


def tell(load: Load, fault: Callable[[list[Member]], None], members: list[Member]) -> None:
    began = time.time()
    fault(members)
    before = len(load.ids)
    print(
        f"{(fault.__doc__ or '').strip()}: longest pause between ends of jobs {load.longest_pause(began):.1f} s; {before} accepted",
        flush=True,
    )


def nothing(_members: list[Member]) -> None:
    """nothing happens"""
    time.sleep(5)


def kill_the_leader(members: list[Member]) -> None:
    """the leader is killed, and comes back after 8 s"""
    victim = leader(members, members[0])
    victim.kill()
    time.sleep(8)
    victim.start()


def lose_a_minority(members: list[Member]) -> None:
    """one that follows is stopped in order, and comes back after 8 s"""
    led = leader(members, members[0])
    victim = next(member for member in members if member is not led)
    victim.stop()
    time.sleep(8)
    victim.start()


def lose_the_majority(members: list[Member]) -> None:
    """two of three are killed, and come back after 10 s"""
    for victim in members[:2]:
        victim.kill()
    time.sleep(10)
    start_all(members[:2])
    time.sleep(5)


def partition(members: list[Member]) -> None:
    """the leader is cut off from the others for 15 s"""
    led = leader(members, members[0])
    others = [member for member in members if member is not led]
    led.cut_off_from(others)
    time.sleep(15)
    led.reunite_with(others)
    eventually(lambda: answers(led), 60, "it did not come back from its pause")
    time.sleep(5)


def freeze_the_leader(members: list[Member]) -> None:
    """the leader is frozen for twice the time after which its peers give it up"""
    led = leader(members, members[0])
    led.freeze()
    time.sleep(2 * TICK)
    led.thaw()
    eventually(lambda: answers(led), 60, "it did not come back from its pause")
    time.sleep(5)


def answers(member: Member) -> bool:
    try:
        return member.answers()
    except OSError:
        return False


FAULTS = (nothing, kill_the_leader, lose_a_minority, lose_the_majority, partition, freeze_the_leader)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    sys.exit(main())
