"""Prepared statements keep the plan that was right when the tables were tiny. Those of the hot path must be right at any size."""

from __future__ import annotations

import pytest

from ledger import attempts, outbox
from ledger.attempts import Lease, Success
from ledger.connection import driver_of
from tests.ledger.conftest import TIMEOUTS, Books

pytestmark = pytest.mark.every_postgres

SCANS = """
select relname, seq_scan from pg_stat_user_tables
 where schemaname = 'haulier' and relname in ('jobs', 'outbox', 'leases', 'attempts', 'events') order by relname
"""


def test_claim_begin_and_settle_read_no_table_whole(books: Books):
    hot = books.database.connect()
    books.tx.execute("vacuum analyze haulier.jobs, haulier.outbox, haulier.leases")  # it says that they are empty, and is believed
    for _ in range(8):  # the sixth time is the first with a plan that is kept
        books.submit(3)
    books.tx.execute("select pg_stat_force_next_flush()")
    before = books.tx.execute(SCANS).fetchall()

    with books.database.handlers.connect() as connection:
        for _ in range(8):
            names = [(row.job_id, row.attempt) for row in outbox.claim(hot, "test", ["test.run"], window=100, limit=3)]
            first, *rest = attempts.begin(hot, books.worker, names, TIMEOUTS)[0]
            attempts.complete(driver_of(connection), Lease(first.job_id, 1, books.worker), None)
            attempts.complete_many(hot, books.worker, [Success(job.job_id, job.attempt) for job in rest])
        driver_of(connection).execute("select pg_stat_force_next_flush()")
        connection.commit()
    hot.execute("select pg_stat_force_next_flush()")

    assert books.value("select count(*) from haulier.jobs where state = 'succeeded'") == 24
    hot.close()
    assert books.tx.execute(SCANS).fetchall() == before
