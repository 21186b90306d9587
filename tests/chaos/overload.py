"""`python -m tests.chaos.overload`: three times the usual load for half a minute, with Postgres away in the middle of it, and then the usual load again. Two minutes.

What must not happen is that it stays slow once the reason is gone: callers who try again, jobs that are rescued because nobody came to renew a lease, announcements that are repeated, each
can keep such a system busy with itself. Within half a minute after the load has gone back jobs must end as fast as before, and in the end all of them, once.
"""

from __future__ import annotations

import secrets
import sys
import tempfile
import threading
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any, ClassVar
from uuid import UUID

from console.servers.postgres import PostgresServer
from console.servers.rabbitmq import RabbitmqNode
from ledger.migrate import migrate
from pipelines.command import Command, Handler, handles
from pipelines.run import Run
from tests.crash.rig import Rig, eventually
from tests.crash.verdict import history_is_whole, nothing_is_left

#: Jobs a second, usually; seconds that each takes one of the two threads, which could do about 170 a second.
USUAL, WORK = 100, 0.01
#: Seconds: of the usual load, of three times as much, into it that Postgres stops, for how long, and until it must be well again.
BEFORE, OVERLOAD, UNTIL_OUTAGE, OUTAGE, WELL_WITHIN = 15, 30, 10, 8, 30
#: Seconds over which a rate is taken, and the share of the former one that counts as well.
WINDOW, WELL = 5, 0.9


class Rest(Command):
    command_name: ClassVar[str] = "overload.rest"
    example: ClassVar[dict[str, Any]] = {"n": 1}
    n: int


@handles(Rest, queue="crash")
def rest(command: Rest, run: Run) -> None:
    time.sleep(WORK)


HANDLERS: dict[str, Handler] = {rest.name: rest}


class Callers:
    """Ten times a second one of them asks for a tenth of the rate; who is refused tries again, while the next ones come all the same."""

    def __init__(self, rig: Rig) -> None:
        self.rate = USUAL
        self.ids: list[UUID] = []
        self._rig = rig
        self._stop = threading.Event()
        self._calls: list[threading.Thread] = []
        self._clock = threading.Thread(target=self._tick)
        self._clock.start()

    def stop(self) -> None:
        self._stop.set()
        self._clock.join()
        for call in self._calls:
            call.join()

    def _tick(self) -> None:
        while not self._stop.wait(0.1):
            self._calls.append(threading.Thread(target=self._ask, args=(self.rate // 10,)))
            self._calls[-1].start()

    def _ask(self, jobs: int) -> None:
        """With the same key until each of them has its receipt."""
        wishes = [{"command": rest.name, "payload": {"n": n}} for n in range(jobs)]
        key = secrets.token_hex(8)
        while True:
            _, answer = self._rig.post("/v1/jobs/batch", wishes, key, within=60)
            found = [item.get("id") for item in answer["items"]]
            if all(found):
                break
            time.sleep(0.1)
        self.ids += map(UUID, found)


def main() -> int:
    with ExitStack() as stack:
        postgres = stack.enter_context(PostgresServer())
        node = stack.enter_context(RabbitmqNode(schedulers=1))
        migrate(postgres.url)
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="haulier-overload-")))
        settings = {"lease": 8.0, "heartbeat": 2.0, "tick": 1.0, "handlers": "tests.chaos.overload:HANDLERS"}
        rig = stack.enter_context(Rig(postgres.url, node.url, directory, **settings))
        rig.start_all()
        rig.wait_for_crew(units=1, heartbeat=2.0)
        callers = Callers(rig)
        stack.callback(callers.stop)
        time.sleep(BEFORE)
        usual = rate(rig, time.time())
        print(f"usually {usual:.0f} jobs end in a second", flush=True)
        overload(callers, postgres)
        back = time.time()
        eventually(lambda: rate(rig, time.time()) >= WELL * usual, WELL_WITHIN, lambda: f"{rate(rig, time.time()):.0f} end in a second")
        waiting = rig.value("select count(*) from haulier.jobs where state not in ('succeeded', 'dead')")
        print(f"{time.time() - back:.1f} s after the load has gone back {rate(rig, time.time()):.0f} do; {waiting} wait", flush=True)
        callers.stop()
        stopped = time.time()
        rig.wait_until_final(callers.ids, 120)
        is_whole(rig, callers.ids)
        print(f"{len(callers.ids)} accepted, all done {time.time() - stopped:.0f} s after the last: lost 0, dead 0")
    return 0


def overload(callers: Callers, postgres: PostgresServer) -> None:
    callers.rate = 3 * USUAL
    time.sleep(UNTIL_OUTAGE)
    postgres.stop()
    time.sleep(OUTAGE)
    postgres.start()
    time.sleep(OVERLOAD - UNTIL_OUTAGE - OUTAGE)
    callers.rate = USUAL


def rate(rig: Rig, until: float) -> float:
    """Ends of jobs in a second, of late."""
    ended = "select count(*) from haulier.jobs where finished_at between to_timestamp(%s) and to_timestamp(%s)"
    return rig.value(ended, until - WINDOW, until) / WINDOW


def is_whole(rig: Rig, ids: list[UUID]) -> None:
    ends = rig.rows("select state::text, failures, count(*) from haulier.jobs group by 1, 2")
    assert ends == [("succeeded", 0, len(set(ids)))], rig.describe()
    history_is_whole(rig, ids)
    nothing_is_left(rig)


if __name__ == "__main__":
    sys.exit(main())
