"""The table that the processes run under chaos: the shop, and commands of the crash tests. Tried again soon and often, so that no outage
of the run's length ends a job for good and all of it is over soon after the last fault.
"""

from __future__ import annotations

from dataclasses import replace

from pipelines.command import Handler, Retry, exponential
from pipelines.table import HANDLERS as PRODUCT
from tests.crash import commands as crash

PERSISTENT = Retry(max_failures=100, backoff=exponential(0.2, cap=3))

_CRASH = (crash.count, crash.plain, crash.call, crash.chain, crash.share, crash.many, crash.fail, crash.snooze)

HANDLERS: dict[str, Handler] = {
    **{handler.name: replace(handler, retry=PERSISTENT) for handler in (*_CRASH, *PRODUCT.values())},
    crash.kill.name: crash.kill,
}
