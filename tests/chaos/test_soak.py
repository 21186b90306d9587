"""The run itself: schedules come from seeds alone, and a small one on real servers keeps every promise."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.chaos import soak
from tests.chaos.check import check, load
from tests.chaos.faults import FAULTS, missing
from tests.chaos.soak import Options


def test_a_schedule_is_the_same_for_the_same_seed_and_has_every_class() -> None:
    options = Options(seed=8412, minutes=30)
    planned = soak.plan(options)

    assert planned == soak.plan(options)
    assert planned != soak.plan(Options(seed=8413, minutes=30))
    assert {each.fault for each in planned} == FAULTS.keys() - missing().keys()
    assert len(planned) >= 100
    assert all(each.at + 60 < 31 * 60 for each in planned)


def test_a_run_is_planned_again_from_its_own_config(tmp_path: Path) -> None:
    options = Options(seed=3, minutes=1, only=("redis killed", "worker killed"))
    soak.write_config(tmp_path, options, soak.plan(options), {})

    assert soak.read_schedule(tmp_path) == (options, soak.plan(options))


@pytest.mark.timeout(240)
def test_a_short_run_keeps_every_promise(tmp_path: Path) -> None:
    """Twelve seconds; `make chaos` is the long one."""
    options = Options(seed=1, minutes=0.2, rate=20, threads=4, pace=1, copies=1, only=("worker process killed", "garbage messages"))

    verdict = soak.run(tmp_path / "run", options, soak.plan(options))

    assert verdict.valid, verdict.found
    assert verdict.counts["acknowledged"] > 50
    assert verdict.counts["classes"] == 2
    assert check(load(tmp_path / "run")) == verdict
    assert "lost 0, stuck 0" in json.loads((tmp_path / "run" / "result.json").read_text())["sentence"]
