"""SIGTERM: take nothing new, let what runs finish or hand it back, leave with status 0."""

from __future__ import annotations

import time

from tests.crash.rig import Rig, eventually
from tests.crash.verdict import all_succeeded_once
from tests.faults.test_frozen import let_through_next


def test_what_runs_may_finish_and_what_waits_is_left_to_others(rig: Rig) -> None:
    rig.start("relay")
    worker = rig.start("work", threads=2)
    running = [rig.write_waiting() for _ in range(2)]
    waiting = [rig.write("crash.count", {"n": n}) for n in range(8)]

    worker.begin_to_stop()
    worker.wait_for_log("worker stops; what runs may finish")
    rig.sink.let_through()
    code = worker.stop()

    assert code == 0
    assert [rig.outcomes(job) for job in running] == [["succeeded"], ["succeeded"]]
    assert all(rig.job(job)["attempt"] == 0 for job in waiting)
    rig.start("work")
    rig.wait_until_final(waiting)
    all_succeeded_once(rig, [*running, *waiting])


def test_what_does_not_finish_in_time_is_handed_back_and_runs_elsewhere_unblamed(rig: Rig) -> None:
    rig.start("relay")
    worker = rig.start("work", threads=2, drain=1)
    jobs = [rig.write_waiting() for _ in range(2)]
    let_through_next(rig, jobs)

    began = time.monotonic()
    code = worker.stop()
    took = time.monotonic() - began
    rig.start("work")
    rig.wait_until_final(jobs)

    assert (code, took < 8) == (0, True)
    assert [rig.outcomes(job) for job in jobs] == [["interrupted", "succeeded"]] * 2
    all_succeeded_once(rig, jobs)


def test_nothing_is_lost_when_workers_come_and_go_under_load(rig: Rig) -> None:
    rig.start("relay")
    worker = rig.start("work")
    codes: list[int] = []
    jobs = [rig.write(command, {"n": n}) for n in range(40) for command in ("crash.count", "crash.plain", "crash.chain")]

    for share in (20, 60):
        eventually(lambda share=share: rig.value("select count(*) from haulier.jobs where state = 'succeeded'") >= share, 30, rig.describe)
        successor = rig.start("work")
        codes.append(worker.stop())
        worker = successor
    rig.wait_until_final(jobs)

    assert codes == [0, 0]
    all_succeeded_once(rig, jobs)
