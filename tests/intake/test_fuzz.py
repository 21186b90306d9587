"""schemathesis finds nothing: a short run, with a fixed seed. `make fuzz` is the long one."""

from __future__ import annotations

import pytest

from ledger.connection import Database
from tests.intake.fuzz import run, target


@pytest.mark.timeout(600)
def test_schemathesis_finds_nothing(database: Database):
    with target(database, request_deadline=10) as at:
        status, printed = run(at, seed=20, examples=5)

    # All four phases took place: a run that could not load the document, or skipped one, would find nothing either.
    for phase in ("Examples", "Coverage", "Fuzzing", "Stateful"):
        assert f"✅ {phase}" in printed, printed[-20_000:]
    assert status == 0, printed[-20_000:]
