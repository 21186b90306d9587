"""Every failpoint there is, reached for the first and for the second time, kills its process with SIGKILL while twenty jobs go through."""

from __future__ import annotations

import signal
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from uuid import UUID

import pytest

from config.failpoints import FAILPOINTS
from tests.crash.rig import Part, Rig, eventually
from tests.crash.verdict import all_succeeded_once, no_message_was_lost

#: Process by the failpoint's first word. A failpoint with another one fails here: nobody would reach it.
ROLES = {"intake": "intake", "relay": "relay", "worker": "work", "upkeep": "upkeep"}
CASES = [(failpoint, ROLES[failpoint.partition(".")[0]], hit) for failpoint in FAILPOINTS for hit in (1, 2)]
JOBS = ["crash.call"] * 6 + ["crash.count"] * 6 + ["crash.plain"] * 5 + ["crash.chain"] * 3


@pytest.mark.parametrize(("failpoint", "role", "hit"), [case for case in CASES if case[1] in ("intake", "work")])
def test_a_process_killed_here_loses_nothing_and_doubles_nothing(rig: Rig, failpoint: str, role: str, hit: int) -> None:
    victim = rig.replace(role, f"{failpoint}:kill@{hit}")

    ids = submit_all(rig)
    rig.wait_until_final(ids)

    assert was_killed(victim), f"{failpoint} was not reached {hit} times:\n{victim.log[-2000:]}"
    all_succeeded_once(rig, ids)
    no_message_was_lost(rig)


@pytest.mark.parametrize(("failpoint", "role", "hit"), [case for case in CASES if case[1] == "upkeep"])
def test_an_upkeep_killed_here_loses_nothing_and_doubles_nothing(rig: Rig, failpoint: str, role: str, hit: int) -> None:
    victim = rig.replace(role, f"{failpoint}:kill@{hit}")

    ids = [crash_workers_at_work(rig, victim) for _ in range(hit)]
    ids += submit_all(rig)
    rig.wait_until_final(ids)

    assert was_killed(victim), f"{failpoint} was not reached {hit} times:\n{victim.log[-2000:]}"
    all_succeeded_once(rig, ids)


@pytest.mark.timeout(180)
def test_a_relay_killed_anywhere_loses_nothing_and_doubles_nothing(rig: Rig) -> None:
    """One test for all of its failpoints: what a killed relay had claimed and not published is announced again only half a minute later."""
    cases = [(failpoint, hit) for failpoint, role, hit in CASES if role == "relay"]

    ids: list[UUID] = []
    for failpoint, hit in cases:
        victim = rig.replace("relay", f"{failpoint}:kill@{hit}")
        ids += submit_all(rig, until=lambda victim=victim: was_killed(victim))
        eventually(lambda victim=victim: was_killed(victim), 20, f"{failpoint} was not reached {hit} times")
        rig.tend()
    rig.wait_until_final(ids, 60)

    assert len(cases) == 6
    all_succeeded_once(rig, ids)


def submit_all(rig: Rig, until: Callable[[], bool] = lambda: False) -> list[UUID]:
    """The first one alone, to its end (or `until`), so that every step is taken twice at least; the others together."""
    first = rig.submit(JOBS[0], {"n": 0})
    eventually(lambda: until() or rig.is_final(first), 40, rig.describe)
    with ThreadPoolExecutor(4) as clients:
        return [first, *clients.map(lambda n: rig.submit(JOBS[n], {"n": n}), range(1, len(JOBS)))]


def crash_workers_at_work(rig: Rig, upkeep: Part) -> UUID:
    """Kill a worker, its runner too, so that only upkeep can rescue what it held. Returns when the job has ended, or upkeep has died of it."""
    job = rig.submit("crash.wait", {})
    eventually(lambda: f"{job}/1" in rig.sink.arrived, 20, rig.logs)
    rig.sink.let_through(*(f"{job}/{attempt}" for attempt in range(1, 9)))
    rig.crash("work")
    eventually(lambda: upkeep.code is not None or rig.job(job)["finished_at"], 20, rig.logs)
    return job


def was_killed(victim: Part) -> bool:
    """A runner survives the worker process that the failpoint killed, and tells of it."""
    return f"code={-signal.SIGKILL}" in victim.log if victim.role == "work" else victim.code == -signal.SIGKILL
