"""Workers killed while jobs share a transaction: all of it or nothing, and whoever is innocent is blamed for nothing."""

from __future__ import annotations

from uuid import UUID

import pytest

from tests.crash.rig import Rig, eventually
from tests.crash.test_crash_matrix import was_killed
from tests.crash.verdict import all_succeeded_once

POINTS = ["worker.after_acknowledge", "worker.before_settle", "worker.after_settle"]


@pytest.mark.parametrize("failpoint", POINTS)
def test_a_worker_killed_with_a_shared_transaction_open_loses_nothing_and_doubles_nothing(rig: Rig, failpoint: str) -> None:
    ids = submit_sets(rig)
    victim = rig.start("work", f"{failpoint}:kill@1", threads=1)
    rig.announce(*((job, 1) for job in ids))
    eventually(lambda: was_killed(victim), 20, rig.describe)
    rig.start("relay")
    rig.start("upkeep")
    rig.start("work")
    rig.wait_until_final(ids)

    all_succeeded_once(rig, ids)


def submit_sets(rig: Rig) -> list[UUID]:
    return [rig.write(command, {"n": n}) for command in ("crash.share", "crash.many") for n in range(10)]
