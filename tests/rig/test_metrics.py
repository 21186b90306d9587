"""The metrics of a runner and of its processes, added up."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from prometheus_client import generate_latest

from config.metrics import Places
from tests.console.running import ROOT
from workers import metrics

COUNT = """
import os, sys
from workers import metrics
metrics.RESCUED.inc(int(sys.argv[1]))
metrics.observe_run("orders.place@1", 0.05)
metrics.WEBHOOK_LAG.set(3)
os._exit(9)
"""


def count(places: Places, place: int, number: int) -> None:
    """In a process at this place, which dies without a word."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **places.environment(place)}
    assert subprocess.run([sys.executable, "-c", COUNT, str(number)], env=environment, check=False).returncode == 9


def test_a_successor_counts_on_and_all_are_added_up():
    before = metrics.RESCUED._value.get()
    metrics.RESCUED.inc(1000)

    with Places() as places:
        count(places, 0, 1)
        count(places, 0, 20)
        count(places, 1, 300)
        shown = generate_latest(places).decode()
        files = sorted(file.name for file in Path(places.environment(0)["PROMETHEUS_MULTIPROC_DIR"]).glob("counter_*"))

    assert files == ["counter_0.db", "counter_1.db"]
    assert f"haulier_jobs_rescued_total {before + 1321}" in shown
    assert 'haulier_run_seconds_count{command="orders.place@1"} 3.0' in shown
    assert 'haulier_run_seconds_bucket{command="orders.place@1",le="0.05"} 3.0' in shown
    assert shown.count("# TYPE haulier_jobs_rescued_total") == 1
    assert [line for line in shown.splitlines() if not line.startswith(("#", "haulier_"))] == []
