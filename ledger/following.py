"""What those who follow jobs ask the ledger: how the jobs that are waited for stand, for hundreds of them at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from psycopg import Connection

from ledger.reading import Job

Tx = Connection[Any]


@dataclass(frozen=True, slots=True)
class Version:
    """What a change that somebody waits for changes. `family`: number of jobs by state, None when only the job itself was asked for."""

    seq: int
    progress: dict[str, Any] | None
    family: dict[str, int] | None


def has_changed(job: Job, now: Version) -> bool:
    """Whether it is not as it was read."""
    return (job.seq, job.progress) != (now.seq, now.progress) or (now.family is not None and now.family != job.family)


VERSIONS = "select id, seq, progress from haulier.every_job where id = any(%s)"

FAMILIES = """
select j.id, (with recursive family(id, state) as (
                  select j.id, j.state
                  union all
                  select child.id, child.state from family join haulier.every_job child on child.parent_id = family.id)
              select jsonb_object_agg(state, n) from (select state, count(*) as n from family group by state) counted)
  from haulier.every_job j where j.id = any(%s)
"""


def versions(tx: Tx, ids: Sequence[UUID], whole: Sequence[UUID]) -> dict[UUID, Version]:
    """How these jobs stand, and the families of those that are in `whole` too."""
    families: dict[UUID, dict[str, int]] = dict(tx.execute(FAMILIES, (list(whole),)).fetchall()) if whole else {}
    return {row[0]: Version(row[1], row[2], families.get(row[0])) for row in tx.execute(VERSIONS, (list(ids),))}
