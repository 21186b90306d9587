"""The table of mutants does not rot: what they change is there, and so are the tests that are to catch them. (`make mutants` runs them.)"""

from __future__ import annotations

import pytest

from tests.mutants.__main__ import ROOT, mutate, verdicts
from tests.mutants.table import MUTANTS, Mutant


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_what_a_mutant_changes_is_there_and_so_is_its_test(mutant: Mutant):
    text = (ROOT / mutant.file).read_text()
    file, _, test = mutant.test.partition("::")

    assert mutate(text, mutant) != text
    assert f"def {test.partition('[')[0]}(" in (ROOT / file).read_text()


def test_the_mutants_are_fifteen_at_least_and_each_one_is_another():
    assert len(MUTANTS) == len({(mutant.file, mutant.old, mutant.new) for mutant in MUTANTS}) == len({mutant.name for mutant in MUTANTS})
    assert len(MUTANTS) >= 15


def test_a_mutant_whose_place_is_gone_is_an_error():
    with pytest.raises(ValueError, match=r"stands 0 times in a\.py"):
        mutate("x = 1", Mutant("m", "a.py", "x = 2", "x = 3", ""))


@pytest.mark.parametrize(
    ("inside", "verdict"),
    [
        ("", "passed"),
        ('<failure message="AssertionError: assert 1 == 2"/>', "failed"),
        ('<failure message="assert 1 == 2"/>', "failed"),
        ("<failure message=\"Failed: DID NOT RAISE &lt;class 'LeaseLostError'&gt;\"/>", "failed"),
        ('<failure message="ImportError: no such name"/>', "failure: ImportError: no such name"),
        ('<failure message="Failed: Timeout (&gt;120s)"/>', "failure: Failed: Timeout (>120s)"),
        ('<error message="failed on setup with AssertionError"/>', "error: failed on setup with AssertionError"),
        ('<failure message="assert 0"/><error message="failed on teardown"/>', "failure: assert 0"),
        ('<skipped message="no server"/>', "skipped: no server"),
    ],
)
def test_only_a_test_s_own_verdict_counts(inside: str, verdict: str):
    assert verdicts(f"<testsuites><testsuite><testcase>{inside}</testcase></testsuite></testsuites>") == [verdict]
