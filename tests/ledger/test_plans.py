"""Prepared statements keep the plan that was right when the tables were tiny. Those of the hot path must be right at any size."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest

from ledger import attempts, outbox
from ledger.attempts import End, Lease, Success
from ledger.connection import driver_of
from tests.ledger.conftest import TIMEOUTS, Books

pytestmark = pytest.mark.every_postgres

Tx = psycopg.Connection[Any]

READ = """
select (select sum(seq_tup_read) from pg_stat_user_tables where relid = any(%s::regclass[]))
     + (select sum(idx_tup_read) from pg_stat_user_indexes where relid = any(%s::regclass[]))
"""
TABLES = ["haulier.jobs", "haulier.outbox", "haulier.leases"]


def test_claim_begin_and_settle_go_by_their_keys_even_with_plans_made_for_empty_tables(books: Books):
    hot = books.database.connect()
    books.tx.execute("vacuum analyze haulier.jobs, haulier.outbox, haulier.leases")  # it says that they are empty, and is believed
    with books.database.handlers.connect() as connection:
        handlers = driver_of(connection)
        for _ in range(8):  # the sixth time is the first with a plan that is kept
            one_round(books, hot, handlers)
        books.submit(3000, queue="other")
        before = rows_read(books, hot, handlers)

        for _ in range(4):
            one_round(books, hot, handlers)

        read = rows_read(books, hot, handlers) - before
    hot.close()
    assert books.value("select count(*) from haulier.jobs where state in ('succeeded', 'scheduled', 'running')") == 12 * 5
    assert read < 1000


def one_round(books: Books, hot: Tx, handlers: Tx) -> None:
    """Five jobs: one is completed by itself, two together, one fails, one is asked for by who has begun it."""
    books.submit(5)
    names = [(row.job_id, row.attempt) for row in outbox.claim(hot, "test", ["test.run"], window=100, limit=5).rows]
    one, two, three, four, five = (job.job_id for job in attempts.begin(hot, books.worker, names, TIMEOUTS)[0])
    attempts.complete(handlers, Lease(one, 1, books.worker), None)
    attempts.complete_many(hot, books.worker, [Success(two, 1), Success(three, 1)])
    attempts.settle(hot, [End(four, 1, books.worker, "scheduled", "failed", wait=600)])
    assert [job.job_id for job in attempts.held(hot, books.worker, [(five, 1)])] == [five]


def rows_read(books: Books, *connections: Tx) -> int:
    for connection in connections:
        connection.execute("select pg_stat_force_next_flush()")
        connection.execute("select 1")
        connection.rollback()
    return int(books.value(READ, TABLES, TABLES))
