"""How long results are kept (decision 0019). Whoever shows one, keeps a copy or takes it away asks here when its time is over."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta

from pipelines.command import Handler


class ResultTimes:
    """Seconds by command, and of all others: `default`, where None means as long as the job."""

    def __init__(self, handlers: Mapping[str, Handler], default: float | None) -> None:
        self.by_command = {name: handler.result_ttl for name, handler in handlers.items() if handler.result_ttl is not None}
        self.default = default

    @property
    def are_endless(self) -> bool:
        """No result ever goes before its job."""
        return self.default is None and not self.by_command

    def ends_at(self, command: str, state: str, finished_at: datetime | None) -> datetime | None:
        """When the result of such a job is gone; None if not before the job, or if it has none."""
        seconds = self.by_command.get(command, self.default)
        if seconds is None or state != "succeeded" or finished_at is None:
            return None
        return finished_at + timedelta(seconds=seconds)
