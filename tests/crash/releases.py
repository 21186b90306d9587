"""Two releases that know different commands: what each one's table has, when both run side by side."""

from __future__ import annotations

from pipelines.command import Handler
from tests.crash import commands

#: Only the previous one knows the first, and only the current one the second.
GONE, NEW = "crash.plain", "crash.chain"

PREVIOUS: dict[str, Handler] = {name: handler for name, handler in commands.HANDLERS.items() if name != NEW}
CURRENT: dict[str, Handler] = {name: handler for name, handler in commands.HANDLERS.items() if name != GONE}
