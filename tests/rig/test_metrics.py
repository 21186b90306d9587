"""The metrics of a runner and of its processes, added up."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import httpx2
import pytest
from prometheus_client import generate_latest

from config import metrics as own
from config.metrics import FILE_SIZE, Ours, Places, serve
from console.servers.process import free_port
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


NESTED = """
import os, subprocess, sys
from config.metrics import part_of_this_place
from workers import metrics
def count(label, times):
    for _ in range(times):
        metrics.RUN_APART.labels(label).inc()
if sys.argv[1:]:
    count("solo", 5)
    os._exit(0)
count("before", 1)
solo = subprocess.Popen([sys.executable, "-c", os.environ["NESTED"], "solo"], env={**os.environ, **part_of_this_place(3)})
count("meanwhile", 20)
solo.wait()
count("after", 300)
if os.fork() == 0:
    count("forked", 7)
    os._exit(0)
os.wait()
count("last", 4000)
"""


def test_what_a_process_starts_counts_beside_it():
    with Places() as places:
        there = {**os.environ, "PYTHONPATH": str(ROOT), "NESTED": NESTED, **places.environment(0)}
        subprocess.run([sys.executable, "-c", NESTED], env=there, check=True)
        shown = generate_latest(places).decode()

    assert set(shown.splitlines()) >= {
        f'haulier_jobs_run_apart_total{{command="{name}"}} {count}'
        for name, count in (("before", 1.0), ("solo", 5.0), ("meanwhile", 20.0), ("after", 300.0), ("forked", 7.0), ("last", 4000.0))
    }


def test_the_room_for_values_is_taken_before_a_process_writes_into_it():
    """Or a disk that is full by then ends it with SIGBUS."""
    with Places() as places:
        count(places, 0, 1)
        files = list(Path(places.environment(0)["PROMETHEUS_MULTIPROC_DIR"]).iterdir())
        taken = {file.name: file.stat().st_blocks * 512 for file in files}

    assert taken.keys() == {"counter_0.db", "histogram_0.db", "gauge_all_0.db"}
    assert all(size >= FILE_SIZE for size in taken.values()), taken


def test_a_reader_may_name_what_it_wants_and_must_not_be_silent(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(own, "PATIENCE", 0.2)
    serve("127.0.0.1", port := free_port(), Ours())
    named = {"name[]": "haulier_jobs_rescued_total"}

    found = httpx2.get(f"http://127.0.0.1:{port}/metrics", params=named, trust_env=False)
    with socket.create_connection(("127.0.0.1", port), timeout=10) as silent:
        ended = silent.recv(1)

    assert found.status_code == 200, found.text
    assert [line.split()[0] for line in found.text.splitlines() if not line.startswith("#")] == ["haulier_jobs_rescued_total"]
    assert ended == b""
