"""`make demo`, with fewer orders: it ends with status 0, and would not if something did not hold."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from console.demo.plan import make_plan
from console.demo.verdict import Story, _of_dead_letters
from tests.console.running import ROOT, environment


def demo(broker: str, orders: int, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "console.demo", "--orders", str(orders)]
    settings = environment(HAULIER_DEMO_BROKER=broker)
    del settings["HAULIER_HANDLERS"]
    return subprocess.run(command, cwd=cwd, env=settings, capture_output=True, text=True, timeout=280, check=False)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("broker", ["memory", "rabbitmq"])
def test_the_demo_holds(broker: str):
    done = demo(broker, 60, ROOT)

    assert done.returncode == 0, done.stdout + done.stderr
    assert "Everything holds" in done.stdout


@pytest.mark.parametrize(("broker", "orders"), [("carrier-pigeon", 60), ("memory", 10)])
def test_what_cannot_be_shown_is_wrong_use(broker: str, orders: int, tmp_path: Path):
    assert demo(broker, orders, tmp_path).returncode == 2


def test_a_plan_adds_up():
    plan = make_plan(500)

    assert plan.endings == Counter(succeeded=454, rejected=44, dead=2)
    assert plan.submissions == 600
    assert len({order.key for order in plan.orders}) == 500


def test_a_dead_letter_that_stays_dead_does_not_hold():
    plan = make_plan(60)
    letters = [{"id": "a"}, {"id": "b"}]

    good = _of_dead_letters(plan, Story(dead_letters=letters, repaired="succeeded"))
    bad = _of_dead_letters(plan, Story(dead_letters=letters[:1], repaired="dead"))

    assert good == []
    assert len(bad) == 2
