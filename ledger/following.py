"""What those who follow jobs ask the ledger: how jobs stand that are waited for, and which events a stream has not had yet."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, LiteralString
from uuid import UUID

from psycopg import Connection

from ledger import reading
from ledger.reading import Job, archived_since

Tx = Connection[Any]


def jobs(tx: Tx, ids: Sequence[UUID]) -> list[Job]:
    """Those of them that are there, of whichever tenants."""
    return reading.jobs(tx, ids, None)


@dataclass(frozen=True, slots=True)
class Version:
    """What a change that somebody waits for changes. `family`: number of jobs by state, None when only the job itself was asked for."""

    seq: int
    progress: dict[str, Any] | None
    family: dict[str, int] | None


def has_changed(job: Job, now: Version) -> bool:
    """Whether it is not as it was read."""
    return (job.seq, job.progress) != (now.seq, now.progress) or (now.family is not None and now.family != job.family)


VERSIONS = "select id, seq, progress from haulier.every_job where id = any(%s) and (archived_on is null or archived_on >= %s)"

FAMILIES: LiteralString = f"""
select j.id, {reading.FAMILY_COUNTS} from haulier.every_job j where j.id = any(%s) and (j.archived_on is null or j.archived_on >= %s)
"""


def versions(tx: Tx, ids: Sequence[UUID], whole: Sequence[UUID]) -> dict[UUID, Version]:
    """How these jobs stand, and the families of those that are in `whole` too."""
    families: dict[UUID, dict[str, int]] = dict(tx.execute(FAMILIES, (list(whole), archived_since(whole))).fetchall()) if whole else {}
    return {row[0]: Version(row[1], row[2], families.get(row[0])) for row in tx.execute(VERSIONS, (list(ids), archived_since(ids)))}


# Which events a reader has had is told by the transactions that wrote them, and never by their time or place: two that are written at once
# commit in any order. A snapshot says exactly which transactions are seen, those still under way left out; unlike a horizon below the oldest
# of them, it does not wait for a transaction that stays open for an hour.
@dataclass(frozen=True, slots=True)
class Snapshot:
    """As pg_current_snapshot() shows it: all below `start` has ended, all from `end` on has not begun; of those between, `open` has not ended."""

    start: int
    end: int
    open: tuple[int, ...] = ()

    def sees(self, xact: int) -> bool:
        return xact < self.end and xact not in self.open

    @classmethod
    def parse(cls, text: str) -> Snapshot:
        """Raises ValueError."""
        start, end, under_way = text.split(":")
        found = cls(int(start), int(end), tuple(map(int, under_way.split(","))) if under_way else ())
        if not 0 <= found.start <= found.end < 1 << 62 or any(not found.start <= xact < found.end for xact in found.open):
            raise ValueError("no snapshot")
        return found

    def __str__(self) -> str:
        return f"{self.start}:{self.end}:{','.join(map(str, self.open))}"


#: Before everything.
NOTHING = Snapshot(0, 0)


@dataclass(frozen=True, slots=True)
class Told:
    """One event, and what a stream says of its job. `tenant` is the slug."""

    job_id: UUID
    seq: int
    at: datetime
    kind: str
    state: str
    attempt: int
    who: str | None
    data: dict[str, Any] | None
    xact: int
    tenant_id: int
    root_id: UUID
    parent_id: UUID | None
    command: str
    tenant: str

    @property
    def place(self) -> tuple[int, UUID, int]:
        """Streams are in this order."""
        return self.xact, self.job_id, self.seq


def now(tx: Tx) -> tuple[Snapshot, int]:
    """What is committed, and when that was (Unix seconds, by the database)."""
    row = tx.execute("select pg_current_snapshot()::text, extract(epoch from clock_timestamp())::bigint").fetchone()
    assert row is not None
    return Snapshot.parse(row[0]), row[1]


@dataclass(frozen=True, slots=True)
class Wanted:
    """Whose events: of `tenants` (None: of all), of jobs, of whole families by their roots; any of these."""

    tenants: Sequence[int] | None = ()
    jobs: Sequence[UUID] = ()
    roots: Sequence[UUID] = ()


# What was under way when `seen` was taken is asked for by its very transactions: one that stays open must not make every query begin at it.
BETWEEN = """
with found as (
    select * from haulier.events where xact >= %(low)s and xact < %(high)s and not (xact = any(%(open)s::bigint[]))
    union all
    select e.* from unnest(%(late)s::bigint[]) as o(xact) join haulier.events e on e.xact = o.xact)
select e.job_id, e.seq, e.at, e.kind, e.state::text, e.attempt, e.who, e.data, e.xact, e.tenant_id, j.root_id, j.parent_id, j.command, t.slug
  from found e
  join haulier.jobs j on j.id = e.job_id
  join haulier.tenants t on t.id = e.tenant_id
 where %(tenants)s::integer[] is null or e.tenant_id = any(%(tenants)s) or e.job_id = any(%(jobs)s::uuid[]) or j.root_id = any(%(roots)s::uuid[])
 order by e.xact, e.job_id, e.seq
"""

#: Transactions that one query spans.
STEP = 20_000


def between(tx: Tx, seen: Snapshot, until: Snapshot, wanted: Wanted, low: int = 0) -> tuple[list[Told], int | None]:
    """A part of the events that `until` sees and `seen` does not, in order; and from which transaction on the next part is, or None.

    Those that have gone to the archive are not among them.
    """
    low = max(low, seen.end)
    high = min(low + STEP, until.end)
    parameters = {
        "low": low,
        "high": high,
        "open": list(until.open),
        "late": [xact for xact in seen.open if until.sees(xact)] if low == seen.end else [],
        "tenants": None if wanted.tenants is None else list(wanted.tenants),
        "jobs": list(wanted.jobs),
        "roots": list(wanted.roots),
    }
    found = [Told(*row) for row in tx.execute(BETWEEN, parameters)]
    return found, high if high < until.end else None


OF_A_JOB = """
select e.job_id, e.seq, e.at, e.kind, e.state::text, e.attempt, e.who, e.data, e.xact, e.tenant_id, j.root_id, j.parent_id, j.command, t.slug
  from haulier.every_event e
  join haulier.every_job j on j.id = e.job_id
  join haulier.tenants t on t.id = e.tenant_id
 where j.id = %(id)s and (j.archived_on is null or j.archived_on >= %(since)s)
   and e.job_id = %(id)s and (e.archived_on is null or e.archived_on >= %(since)s) and e.seq > %(after)s
 order by e.seq
"""


def of_a_job(tx: Tx, job_id: UUID, after: int) -> list[Told]:
    """A job's own events after the one of this number, from the archive too."""
    return [Told(*row) for row in tx.execute(OF_A_JOB, {"id": job_id, "since": archived_since([job_id]), "after": after})]


OF_A_FAMILY: LiteralString = (
    reading.FAMILY_OF
    + """
select e.job_id, e.seq, e.at, e.kind, e.state::text, e.attempt, e.who, e.data, e.xact, e.tenant_id, j.root_id, j.parent_id, j.command, t.slug
  from family
  join haulier.every_job j on j.id = family.id and (j.archived_on is null or j.archived_on >= %(since)s)
  join haulier.every_event e on e.job_id = family.id and (e.archived_on is null or e.archived_on >= %(since)s)
  join haulier.tenants t on t.id = e.tenant_id
 order by e.xact, e.job_id, e.seq
"""
)


def of_a_family(tx: Tx, job_id: UUID) -> list[Told]:
    """All events of the job and all that it and its follow-ups submitted, from the archive too."""
    return [Told(*row) for row in tx.execute(OF_A_FAMILY, {"id": job_id, "since": archived_since([job_id])})]
