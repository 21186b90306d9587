"""What a person sees while the demo runs: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import time
from collections import Counter
from types import TracebackType
from typing import Self

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from console.printing import console

#: Seconds between two lines where there is no terminal.
LINE_EVERY = 2.0


class Board:
    """`with` it. `tell` what begins, `show` how far it is."""

    def __init__(self, total: int) -> None:
        self._console = console()
        columns = (
            TextColumn("[bold]{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[states]}"),
        )
        self._progress = Progress(*columns, console=self._console, disable=not self._console.is_terminal)
        self._bar = self._progress.add_task("orders done", total=total, states="")
        self._total = total
        self._said_at = 0.0

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._progress.stop()

    def tell(self, sentence: str) -> None:
        self._progress.console.print(sentence)
        self._said_at = time.monotonic()

    def show(self, states: Counter[str]) -> None:
        done = sum(number for state, number in states.items() if state != "active")
        text = ", ".join(f"{number} {state}" for state, number in sorted(states.items()))
        self._progress.update(self._bar, completed=done, states=text)
        if not self._console.is_terminal and time.monotonic() - self._said_at >= LINE_EVERY:
            self.tell(f"  {done} of {self._total} orders done ({text})")
