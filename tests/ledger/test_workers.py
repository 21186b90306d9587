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


def test_a_deadline_lapses_even_under_a_live_heartbeat(books: Books):
    lease = books.running()
    books.tx.execute("update haulier.leases set deadline_at = now() - interval '11 seconds'")

    [lapsed] = workers.lapsed(books.tx, lease=8, grace=10)

    assert (lapsed.job_id, lapsed.late) == (lease.job_id, True)


def test_a_heartbeat_tells_which_jobs_are_to_be_cancelled(books: Books):
    lease = books.running()
    jobs.request_cancel(books.tx, lease.job_id, [books.tenant], "me")

    assert workers.heartbeat(books.tx, books.worker) == (True, [lease.job_id])
    assert workers.heartbeat(books.tx, uuid7()) == (False, [])


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
