"""Upkeep, logged in with its own account: it does its work for every tenant, and may write nothing else."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from psycopg import Connection
from psycopg.errors import InsufficientPrivilege

from config.ids import uuid7
from config.settings import Settings
from ledger import archive, attempts, workers
from ledger.attempts import Success
from ledger.connection import Database
from ledger.roles import Role
from tests.roles.conftest import TIMEOUTS, Two
from workers.upkeep import Upkeep

pytestmark = pytest.mark.every_postgres

#: By table, the columns that it may change.
WRITES = {
    "jobs": {"state", "reason", "finished_at", "due_at", "failures", "error", "solo", "worker_id", "seq", "result"},
    "archive": {"result"},
}


@pytest.fixture
def own(two: Two) -> Iterator[Database]:
    database = Database(two.log_in("upkeep"), Role.UPKEEP, size=1)
    yield database
    database.close()


def finish(two: Two) -> None:
    """All jobs have succeeded an hour ago, each with a result."""
    worker = uuid7()
    ids = [(job_id, 1) for jobs in two.jobs.values() for job_id in jobs]
    begun, _ = attempts.begin(two.tx, worker, ids, TIMEOUTS)
    attempts.complete_many(two.tx, worker, [Success(job.job_id, 1, '{"ok": true}') for job in begun])
    two.tx.execute("update haulier.jobs set finished_at = now() - interval '1 hour', submitted_at = now() - interval '2 hours'")


def results(two: Two) -> dict[str, int]:
    rows = two.tx.execute(
        "select 'jobs', count(*) from haulier.jobs where result is not null"
        " union all select 'archive', count(*) from haulier.archive where result is not null"
    )
    return dict(rows.fetchall())


@pytest.mark.parametrize("table", ["jobs", "archive"])
def test_results_past_their_time_are_taken_away_whosever_they_are(two: Two, own: Database, table: Any):
    finish(two)
    forced = two.tx.execute("select relforcerowsecurity from pg_class where oid = %s::regclass", (f"haulier.{table}",)).fetchone()
    if table == "archive":
        archive.open_partitions(two.tx, datetime.now(UTC).date())
        archive.archive(two.tx, timedelta(0), None)
    before = results(two)

    with own.plumbing() as tx:
        _, gone = archive.forget_results(tx, table, {"test.run": 60.0}, None, None)

    assert forced == (True,)
    assert (before[table], gone, results(two)[table]) == (4, 4, 0)


def test_a_tick_does_all_of_its_work_with_these_rights(two: Two, own: Database):
    """Takes back what a dead worker held, cancels what has expired, and archives what has ended: each for both tenants."""
    worker = uuid7()
    workers.register(two.tx, worker, "worker", "1")
    held = [(jobs[0], 1) for jobs in two.jobs.values()]
    attempts.begin(two.tx, worker, held, TIMEOUTS)
    two.tx.execute("update haulier.workers set seen_at = now() - interval '1 hour'")
    two.tx.execute("update haulier.jobs set expires_at = now() - interval '1 second' where state = 'queued'")
    two.tx.execute("update haulier.outbox set expires_at = now() - interval '1 second'")
    settings = Settings(database_url=own.url, result_ttl=60, archive_after=0)  # pyright: ignore[reportCallIssue, reportArgumentType]
    upkeep = Upkeep(settings, own, {})
    upkeep._connected_since = time.monotonic() - 60  # as if for a minute

    with own.plumbing() as tx:
        upkeep.tick(tx)

    rows = two.tx.execute("select 'live', tenant_id, state::text from haulier.jobs union all select 'archived', tenant_id, state::text from haulier.archive")  # fmt: skip
    assert sorted(rows.fetchall()) == [
        (where, tenant, state) for where, state in (("archived", "cancelled"), ("live", "queued")) for tenant in (two.mine, two.other)
    ]
    assert two.tx.execute("select count(*) from haulier.leases").fetchone() == (0,)


def test_a_lock_that_somebody_holds_is_no_outage(two: Two, own: Database):
    """Whoever waits for one (a migration has it, say) sees leases and heartbeats all the same, and must not wait another lease to rescue."""
    settings = Settings(database_url=own.url, tick=0.05)  # pyright: ignore[reportCallIssue, reportArgumentType]
    upkeep = Upkeep(settings, own, {})
    connected: list[float | None] = []
    tick = upkeep.tick

    def watched(tx: Connection[Any]) -> None:
        connected.append(upkeep._connected_since)
        if len(connected) > 1:
            upkeep.stop()
            return
        tick(tx)
        connected.clear()  # it met no lock

    upkeep.tick = watched
    with two.tx.transaction():
        two.tx.execute("lock table haulier.archive in share mode")
        upkeep.run()

    assert connected == [connected[0]] * 2
    assert connected[0] is not None


def test_it_may_change_these_columns_and_no_others(two: Two, own: Database):
    rows = two.tx.execute(
        "select c.relname, a.attname from pg_class c join pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped"
        " where c.relnamespace = 'haulier'::regnamespace and c.relname = any(%s)"
        "   and has_column_privilege('haulier_upkeep', c.oid, a.attname, 'update')",
        (list(WRITES),),
    ).fetchall()

    assert {table: {column for name, column in rows if name == table} for table in WRITES} == WRITES
    with own.plumbing() as tx, pytest.raises(InsufficientPrivilege):
        tx.execute("update haulier.archive set result = null, payload = '{}'")
