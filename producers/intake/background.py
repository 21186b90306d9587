"""What an intake does beside its requests, every so often, in one thread: nothing that a request would wait for."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import structlog

from producers.intake.problems import LOST, Problem

log = structlog.get_logger()


class Background:
    """Calls each chore every so many seconds, the first time at once. One that meets a ledger which is away is tried again at its next time."""

    def __init__(self) -> None:
        self._chores: list[tuple[float, Callable[[], object]]] = []
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="intake-background", daemon=True)
        self._away = False

    def every(self, seconds: float, chore: Callable[[], object]) -> None:
        """Before the start."""
        self._chores.append((seconds, chore))

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        self._closing.set()
        if self._thread.ident is not None:
            self._thread.join(10)

    def _run(self) -> None:
        due = [time.monotonic()] * len(self._chores)
        while due and not self._closing.wait(max(0.0, min(due) - time.monotonic())):
            for n, (seconds, chore) in enumerate(self._chores):
                if due[n] <= time.monotonic():
                    self._do(chore)
                    due[n] = time.monotonic() + seconds

    def _do(self, chore: Callable[[], object]) -> None:
        try:
            chore()
            self._away = False
        except (*LOST, Problem) as error:
            if not self._away:
                log.warning("the intake's background work does not reach the ledger", error=str(error).strip())
            self._away = True
        except Exception:
            log.exception("the intake's background work failed; it goes on", chore=getattr(chore, "__name__", "?"))
