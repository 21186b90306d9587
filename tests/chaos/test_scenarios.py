"""The table of systemic faults is whole, and what it names is there."""

from __future__ import annotations

from pathlib import Path

from tests.chaos.faults import FAULTS
from tests.chaos.scenarios import SCENARIOS

ROOT = Path(__file__).parents[2]


def test_every_systemic_fault_is_shown_or_says_why_not() -> None:
    assert list(SCENARIOS) == [f"F{number}" for number in range(1, 47)]
    for name, scenario in SCENARIOS.items():
        shown = bool(scenario.tests or scenario.faults or scenario.by)
        assert shown != bool(scenario.absent), name


def test_what_the_scenarios_name_is_there() -> None:
    for scenario in SCENARIOS.values():
        assert set(scenario.faults) <= FAULTS.keys()
        for test in scenario.tests:
            file, _, function = test.partition("::")
            assert f"def {function}(" in (ROOT / file).read_text() if function else (ROOT / file).is_file(), test
