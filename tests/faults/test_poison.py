"""Jobs that take their process down, and those that stood beside them."""

from __future__ import annotations

from uuid import UUID

import pytest

from tests.crash.rig import Rig, eventually
from tests.crash.verdict import all_succeeded_once


@pytest.mark.parametrize("how", ["signal", "segfault"])
def test_a_job_that_kills_its_process_ends_dead_and_its_neighbours_succeed_unblamed(rig: Rig, how: str) -> None:
    """All of them came in one message: some had ended when the process died, some had not begun to run."""
    rig.start("upkeep")
    neighbours = [
        rig.write(command, {"n": n})
        for n, command in enumerate(("crash.plain", "crash.count", "crash.plain", "crash.count", "crash.plain"))
    ]
    killer = rig.write("crash.kill", {"how": how})

    run_to_the_end(rig, killer, [*neighbours[:3], killer, *neighbours[3:]])

    assert rig.outcomes(killer) == ["rescued", "failed", "died"]
    assert rig.rows("select job_id, reason, code from haulier.dead_letters") == [(killer, "crashed", "crashed")]
    all_succeeded_once(rig, neighbours)


def test_one_of_many_that_kills_their_process_ends_dead_and_the_others_succeed_unblamed(rig: Rig) -> None:
    """Nobody knows which of them it was: all of them run alone next."""
    rig.start("upkeep")
    neighbours = [rig.write("crash.many", {"n": n}) for n in range(4)]
    killer = rig.write("crash.many", {"n": -1})

    run_to_the_end(rig, killer, [*neighbours, killer])

    assert [rig.outcomes(job) for job in neighbours] == [["rescued", "succeeded"]] * 4
    all_succeeded_once(rig, neighbours)


def run_to_the_end(rig: Rig, killer: UUID, jobs: list[UUID]) -> None:
    """All of them in one message, one of which takes its process down whenever it runs."""
    rig.announce(*((job, 1) for job in jobs))
    rig.start("work", threads=1)
    eventually(lambda: rig.outcomes(killer), 20, rig.describe)
    rig.start("relay")
    rig.wait_until_final(jobs, 60)

    found = rig.job(killer)
    assert (found["state"], found["reason"], found["failures"], found["error"]["code"]) == ("dead", "crashed", 2, "crashed")


def test_a_worker_goes_on_while_jobs_that_kill_their_process_come_again_and_again(rig: Rig) -> None:
    rig.start("relay")
    rig.start("upkeep")
    worker = rig.start("work", processes=2)
    killers = [rig.write("crash.kill", {"how": "signal"}) for _ in range(2)]
    neighbours = [rig.write("crash.count", {"n": n}) for n in range(20)]

    rig.wait_until_final([*killers, *neighbours], 90)

    assert worker.code is None
    assert [rig.job(killer)["reason"] for killer in killers] == ["crashed", "crashed"]
    all_succeeded_once(rig, neighbours)
