"""Processes that stop without dying, and wake up when others have done their work."""

from __future__ import annotations

import time
from uuid import UUID

import pytest

from tests.crash.rig import Rig, eventually
from tests.crash.verdict import all_succeeded_once, history_is_whole, nothing_is_left

LOST = {
    "count": "what this attempt wrote is rolled back",
    "chain": "what this attempt wrote is rolled back",
    "plain": "these results are dropped",
    "fail": "this attempt's end is not written",
}


@pytest.mark.parametrize("end", LOST)
def test_a_paused_worker_that_wakes_up_after_its_successor_finished_cannot_write(rig: Rig, end: str) -> None:
    rig.start("relay")
    rig.start("upkeep")
    paused = rig.start("work", threads=1)
    job = rig.write_waiting(end)
    eventually(lambda: rig.consumers() == 0, 10, "it still asks for more, though its only thread is taken")
    paused.pause()

    rig.start("work")
    rig.wait_for_arrival(job, 2)
    rig.sink.let_through(f"{job}/1", f"{job}/2", f"{job}/3", f"{job}/4")
    rig.wait_until_final([job])
    paused.go_on()
    paused.wait_for_log(LOST[end])
    eventually(lambda: paused.log.count("this process stood still") == 2, 10, "the runner and its worker process say it")

    assert rig.outcomes(job) == (["rescued", "failed", "failed", "died"] if end == "fail" else ["rescued", "succeeded"])
    assert rig.effects(job) == ([2] if end in ("count", "chain") else [])
    assert rig.value("select count(*) from haulier.jobs where parent_id = %s", job) == (1 if end == "chain" else 0)
    rig.wait_until_final([job])
    assert paused.stop() == 0
    nothing_is_left(rig)


@pytest.mark.parametrize("end", LOST)
def test_a_thread_that_wakes_up_while_the_next_attempt_runs_in_its_own_process_cannot_write(rig: Rig, end: str) -> None:
    """The worker is the same for both attempts: only the attempt's number tells them apart."""
    rig.start("relay")
    worker = rig.start("work", threads=2)
    job = rig.write_waiting(end, "crash.wait_briefly")
    rig.wait_for_arrival(job, 2)

    rig.sink.let_through(f"{job}/1")
    worker.wait_for_log(LOST[end])
    before = (rig.job(job)["attempt"], rig.effects(job))
    rig.sink.let_through(*(f"{job}/{attempt}" for attempt in (2, 3)))
    rig.wait_until_final([job])

    assert before == (2, [])
    assert rig.outcomes(job) == (["failed", "failed", "died"] if end == "fail" else ["failed", "succeeded"])
    assert rig.effects(job) == ([2] if end in ("count", "chain") else [])
    history_is_whole(rig, [job] if end != "fail" else [])


def test_a_frozen_relay_holds_nobody_up_while_another_one_goes_on(rig: Rig, capsys: pytest.CaptureFixture[str]) -> None:
    """It freezes with a claimed job in its hands: that one is announced again when the relay's lease has run out, all others go on at once."""
    rig.start("work")
    frozen = rig.start("relay", "relay.after_claim:stop")
    held = rig.write("crash.count", {"n": 0})
    eventually(lambda: rig.value("select count(*) from haulier.outbox where announced_at is not null") == 1, 20, rig.logs)
    began = time.monotonic()

    rig.start("relay")
    others = [rig.write("crash.count", {"n": n}) for n in range(10)]
    rig.wait_until_final(others, 15)
    others_took = time.monotonic() - began
    rig.wait_until_final([held], 20)
    held_took = time.monotonic() - began
    frozen.go_on()
    after = rig.write("crash.count", {"n": 0})
    rig.wait_until_final([after])

    with capsys.disabled():
        print(
            f"\nfrozen relay: the others took {others_took:.1f} s (start of the second relay included), the one it held {held_took:.1f} s"
        )
    assert held_took < 20
    assert frozen.code is None
    all_succeeded_once(rig, [held, *others, after])


def test_a_frozen_upkeep_holds_nobody_up_while_another_one_goes_on(rig: Rig, capsys: pytest.CaptureFixture[str]) -> None:
    """It freezes inside its transaction, with upkeep's lock and the leases' rows in its hands: Postgres ends that after six seconds."""
    rig.start("relay")
    frozen = rig.start("upkeep", "upkeep.after_rescue:stop")
    dead = rig.start("work")
    jobs = [rig.write_waiting() for _ in range(2)]
    let_through_next(rig, jobs)
    rig.start("upkeep")
    dead.kill()
    began = time.monotonic()

    rig.start("work")
    rig.wait_until_final(jobs, 40)
    took = time.monotonic() - began
    frozen.go_on()
    frozen.wait_for_log("upkeep reaches the database again")

    with capsys.disabled():
        print(f"\nfrozen upkeep: jobs of a killed worker were done after {took:.1f} s")
    assert took < 20
    assert frozen.code is None
    all_succeeded_once(rig, jobs)


def let_through_next(rig: Rig, jobs: list[UUID]) -> None:
    """Whatever attempt follows the first."""
    rig.sink.let_through(*(f"{job}/{attempt}" for job in jobs for attempt in range(2, 9)))
