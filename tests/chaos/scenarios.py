"""F1 to F46: every systemic fault that anybody thought of, each as one small scenario. `python -m tests.chaos scenarios [F5 F17 …]`.

A scenario is shown by tests that are there, by a fault of `tests.chaos.faults` under load with the checker behind it, or by a command of its own;
what cannot be shown here says why.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.chaos import soak
from tests.chaos.faults import FAULTS, missing
from tests.chaos.soak import Options, Planned

#: Seconds: between two faults under load; of load before the first.
GAP, LEAD = 3.0, 4.0


@dataclass(frozen=True)
class Scenario:
    """`tests`: what pytest runs. `faults`: names in `tests.chaos.faults`. `by`: a command that shows it, run by itself. `absent`: why it is not shown."""

    what: str
    tests: tuple[str, ...] = ()
    faults: tuple[str, ...] = ()
    by: str = ""
    absent: str = ""


SCENARIOS: Mapping[str, Scenario] = {
    "F1": Scenario("a worker is killed", faults=("worker killed", "worker process killed")),
    "F2": Scenario("all workers are killed and come back later", faults=("all workers killed",)),
    "F3": Scenario("a Postgres backend is killed", faults=("postgres backend killed",)),
    "F4": Scenario("the postmaster is killed", faults=("postgres killed",)),
    "F5": Scenario(
        "Postgres is down",
        ("tests/intake/test_outage.py::test_a_ledger_that_is_down_is_a_503_within_the_deadline_and_nothing_was_accepted",),
        ("postgres stopped",),
    ),
    "F6": Scenario("the answer to a COMMIT is lost", faults=("commit's answer lost", "statement's answer lost")),
    "F7": Scenario("the disk of the WAL is full", by="python -m tests.chaos.disk"),
    "F8": Scenario("the disk of the tables is full", by="python -m tests.chaos.disk"),
    "F9": Scenario("fsync fails", faults=("flush fails",)),
    "F10": Scenario("connections run out", faults=("connections limited",)),
    "F11": Scenario("a table is locked; statements deadlock", ("tests/workers/test_together.py",), ("table locked",)),
    "F12": Scenario("a standby is promoted", by="python -m tests.chaos.standby"),
    "F13": Scenario(
        "Postgres comes back from an old backup",
        (
            "tests/faults/test_servers.py::test_a_ledger_restored_from_before_its_messages_runs_nothing_wrong_and_keeps_what_it_does_not_know",
        ),
    ),
    "F14": Scenario("RabbitMQ is killed", faults=("rabbitmq killed",)),
    "F15": Scenario("a minority of RabbitMQ's nodes is cut off", by="python -m tests.chaos.cluster"),
    "F16": Scenario("a majority of RabbitMQ's nodes is gone and comes back", by="python -m tests.chaos.cluster"),
    "F17": Scenario("RabbitMQ loses all of its data", faults=("rabbitmq wiped",)),
    "F18": Scenario("RabbitMQ is short of memory", faults=("memory alarm", "connection blocked")),
    "F19": Scenario("RabbitMQ is short of disk", faults=("disk alarm",)),
    "F20": Scenario(
        "a confirm is lost, refused, or of no worth",
        ("tests/transport/test_rabbitmq_transport.py::test_a_message_without_a_queue_is_returned_and_the_queue_declared_again",),
        ("confirms lost", "confirms refused", "queue deleted"),
    ),
    "F21": Scenario("a consumer's acknowledgement is lost, a channel closed", faults=("acks lost", "rabbitmq cut")),
    "F22": Scenario("an operator closes connections or revokes permissions", faults=("rabbitmq connections closed", "permissions revoked")),
    "F23": Scenario(
        "a queue has other arguments",
        (
            "tests/transport/test_rabbitmq_worker.py::test_a_worker_names_the_queue_that_has_other_arguments_and_works_on_it",
            "tests/transport/test_rabbitmq_transport.py::test_check_names_what_is_missing_and_what_differs_and_creates_nothing",
        ),
    ),
    "F24": Scenario("the network is slow, cuts and slices", faults=("postgres slow", "postgres connections reset", "postgres in slices")),
    "F25": Scenario("the network swallows everything", faults=("postgres silent", "rabbitmq silent", "outside slow")),
    "F26": Scenario("names resolve to nothing, late or elsewhere", ("tests/webhooks/test_address.py",)),
    "F27": Scenario("every delivery comes five times", faults=("deliveries doubled",)),
    "F28": Scenario(
        "deliveries come out of order",
        ("tests/faults/test_deliveries.py::test_a_delivery_that_comes_too_early_or_too_late_does_nothing",),
    ),
    "F29": Scenario("a clock is an hour off", faults=("worker's clock +1 h", "intake's clock -1 h")),
    "F30": Scenario("a worker is taken for dead and wakes up", ("tests/faults/test_frozen.py",), ("worker paused",)),
    "F31": Scenario(
        "RabbitMQ's consumer timeout", absent="a delivery is acknowledged once its lease is taken, so none is held for as long as its job runs"
    ),
    "F32": Scenario(
        "one process hoards what others could do",
        ("tests/transport/test_worker_brokers.py::test_beside_a_slow_set_everything_goes_to_the_process_that_idles",),
    ),
    "F33": Scenario("a job always fails", ("tests/workers/test_executor.py::test_the_last_failure_makes_a_dead_letter_and_its_follow_up",)),
    "F34": Scenario("a job kills its process", ("tests/faults/test_poison.py",)),
    "F35": Scenario(
        "messages that nobody can read", ("tests/faults/test_deliveries.py::test_malformed_messages_stop_nothing_and_are_kept_as_orphans",),
        ("garbage messages",),
    ),
    "F36": Scenario("hostile payloads", ("tests/intake/test_hostile.py", "tests/intake/test_strict_json.py")),
    "F37": Scenario(
        "two releases at once",
        ("tests/workers/test_executor.py::test_a_worker_leaves_a_version_that_it_does_not_know_to_one_that_does",),
        by="python -m tests.chaos.rolling",
    ),
    "F38": Scenario("five relays", ("tests/relay/test_relay.py::test_five_relays_announce_each_job_once",)),
    "F39": Scenario(
        "two leaders", ("tests/faults/test_frozen.py::test_a_frozen_upkeep_holds_nobody_up_while_another_one_goes_on",), ("upkeep paused",)
    ),
    "F40": Scenario("processes are stopped in order under load", ("tests/faults/test_drain.py",), ("worker stopped", "intake stopped", "relay stopped")),
    "F41": Scenario(
        "services outside fail", ("tests/orders/test_breaker.py",),
        ("outside away", "outside fails after it has done its part", "outside too busy"),
    ),
    "F42": Scenario("three times the load, and an outage", by="python -m tests.chaos.overload"),
    "F43": Scenario("one tenant submits ten thousand", ("tests/intake/test_limits.py",)),
    "F44": Scenario("receivers of webhooks misbehave", ("tests/webhooks/test_delivering.py",)),
    "F45": Scenario("a worker runs out of files", faults=("worker out of files",)),
    "F46": Scenario("hints are lost", ("tests/following/test_streams.py::test_a_lost_hint_costs_a_moment_and_a_leaving_process_ends_its_streams",)),
}  # fmt: skip


def play(names: Sequence[str], directory: Path) -> int:
    """Tests first, then every fault once under load. Exit status 0 if all of it holds."""
    chosen = {name: SCENARIOS[name] for name in names or SCENARIOS}
    status = _run_tests(sorted({test for scenario in chosen.values() for test in scenario.tests}))
    status |= _run_faults([fault for scenario in chosen.values() for fault in scenario.faults], directory)
    for name, scenario in chosen.items():
        print(f"{name}: {scenario.what}: {_how(scenario)}")
    return status


def _how(scenario: Scenario) -> str:
    without = [f"{name} is missing: {missing()[name]}" for name in scenario.faults if name in missing()]
    shown = [*scenario.tests, *(f"under load: {name}" for name in scenario.faults if name not in missing()), *without]
    if scenario.by:
        shown.append(f"by {scenario.by}")
    return f"not shown; {scenario.absent}" if scenario.absent else ", ".join(shown)


def _run_tests(tests: Sequence[str]) -> int:
    if not tests:
        return 0
    # What lies in a file that is run as a whole is not run twice.
    wanted = [test for test in tests if "::" not in test or test.partition("::")[0] not in tests]
    return subprocess.run([sys.executable, "-m", "pytest", "-q", *wanted], check=False).returncode


def _run_faults(names: Sequence[str], directory: Path) -> int:
    names = [name for name in dict.fromkeys(names) if name not in missing()]
    if not names:
        return 0
    at, schedule = LEAD, list[Planned]()
    for name in names:
        seconds = FAULTS[name].seconds[0]
        schedule.append(Planned(at, name, seconds))
        at += seconds + GAP
    options = Options(seed=int(time.time()) % 10_000, minutes=(at + GAP) / 60, rate=25, threads=8, only=tuple(names))
    return 0 if soak.run(directory, options, schedule).valid else 1
