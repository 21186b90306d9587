"""What an operator's and a client's reads cost in buffers, as the roles that read."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, LiteralString
from uuid import UUID

import psycopg

from benchmarks.growth.drain import Rig
from ledger import reading
from ledger.connection import Database
from ledger.reading import Filter
from ledger.roles import Role

TIMES = 50
SPENT: LiteralString = """
select sum(shared_blks_hit + shared_blks_read)::float8 / %s from pg_stat_statements
 where userid in ('haulier_client'::regrole, 'haulier_operator'::regrole)
"""
FRESH: LiteralString = "select id from haulier.jobs where state = 'succeeded' order by id desc limit 50"
OLD: LiteralString = "select id from haulier.archive order by archived_on limit 50"
QUEUED: LiteralString = "select job_id from haulier.outbox limit 50"

Read = Callable[[psycopg.Connection[Any]], object]


def read_costs(rig: Rig) -> dict[str, float]:
    """Buffers of one read, by its name."""
    tenants = [rig.haulier.tenant]
    database = Database(rig.place.database_url, Role.INTAKE)
    costs: dict[str, float] = {}
    for name, ids in (("fresh", FRESH), ("archived", OLD), ("queued", QUEUED)):
        found: list[UUID] = [row[0] for row in rig.tx.execute(ids)]
        if found:
            costs[f"get {name}"] = _cost(rig, database, [_get(each, tenants) for each in found])
            costs[f"timeline {name}"] = _cost(rig, database, [_timeline(each) for each in found])
    costs["first page"] = _cost(rig, database, [lambda tx: reading.list_jobs(tx, tenants, Filter(), 50)])
    costs["first page, queued"] = _cost(rig, database, [lambda tx: reading.list_jobs(tx, tenants, Filter(states=["queued"]), 50)])
    costs["first page, dead"] = _cost(rig, database, [lambda tx: reading.list_jobs(tx, tenants, Filter(states=["dead"]), 50)])
    database.close()
    return costs


def _cost(rig: Rig, database: Database, reads: list[Read]) -> float:
    for counted in (False, True):
        if counted:
            rig.tx.execute("select pg_stat_statements_reset()")
        for number in range(TIMES):
            with database.transaction(Role.CLIENT, rig.haulier.tenant) as tx:
                reads[number % len(reads)](tx)
    row = rig.tx.execute(SPENT, (TIMES,)).fetchone()
    assert row is not None
    return round(row[0] or 0, 1)


def _get(job_id: UUID, tenants: list[int]) -> Read:
    return lambda tx: reading.job(tx, job_id, tenants)


def _timeline(job_id: UUID) -> Read:
    return lambda tx: reading.timeline(tx, job_id)
