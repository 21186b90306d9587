"""A short walk of the machine at each run of the tests, the same each time (`python -m tests.simulation` walks on), and ways that were once wrong."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from console.servers.postgres import PostgresServer
from tests.servers import TEMPLATE, make_template
from tests.simulation.machine import QUICK, Machine, machine_on

SHORT = settings(
    max_examples=8,
    stateful_step_count=25,
    deadline=None,
    derandomize=True,
    phases=[Phase.generate],  # shrinking takes minutes; `python -m tests.simulation` does it
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    with PostgresServer(settings=QUICK) as started:
        make_template(started)
        yield started


@pytest.fixture
def machine(server: PostgresServer) -> Iterator[Machine]:
    made = Machine(server, TEMPLATE)
    yield made
    made.the_ledger_is_as_the_model_says()
    made.teardown()


@pytest.mark.timeout(180)
def test_whatever_happens_in_whatever_order_every_promise_is_kept(server: PostgresServer):
    run_state_machine_as_test(machine_on(server, TEMPLATE), settings=SHORT)


def begin_all(machine: Machine, worker: int) -> None:
    machine.announce(lost=False)
    machine.deliver(0, 4, worker, stays=False, way="begins")


def test_a_zombie_that_wakes_after_its_job_was_rescued_buried_and_replayed_writes_nothing(machine: Machine):
    machine.submit(1, 0.0, mortal=False, key=None, twice=False)
    begin_all(machine, 0)
    machine.rescue(silent=0)
    begin_all(machine, 1)
    machine.end(1, "buried", keeps=True)
    machine.replay(0)
    for way in ("completes", "plain", "with a follow-up"):
        machine.succeed(0, way, keeps=True)
    machine.end(0, "rejected", keeps=True)
    begin_all(machine, 0)
    machine.succeed(0, "completes", keeps=True)
    machine.succeed(2, "completes", keeps=False)


def test_a_ledger_older_than_its_broker_runs_nothing_wrong_and_keeps_what_it_does_not_know(machine: Machine):
    machine.submit(2, 0.0, mortal=False, key=0, twice=False)
    begin_all(machine, 0)
    machine.back_up()
    machine.submit(2, 0.0, mortal=False, key=1, twice=True)
    machine.announce(lost=False)
    machine.succeed(0, "completes", keeps=True)
    machine.restore()
    machine.succeed(0, "completes", keeps=False)
    machine.deliver(0, 2, 1, stays=True, way="begins")
    assert machine.orphans > 0
    machine.submit(2, 0.0, mortal=False, key=1, twice=False)


def test_a_begin_of_unknown_outcome_is_found_and_one_of_a_dead_process_rescued(machine: Machine):
    machine.submit(4, 0.0, mortal=False, key=None, twice=False)
    machine.announce(lost=False)
    machine.deliver(0, 2, 0, stays=True, way="answer lost")
    machine.deliver(0, 4, 1, stays=True, way="dies after")
    machine.deliver(0, 4, 1, stays=True, way="begins")
    machine.crash(1, seen=False, ran=0)
    machine.rescue(silent=2)
    machine.succeed_together(0, 2)
