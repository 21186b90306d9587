"""Handlers that go on for longer than their command allows."""

from __future__ import annotations

from tests.crash.rig import Rig, eventually
from tests.crash.verdict import all_succeeded_once, nothing_is_left


def test_a_sleeping_handler_is_ended_at_its_limit(rig: Rig) -> None:
    rig.start("relay")
    worker = rig.start("work")
    job = rig.write("crash.sleep", {"seconds": 4})

    rig.wait_until_final([job])

    ended_as_timed_out(rig, job)
    assert rig.value("select extract(epoch from finished_at - started_at)::float8 from haulier.jobs where id = %s", job) < 3
    worker.wait_for_log("these results are dropped")  # its thread has come back, and found its lease gone
    rig.wait_until_final([rig.write("crash.count", {"n": 1})])
    assert "worker process died" not in worker.log
    nothing_is_left(rig)


def test_a_handler_that_sleeps_in_postgres_is_woken_at_its_limit(rig: Rig) -> None:
    rig.start("relay")
    worker = rig.start("work", threads=1)
    job = rig.write("crash.sleep", {"seconds": 60, "where": "postgres"})

    rig.wait_until_final([job])
    following = rig.write("crash.count", {"n": 1})
    rig.wait_until_final([following], 10)

    ended_as_timed_out(rig, job)
    assert "worker process died" not in worker.log
    all_succeeded_once(rig, [following])


def test_a_handler_that_never_lets_go_has_its_process_replaced(rig: Rig) -> None:
    rig.start("relay")
    worker = rig.start("work", threads=1)
    job = rig.write("crash.spin", {})
    eventually(lambda: rig.job(job)["state"] == "running", 20, rig.logs)
    (before,) = worker.units()

    rig.wait_until_final([job])
    following = rig.write("crash.count", {"n": 1})
    rig.wait_until_final([following])

    ended_as_timed_out(rig, job)
    assert not before.is_running()
    assert "worker process died" not in worker.log
    all_succeeded_once(rig, [following])


def test_a_suspect_that_runs_alone_is_ended_at_its_limit_too(rig: Rig) -> None:
    rig.start("relay")
    rig.start("upkeep")
    job = rig.write("crash.sleep", {"seconds": 60})
    rig.announce((job, 1))
    killed = rig.start("work")
    eventually(lambda: rig.job(job)["state"] == "running", 20, rig.logs)
    killed.kill()

    rig.start("work")
    rig.wait_until_final([job], 40)

    assert rig.outcomes(job) == ["rescued", "died"]
    ended_as_timed_out(rig, job)


def ended_as_timed_out(rig: Rig, job: object) -> None:
    found = rig.job(job)  # pyright: ignore[reportArgumentType]
    assert (found["state"], found["reason"], found["failures"], found["error"]["code"]) == ("dead", "timeout", 1, "timeout")
