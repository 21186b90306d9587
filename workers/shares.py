"""How many jobs of a command carry out their work in one transaction: fewer where they get into each other's way."""

from __future__ import annotations

from pipelines.command import Handler

#: So many more after each transaction that went well.
GROWTH = 0.25
#: Below that none would be together, and it would never be found out that they can be again.
FEWEST = 2.0


class Shares:
    """One process's. As many as the command allows; half as many after a transaction that was rolled back (additive increase, multiplicative
    decrease): members that lock the same rows in different orders deadlock the more, the more they are.
    """

    def __init__(self) -> None:
        self._sizes: dict[str, float] = {}

    def most(self, handler: Handler) -> int:
        return int(self._sizes.get(handler.name, handler.together))

    def went_well(self, handler: Handler) -> None:
        size = self._sizes.get(handler.name)
        if size is not None:
            self._sizes[handler.name] = min(handler.together, size + GROWTH)

    def rolled_back(self, handler: Handler, jobs: int) -> None:
        """A transaction of so many."""
        self._sizes[handler.name] = max(FEWEST, jobs / 2)
