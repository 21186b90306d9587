"""What a run has found is told and drawn as it was measured."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import charts, report
from benchmarks.measure import Measurement

ABOUT = {"date": "2026-11-27", "machine": "2 cores", "versions": {"Postgres": "18.6", "celery": "5.7.0"}}
CPU = {"work": 0.3, "relay": 0.05, "postgres": 0.2, "rabbitmq": 0.1}
RATES = {
    "haulier": (2000, 1800),
    "haulier, sharing": (4000, 3000),
    "dramatiq": (1600, 2000),
    "celery, prefork": (800, 1000),
    "dbos": (200, 250),
}


@pytest.fixture
def measurements() -> list[Measurement]:
    drained = [
        Measurement(workload, name, turn, 10_000, 8.0, True, CPU, 1.0, rate=rate)
        for workload in ("w1", "w2")
        for name, rates in RATES.items()
        for turn, rate in enumerate(rates)
    ]
    single = [
        Measurement("w3", name, 0, 200, 8.0, True, CPU, 1.0, p50=p50, p95=9.0, p99=12.0)
        for name, p50 in (("haulier", 6.0), ("dramatiq", 2.0))
    ]
    return drained + single


def test_a_ratio_is_of_two_figures_of_one_round(measurements: list[Measurement]):
    of_w2 = [each for each in measurements if each.workload == "w2"]

    assert report.ratios(of_w2, "haulier, sharing", "dramatiq") == [4000 / 1600, 3000 / 2000]


def test_tables_say_all_ratios_the_machine_and_the_versions(measurements: list[Measurement], capsys: pytest.CaptureFixture[str]):
    report.show(ABOUT, measurements)

    said = capsys.readouterr().out
    assert "haulier, sharing / celery, prefork │   4.00 │ 5.00 3.00" in said
    assert "haulier / dramatiq │   3.00 │ 3.00" in said  # of W3
    assert "haulier / dbos" in said  # of W1
    assert "2 cores" in said
    assert "celery 5.7.0" in said


def test_the_same_figures_give_the_same_charts_and_come_back_from_their_file(measurements: list[Measurement], tmp_path: Path):
    rows = [{"about": ABOUT}, *(each.as_row() for each in measurements)]
    file = tmp_path / "run.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))

    once, again = (charts.draw(*charts.load(file), tmp_path / name) for name in ("once", "again"))

    drawn = sorted(path.name for path in once.iterdir())
    assert drawn == [f"{name}.{kind}" for name in ("cpu", "w1-rate", "w2-rate", "w3-latency") for kind in ("png", "svg")]
    assert [(once / name).read_bytes() for name in drawn] == [(again / name).read_bytes() for name in drawn]
    assert charts.load(file) == (ABOUT, measurements)
