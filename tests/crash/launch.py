"""The processes of the rig: `python -m tests.crash.launch intake|relay|work|upkeep`, with the handlers of `tests.crash.commands`.

A worker runner's replaced processes are not armed again: HAULIER_FAILPOINTS reaches the first one only.
"""

from __future__ import annotations

import os
import resource
import signal
import sys
import threading
import time

import psutil

from config import logs
from config.settings import Settings
from ledger.connection import Database
from ledger.roles import Role
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
        threading.Thread(target=disarm_later, daemon=True).start()
    return run(settings, queues_of(load(settings.handlers)))


def upkeep(settings: Settings) -> int:
    from workers.upkeep import Upkeep

    keeper = Upkeep(settings, Database(settings.need_database(), Role.UPKEEP, size=2, name="haulier upkeep"), load(settings.handlers))
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: keeper.stop())
    keeper.run()
    return 0


def disarm_later() -> None:
    """Once the first process has taken its environment with it."""
    while not any("workers.unit" in child.cmdline() for child in psutil.Process().children()):
        time.sleep(0.01)
    del os.environ["HAULIER_FAILPOINTS"]


if __name__ == "__main__":
    main()
