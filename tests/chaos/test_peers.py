"""The contest counts what it should: with numbers made up, and with jobs that are really thrown away or really done twice."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

import pika
import pytest
from dramatiq import Message
from pika.adapters.blocking_connection import BlockingChannel, BlockingConnection

from benchmarks.servers import Servers
from console.servers.find import rabbitmq_node
from console.servers.postgres import PostgresServer
from tests.chaos.peers import contest
from tests.chaos.peers.contenders import CONTENDERS, WEAK
from tests.chaos.peers.contest import FAULTS, Fault, Scene


@pytest.fixture(scope="module")
def servers() -> Iterator[Servers]:
    with PostgresServer() as postgres, rabbitmq_node(schedulers=1) as node:
        yield Servers(postgres, node)


def test_what_is_missing_is_lost_or_stuck_and_what_came_twice_is_told_with_its_reason() -> None:
    accepted = {0: 1, 1: 1, 2: 1, 3: 1, 4: 2, 5: 1}
    done = {0: [90.0, 90.1], 1: [99.0], 4: [101.0, 103.5], 5: [100.0, 102.0], 7: [100.5]}

    found = contest.count("somebody", "some fault", accepted, done, kept={3, 1}, healed=100.0)

    assert (found.accepted, found.lost, found.stuck) == (5, 1, 1)
    assert (found.doubled, found.resubmitted, found.unacknowledged) == (2, 1, 1)
    assert found.seconds == 3.5


def test_everybody_is_put_to_faults_that_there_are() -> None:
    for contender in (*CONTENDERS.values(), *WEAK.values()):
        assert set(contender.faults) <= set(FAULTS)
        assert {"workers killed", "connections cut"} <= set(contender.faults)


@pytest.mark.timeout(180)
def test_jobs_that_are_thrown_away_are_seen_as_lost_and_those_that_come_twice_as_doubled(
    servers: Servers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(FAULTS, "thrown away", Fault(throw_away, (0.3,)))
    monkeypatch.setitem(FAULTS, "repeated", Fault(repeat, (0.3,)))
    dramatiq = CONTENDERS["dramatiq, confirmed"]

    lossy = contest.run(servers, "dramatiq", dramatiq, "thrown away", 60, 40)
    twice = contest.run(servers, "dramatiq", dramatiq, "repeated", 60, 40)

    assert (lossy.accepted, lossy.stuck) == (60, 0)
    assert lossy.lost > 0
    assert (twice.accepted, twice.lost, twice.doubled, twice.stuck) == (60, 0, 1, 0)


def throw_away(scene: Scene) -> None:
    """Nobody works for as long as it takes some jobs to pile up, and these are gone."""
    with scene.supervisor:
        for role in ("work-1", "work-2"):
            scene.place.processes.kill(role)
        time.sleep(0.5)
        with channel(scene) as found:
            found.queue_purge("plain")
        CONTENDERS["dramatiq, confirmed"].start(scene.place)


def repeat(scene: Scene) -> None:
    """The first job's message comes once more."""
    with channel(scene) as found:
        found.basic_publish("", "plain", Message("plain", "take", (), {"number": 1}, {}).encode())


@contextlib.contextmanager
def channel(scene: Scene) -> Iterator[BlockingChannel]:
    with contextlib.closing(BlockingConnection(pika.URLParameters(scene.place.broker_url))) as connection:
        yield connection.channel()
