"""Leases and rescue: a worker's heartbeat holds what it runs, and nothing else does."""

from __future__ import annotations

import pytest

from config.ids import uuid7
from ledger import jobs, workers
from tests.ledger.conftest import Books

pytestmark = pytest.mark.every_postgres


def test_a_heartbeat_keeps_the_lease_and_its_end_lapses_it(books: Books):
    lease = books.running()
    assert workers.lapsed(books.tx, lease=8, grace=10) == []

    books.tx.execute("update haulier.workers set seen_at = now() - interval '9 seconds'")

    [lapsed] = workers.lapsed(books.tx, lease=8, grace=10)
    assert (lapsed.job_id, lapsed.late) == (lease.job_id, False)
    workers.heartbeat(books.tx, books.worker)
    assert workers.lapsed(books.tx, lease=8, grace=10) == []


def test_a_worker_is_lost_of_late_when_it_falls_silent_or_stops(books: Books):
    def lost(seen: float, stopped: float | None) -> bool:
        books.tx.execute(
            "update haulier.workers set seen_at = now() - make_interval(secs => %s), stopped_at = now() - make_interval(secs => %s)",
            (seen, stopped),
        )
        return workers.lost_of_late(books.tx, lease=8)

    assert not lost(7, None)
    assert lost(9, None)
    assert lost(0, 0)
    assert not lost(360, None)


def test_a_deadline_lapses_even_under_a_live_heartbeat(books: Books):
    lease = books.running()
    books.tx.execute("update haulier.leases set deadline_at = now() - interval '11 seconds'")

    [lapsed] = workers.lapsed(books.tx, lease=8, grace=10)

    assert (lapsed.job_id, lapsed.late) == (lease.job_id, True)


def test_a_heartbeat_tells_which_jobs_are_to_be_cancelled(books: Books):
    lease = books.running()
    jobs.request_cancel(books.tx, lease.job_id, [books.tenant], "me")

    assert workers.heartbeat(books.tx, books.worker, [lease.job_id, uuid7()]) == (True, [lease.job_id])
    assert workers.heartbeat(books.tx, uuid7(), [lease.job_id]) == (False, [])


def test_a_heartbeat_walks_through_no_leases(books: Books):
    books.begin(*books.submit(300))
    read = "select sum(seq_tup_read + coalesce(idx_tup_fetch, 0))::bigint from pg_stat_user_tables where relname in ('jobs', 'leases')"
    books.tx.execute("select pg_stat_force_next_flush()")
    before = books.value(read)

    workers.heartbeat(books.tx, books.worker, [uuid7()])

    books.tx.execute("select pg_stat_force_next_flush()")
    assert books.value(read) == before


def test_only_live_workers_make_a_command_known(books: Books):
    assert "test.run" in workers.crew(books.tx, 8).commands

    workers.stop(books.tx, books.worker)

    assert workers.crew(books.tx, 8).commands == frozenset()


def test_only_a_sleeping_relay_is_woken(books: Books):
    relay = uuid7()
    workers.register(books.tx, relay, "relay", "1")
    assert workers.wake(books.tx) is False

    workers.set_asleep(books.tx, relay, asleep=True)

    assert workers.wake(books.tx) is True
