"""Named places where a test may kill, pause or fail a process: how the crash matrix finds every step of a job's way.

Free when off: `reach` is an empty function unless HAULIER_FAILPOINTS was set when the process started, as `name:action[@hit]`
joined by commas. Actions: `kill` (SIGKILL to itself), `stop` (SIGSTOP), `raise`, `exit`, `sleep=SECONDS`.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time

#: Every failpoint of the product, in the order of a job's way, each in one place. `tests/crash` runs each, and fails for one that is not here.
FAILPOINTS = (
    "intake.before_commit",
    "intake.after_commit",
    "intake.before_batch_commit",
    "intake.after_batch_commit",
    "intake.after_replay",
    "relay.after_claim",
    "relay.after_publish",
    "relay.after_confirm",
    "worker.before_begin",
    "worker.after_begin",
    "worker.after_acknowledge",
    "worker.before_call",
    "worker.after_call",
    "worker.after_post",
    "worker.before_complete",
    "worker.after_complete",
    "worker.before_complete_together",
    "worker.after_complete_together",
    "worker.before_complete_many",
    "worker.after_complete_many",
    "worker.before_settle",
    "worker.after_settle",
    "upkeep.after_rescue",
    "upkeep.before_dispatch",
    "upkeep.after_dispatch",
    "upkeep.after_dead_letter",
)


class FailpointReached(Exception):
    """What the action `raise` raises."""


_armed: dict[str, tuple[str, int]] = {}
_hits: dict[str, int] = {}
_lock = threading.Lock()


def _read(text: str) -> dict[str, tuple[str, int]]:
    armed: dict[str, tuple[str, int]] = {}
    for part in filter(None, text.split(",")):
        name, _, action = part.partition(":")
        action, _, hit = action.partition("@")
        if name not in FAILPOINTS:
            raise ValueError(f"HAULIER_FAILPOINTS names {name!r}, which is not a failpoint; there are: {', '.join(FAILPOINTS)}")
        armed[name] = (action, int(hit or 1))
    return armed


def _reach(name: str) -> None:
    if name not in _armed:
        return
    action, wanted = _armed[name]
    with _lock:
        _hits[name] = _hits.get(name, 0) + 1
        if _hits[name] != wanted:
            return
    if action == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif action == "stop":
        os.kill(os.getpid(), signal.SIGSTOP)
    elif action == "exit":
        sys.exit(70)
    elif action.startswith("sleep="):
        time.sleep(float(action.removeprefix("sleep=")))
    else:
        raise FailpointReached(name)


def _pass(name: str) -> None:
    """Nothing is armed."""


_armed = _read(os.environ.get("HAULIER_FAILPOINTS", ""))
reach = _reach if _armed else _pass
