"""How many jobs of a command carry out their work in one transaction: fewer where they get into each other's way."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ledger.attempts import Begun
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


def group(begun: Sequence[Begun], handlers: Mapping[str, Handler], shares: Shares) -> list[list[Begun]]:
    """What may share a transaction, side by side; all else by itself. In order, by the first of each group."""
    groups: list[list[Begun]] = []
    open_groups: dict[tuple[str, int], list[Begun]] = {}
    for job in begun:
        name = (job.command, job.tenant_id)
        most = 1 if job.solo else shares.most(handlers[job.command])
        joined = open_groups.get(name) if most > 1 else None
        if joined is not None and len(joined) < most:
            joined.append(job)
            continue
        groups.append([job])
        if most > 1:
            open_groups[name] = groups[-1]
    return groups
