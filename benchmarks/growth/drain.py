"""Haulier's processes on a place, a backlog that is let go and stopped after so many jobs, and jobs that come at a steady rate."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from typing import Self

import orjson
import psycopg

from benchmarks.commands import HANDLERS, QUEUE
from benchmarks.contender import WORKER_PROCESSES, Place, await_
from benchmarks.growth.figures import EXTENSIONS, Counters, Figures
from benchmarks.growth.fill import UUID7
from benchmarks.haulier import Haulier
from benchmarks.measure import WARM_UP
from benchmarks.processes import settle
from benchmarks.servers import Servers, new_place
from benchmarks.work import payload
from config.ids import uuid7
from ledger import jobs, keys
from ledger.jobs import Submission

#: Seconds between two sets that are submitted at a steady rate.
BEAT = 0.05


class Rig:
    """One relay, one `haulier work`, upkeep if it is wanted; warm, and its relay held."""

    def __init__(self, servers: Servers, place: Place, *, processes: int = WORKER_PROCESSES, over_http: bool = False) -> None:
        self.place = place
        self.haulier = Haulier(place, processes=processes, over_http=over_http)
        self.tx = psycopg.connect(place.database_url, autocommit=True)
        self.tx.execute(EXTENSIONS)
        self.tx.execute(UUID7)
        self.log = servers.postgres.log_file
        self._servers = servers.pids
        self.haulier.submit("durable", range(-WARM_UP, 0))
        await_(lambda: self.done() == WARM_UP, "the warm-up", place)
        self.haulier.hold()
        self.ran = WARM_UP

    def close(self) -> None:
        self.tx.close()
        self.haulier.close()

    def done(self) -> int:
        return self.place.reader.count()

    def keep_up(self, archive_after: float = 3600) -> None:
        self.haulier.start("upkeep", HAULIER_ARCHIVE_AFTER=str(archive_after))
        await_(lambda: self._says("select count(*) > 0 from haulier.workers where kind = 'upkeep'"), "upkeep", self.place)

    def add_tenants(self, number: int) -> int:
        """So many beside the first, numbered from what is returned on."""
        with self.tx.transaction():
            tenants = [keys.add_tenant(self.tx, f"bench-{n}", f"Benchmark {n}") for n in range(number)]
        assert tenants[0] is not None
        return tenants[0].id

    def counters(self) -> Counters:
        return Counters(self.tx, self.log, self._servers | self.place.processes.pids())

    def drain(self, most: int) -> Figures:
        """Let the relay go until `most` jobs have ended; what it has announced until then is worked off, and counted."""
        self._quieten()
        before = self.done()
        counters = self.counters()
        began = time.monotonic()
        self.haulier.release()
        await_(lambda: self.done() - before >= most, f"{most} jobs", self.place, seconds=300, pause=0.01)
        self.haulier.stop_relay()
        await_(self._idle, "what is announced", self.place, pause=0.1)
        ended = max(self.place.reader.ends().values()) - time.time() + time.monotonic()
        return counters.read(self.done() - before, ended - began)

    def _quieten(self) -> None:
        self.tx.execute("vacuum analyze")
        self.tx.execute("checkpoint")
        settle()

    def _idle(self) -> bool:
        return self._says("select not exists (select from haulier.leases)") and self._says(
            "select count(*) = 0 from haulier.outbox where announced_at is not null and queue = 'bench'"
        )

    def _says(self, question: str) -> bool:
        row = self.tx.execute(question).fetchone()  # pyright: ignore[reportArgumentType, reportCallIssue]
        return row is not None and row[0]


@contextmanager
def new_rig(servers: Servers, *, processes: int = WORKER_PROCESSES, over_http: bool = False) -> Iterator[Rig]:
    with new_place(servers) as place, closing(Rig(servers, place, processes=processes, over_http=over_http)) as rig:
        yield rig


class Stream:
    """Jobs of these tenants, `rate` a second, from `start` to `stop`."""

    def __init__(self, rig: Rig, rate: float, tenants: Sequence[int]) -> None:
        self._tx = psycopg.connect(rig.place.database_url, autocommit=True)
        self._rate = rate
        self._tenants = tenants
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._number = 0

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self._tx.close()

    def _run(self) -> None:
        began = time.monotonic()
        while not self._stop.wait(BEAT):
            wanted = int((time.monotonic() - began) * self._rate)
            jobs.submit_set(self._tx, [self._wish(number) for number in range(self._number, wanted)], wake=True)
            self._number = wanted

    def _wish(self, number: int) -> Submission:
        tenant = self._tenants[number % len(self._tenants)]
        return Submission(
            uuid7(), tenant, "bench.durable", QUEUE, orjson.dumps(payload("durable", number)), HANDLERS["bench.durable"].retry.max_failures
        )
