"""The archive: whole families leave, are read as before, and go with their day."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest

from config.ids import first_id_at, uuid7
from ledger import archive, attempts, following, jobs, reading
from ledger.attempts import Lease
from tests.ledger.conftest import Books

pytestmark = pytest.mark.every_postgres

Tx = psycopg.Connection[Any]


def test_a_finished_job_reads_the_same_from_the_archive(books: Books):
    lease = books.running()
    attempts.complete(books.tx, lease, '{"ok": true}', '[{"message": "hello"}]')
    archive.open_partitions(books.tx, datetime.now(UTC).date())
    before = (reading.job(books.tx, lease.job_id, None), reading.timeline(books.tx, lease.job_id), reading.attempts(books.tx, lease.job_id))

    step = archive.archive(books.tx, timedelta(0), None)

    assert (step.seen, step.moved) == (1, 1)
    after = (reading.job(books.tx, lease.job_id, None), reading.timeline(books.tx, lease.job_id), reading.attempts(books.tx, lease.job_id))
    assert after == before
    assert books.count("jobs") == books.count("events") == books.count("attempts") == 0


def test_a_family_stays_until_all_of_it_has_ended_well(books: Books):
    lease = books.running()
    [child] = books.submit(parent_id=lease.job_id, root_id=lease.job_id)
    attempts.complete(books.tx, lease, None)
    archive.open_partitions(books.tx, datetime.now(UTC).date())
    assert archive.archive(books.tx, timedelta(0), None).moved == 0

    books.begin(child)
    attempts.complete(books.tx, Lease(child, 1, books.worker), None)

    assert archive.archive(books.tx, timedelta(0), None).moved == 2
    job = reading.job(books.tx, lease.job_id, None)
    assert job is not None
    assert job.family == {"succeeded": 2}


def test_a_family_is_looked_for_in_its_own_day_alone(books: Books):
    today = datetime.now(UTC).date()
    for days in range(0, 40, 4):
        archive.open_partitions(books.tx, today - timedelta(days=days))
    lease = books.running()
    [child] = books.submit(parent_id=lease.job_id, root_id=lease.job_id)
    books.begin(child)
    attempts.complete(books.tx, lease, None)
    attempts.complete(books.tx, Lease(child, 1, books.worker), None)
    assert archive.archive(books.tx, timedelta(0), None).moved == 2
    scans = "select sum(idx_scan) from pg_stat_user_indexes where indexrelname ~ '^archive_.*_parent_id_idx'"
    before = books.value(scans)

    with books.database.connect() as reader:
        job = reading.job(reader, lease.job_id, None)
        reader.execute("select pg_stat_force_next_flush()")
        reader.execute("select 1")

    assert job is not None
    assert job.family == {"succeeded": 2}
    assert books.value("select count(*) from pg_inherits where inhparent = 'haulier.archive'::regclass") >= 40
    assert books.value(scans) - before == 2


READS: dict[str, Callable[[Tx, UUID], Any]] = {
    "job": lambda tx, job_id: reading.job(tx, job_id, None),
    "jobs": lambda tx, job_id: reading.jobs(tx, [job_id], None),
    "timeline": reading.timeline,
    "attempts": reading.attempts,
    "family": lambda tx, job_id: reading.family(tx, job_id, None),
    "descends": lambda tx, job_id: reading.descends(tx, job_id, job_id),
    "exists": lambda tx, job_id: jobs.exists(tx, [job_id]),
    "versions": lambda tx, job_id: following.versions(tx, [job_id], [job_id]),
    "events": lambda tx, job_id: following.of_a_job(tx, job_id, 0),
    "events of its family": following.of_a_family,
}


@pytest.mark.parametrize("archived", [False, True])
def test_a_job_is_looked_for_in_no_partition_that_is_older_than_itself(books: Books, archived: bool):
    today = datetime.now(UTC).date()
    for days in range(4, 40, 4):
        archive.open_partitions(books.tx, today - timedelta(days=days), ahead=0)
    archive.open_partitions(books.tx, today)
    lease = books.running()
    attempts.complete(books.tx, lease, None)
    assert archive.archive(books.tx, timedelta(0) if archived else timedelta(hours=1), None).moved == archived
    older = f"select sum(idx_scan) from pg_stat_user_indexes where relname ~ '^archive_' and relname < 'archive_{today - timedelta(days=3):%Y%m%d}'"
    before = books.value(older)

    found = {}
    with books.database.connect() as reader:
        for name, read in READS.items():
            found[name] = bool(read(reader, lease.job_id))
        reader.execute("select pg_stat_force_next_flush()")
        reader.execute("select 1")

    assert found == dict.fromkeys(READS, True)
    assert books.value(older) == before


@pytest.mark.parametrize("days", [10, -10])
def test_a_job_whose_clock_was_wrong_is_found_in_the_archive(books: Books, days: int):
    """Before its own time, as it says, has come."""
    moment = time.time() + timedelta(days=days).total_seconds()
    made = UUID(int=first_id_at(moment).int | secrets.randbits(62))
    jobs.submit(books.tx, [books.wish(made)])
    books.begin(made)
    attempts.complete(books.tx, Lease(made, 1, books.worker), None)
    archive.open_partitions(books.tx, datetime.now(UTC).date())
    books.tx.execute("insert into haulier.archive select j.*, current_date, '[]', '[]' from haulier.jobs j")
    books.tx.execute("delete from haulier.jobs")

    found = reading.job(books.tx, made, None)

    assert found is not None
    assert found.id == made


def test_an_id_that_says_no_time_is_looked_for_in_every_day(books: Books):
    assert reading.archived_since([uuid7(), uuid4()]) == date.min
    assert reading.archived_since([uuid7(), uuid7()]) == datetime.now(UTC).date() - timedelta(days=2)


def test_jobs_that_are_too_young_are_not_even_read(books: Books):
    books.submit(2000)
    books.tx.execute("vacuum analyze haulier.jobs")
    read = "select idx_tup_read + seq_tup_read from pg_stat_user_indexes join pg_stat_user_tables using (relid) where indexrelid = 'haulier.jobs_have_distinct_ids'::regclass"
    books.tx.execute("select pg_stat_force_next_flush()")
    before = books.value(read)

    with books.database.connect() as upkeep:
        assert archive.archive(upkeep, timedelta(hours=1), None).seen == 0
        upkeep.execute("select pg_stat_force_next_flush()")
        upkeep.execute("select 1")

    assert books.value(read) - before < 10


def test_old_days_are_dropped_whole(books: Books):
    today = datetime.now(UTC).date()
    archive.open_partitions(books.tx, today - timedelta(days=40))
    archive.open_partitions(books.tx, today)

    dropped = archive.drop_partitions(books.tx, today - timedelta(days=30))

    assert len(dropped) == 4
    assert archive.drop_partitions(books.tx, today - timedelta(days=30)) == []


def test_a_key_is_forgotten_after_its_time(books: Books):
    books.submit(key="a")
    assert archive.forget_keys(books.tx) == 0

    books.tx.execute("update haulier.idempotency_keys set expires_at = now()")

    assert archive.forget_keys(books.tx) == 1


@pytest.mark.parametrize("archived", [False, True])
def test_a_result_goes_when_its_time_is_over_and_its_job_stays(books: Books, archived: bool):
    old, new = books.running(), books.running()
    for lease in (old, new):
        attempts.complete(books.tx, lease, '{"ok": true}')
    books.tx.execute("update haulier.jobs set finished_at = now() - interval '1 hour' where id = %s", (old.job_id,))
    if archived:
        archive.open_partitions(books.tx, datetime.now(UTC).date())
        archive.archive(books.tx, timedelta(0), None)
    table = "archive" if archived else "jobs"

    others = archive.forget_results(books.tx, table, {"test.after": 60.0}, None, None)
    first = archive.forget_results(books.tx, table, {"test.run": 60.0}, None, None, limit=1)
    second = archive.forget_results(books.tx, table, {"test.run": 60.0}, None, first[0], limit=1)
    end = archive.forget_results(books.tx, table, {"test.run": 60.0}, None, second[0], limit=1)

    assert (others, first, second, end) == ((new.job_id, 0), (old.job_id, 1), (new.job_id, 0), (None, 0))
    jobs = {lease: reading.job(books.tx, lease.job_id, None) for lease in (old, new)}
    assert [(job.state, job.result) for job in jobs.values() if job] == [("succeeded", None), ("succeeded", {"ok": True})]


def test_results_of_commands_without_a_time_of_their_own_have_the_default(books: Books):
    lease = books.running()
    attempts.complete(books.tx, lease, '{"ok": true}')
    books.tx.execute("update haulier.jobs set finished_at = now() - interval '1 hour' where id = %s", (lease.job_id,))

    gone = [
        archive.forget_results(books.tx, "jobs", ages, default, None)[1]
        for ages, default in (({"test.run": 7200.0}, 60.0), ({"test.after": 60.0}, 7200.0), ({"test.after": 7200.0}, 60.0))
    ]

    assert gone == [0, 0, 1]
