"""The processes of the rig: `python -m tests.crash.launch intake|relay|work|upkeep`, with the handlers of `tests.crash.commands`.

HAULIER_FAILPOINTS reaches the first of a worker runner's processes only; each that replaces one has the next of HAULIER_RIG_NEXT, then none.
"""

from __future__ import annotations

import contextlib
import os
import resource
import sys
import threading
import time

import psutil

from config import logs
from config.settings import Settings
from pipelines.load import load, queues_of


def main() -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    settings = Settings()  # pyright: ignore[reportCallIssue]
    logs.configure(settings.log_format)
    sys.exit({"intake": intake, "relay": relay, "work": work, "upkeep": upkeep}[sys.argv[1]](settings))


def intake(settings: Settings) -> int:
    from producers.intake.serve import serve

    return serve(settings)


def relay(settings: Settings) -> int:
    from producers.relay.serve import relay as carry

    return carry(settings, queues_of(load(settings.handlers)))


def work(settings: Settings) -> int:
    from workers.runner import work as run

    if os.environ.get("HAULIER_FAILPOINTS"):
        threading.Thread(target=arm_in_turn, daemon=True).start()
    return run(settings, queues_of(load(settings.handlers)))


def upkeep(settings: Settings) -> int:
    from workers.keep import keep

    return keep(settings)


def arm_in_turn() -> None:
    """Each time that a process has taken its environment with it."""
    coming = list(filter(None, os.environ.get("HAULIER_RIG_NEXT", "").split("|")))
    seen: set[int] = set()
    while "HAULIER_FAILPOINTS" in os.environ:
        time.sleep(0.01)
        for child in psutil.Process().children():
            with contextlib.suppress(psutil.NoSuchProcess):
                if child.pid not in seen and "workers.unit" in child.cmdline():
                    seen.add(child.pid)
                    os.environ["HAULIER_FAILPOINTS"] = coming.pop(0) if coming else ""
                    if not os.environ["HAULIER_FAILPOINTS"]:
                        del os.environ["HAULIER_FAILPOINTS"]


if __name__ == "__main__":
    main()
