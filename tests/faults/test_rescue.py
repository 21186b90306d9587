"""Workers that die with their jobs, at the settings that people run."""

from __future__ import annotations

import signal
from typing import Any

import pytest

from tests.crash.rig import Rig
from tests.crash.verdict import all_succeeded_once
from tests.faults.test_frozen import let_through_next

DEFAULTS: dict[str, Any] = {"heartbeat": 2, "lease": 8, "tick": 1}

SECONDS = "select max(extract(epoch from started_at - %s))::float8 from haulier.jobs where id = any(%s) and attempt = 2"


@pytest.mark.parametrize("victim", ["the worker and its runner", "the worker alone"])
def test_a_killed_workers_jobs_run_again_within_15_s_at_default_settings(rig: Rig, victim: str, capsys: pytest.CaptureFixture[str]) -> None:
    rig.start("relay", **DEFAULTS)
    rig.start("upkeep", **DEFAULTS)
    killed = rig.start("work", **DEFAULTS, threads=4)
    jobs = [rig.write_waiting() for _ in range(4)]
    let_through_next(rig, jobs)
    rig.start("work", **DEFAULTS)
    rig.wait_for_crew(units=2, heartbeat=DEFAULTS["heartbeat"])

    at = rig.value("select clock_timestamp()")
    if victim == "the worker alone":
        killed.units()[0].send_signal(signal.SIGKILL)
    else:
        killed.kill()
    rig.wait_until_final(jobs)

    seconds = rig.value(SECONDS, at, jobs)
    with capsys.disabled():
        print(f"\nkilled: {victim}; its 4 jobs ran again after {seconds:.1f} s at most")
    assert seconds < 15
    all_succeeded_once(rig, jobs)
