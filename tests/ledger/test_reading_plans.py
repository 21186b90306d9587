"""What a tenant reads goes by indexes under row-level security too (trap 16), whatever others have: by plans made for empty tables, and by fresh ones."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any
from uuid import UUID

import psycopg
import pytest

from config.ids import first_id_at, uuid7
from ledger import archive, audit, deliveries, keys, reading
from ledger.connection import Database
from ledger.reading import Filter
from ledger.roles import Role
from tests.ledger.conftest import Books

pytestmark = pytest.mark.every_postgres

Tx = psycopg.Connection[Any]
Call = Callable[[Tx], object]

#: Jobs of somebody else's, as many in the archive as in the live tables; and one's own.
MANY = 10_000
FEW = 20
PAGE = 50

ADD = """
insert into haulier.jobs (id, tenant_id, root_id, command, queue, state, priority, max_failures, due_at, started_at, finished_at, labels, payload)
select id, %(tenant)s, id, 'test.run', 'test', 'dead', 0, 3, now(), now(), now(), '{"shelf": "a"}', '{"n": 1}' from unnest(%(ids)s::uuid[]) as id
"""
ARCHIVE = "insert into haulier.archive select j.*, current_date, '[]', '[]' from haulier.jobs j"
#: What there is of each job beside its row.
BESIDE = """
with events as (
    insert into haulier.events (job_id, seq, tenant_id, kind, state, attempt) select id, 1, tenant_id, 'died', 'dead', 1 from haulier.jobs),
attempts as (
    insert into haulier.attempts (job_id, number, tenant_id, worker_id, started_at, finished_at, outcome)
    select id, 1, tenant_id, id, now(), now(), 'died' from haulier.jobs),
letters as (
    insert into haulier.dead_letters (job_id, tenant_id, command, reason, message) select id, tenant_id, command, 'exhausted', '' from haulier.jobs),
audited as (
    insert into haulier.audit (id, tenant_id, who, action, target) select id, tenant_id, 'key:a', 'job.replay', id::text from haulier.jobs)
insert into haulier.webhook_deliveries (id, tenant_id, webhook_id, event, body, job_ids, subject_id, subject_seq, created_at)
select id, tenant_id, lpad(to_hex(tenant_id), 32, '0')::uuid, 'job.dead', '', array[id], id, 1, now() + row_number() over (order by id) * interval '1 microsecond'
  from haulier.jobs
"""
READ = """
with looked_at as (
    select relid from pg_stat_user_tables where schemaname = 'haulier'
       and (relname in ('jobs', 'events', 'attempts', 'outbox', 'leases', 'dead_letters', 'audit', 'webhook_deliveries') or relname ~ '^archive_'))
select (select sum(seq_tup_read) from pg_stat_user_tables where relid in (select relid from looked_at))::bigint,
       (select sum(idx_tup_read) from pg_stat_user_indexes where relid in (select relid from looked_at))::bigint
"""


@dataclass
class Tenant:
    """Whose jobs these are, the archived ones first."""

    id: int
    jobs: list[UUID]

    @property
    def webhook(self) -> UUID:
        return UUID(int=self.id)


@dataclass
class Crowd:
    books: Books
    client: Database
    small: Tenant
    large: Tenant

    def fill(self) -> None:
        tx = self.books.tx
        with tx.transaction():
            for part in (0, 1):
                for tenant in (self.small, self.large):
                    half = len(tenant.jobs) // 2
                    tx.execute(ADD, {"tenant": tenant.id, "ids": tenant.jobs[part * half : (part + 1) * half]})
                if part == 0:
                    tx.execute(ARCHIVE)
                    tx.execute("delete from haulier.jobs")
            tx.execute(BESIDE)
        flush(tx)

    def read(self, tenant: Tenant, call: Call) -> None:
        """As a key of the tenant does it."""
        with self.client.transaction(Role.CLIENT, tenant.id) as tx:
            call(tx)

    def cost(self, tenant: Tenant, call: Call) -> tuple[int, int]:
        """Rows that the call reads: by going through tables, and by index."""
        before = self._rows(tenant)
        self.read(tenant, call)
        after = self._rows(tenant)
        return after[0] - before[0], after[1] - before[1]

    def _rows(self, tenant: Tenant) -> tuple[int, int]:
        self.read(tenant, flush)
        self.read(tenant, flush)
        row = self.books.tx.execute(READ).fetchone()
        assert row is not None
        return row


def flush(tx: Tx) -> None:
    tx.execute("select pg_stat_force_next_flush()")
    tx.execute("select 1")


@pytest.fixture
def crowd(books: Books, database_url: str) -> Iterator[Crowd]:
    for age in range(30):  # as many days as are kept, all but the last of them empty
        archive.open_partitions(books.tx, datetime.now(UTC).date() - timedelta(days=age))
    other = keys.add_tenant(books.tx, "large", "Large")
    assert other is not None
    client = Database(database_url, size=1)
    mine, theirs = ([uuid7() for _ in range(2 * number)] for number in (FEW, MANY))
    yield Crowd(books, client, Tenant(books.tenant, mine), Tenant(other.id, theirs))
    client.close()


def by_key(tenant: Tenant) -> dict[str, Call]:
    """What a tenant may ask about jobs that it names."""
    own, first, last = [tenant.id], tenant.jobs[0], tenant.jobs[-1]
    ids = [*tenant.jobs[:200], *tenant.jobs[-200:], *(uuid7() for _ in range(100))]
    return {
        "job": lambda tx: reading.job(tx, first, own),
        "jobs": lambda tx: reading.jobs(tx, ids, own),
        "attempts": lambda tx: reading.attempts(tx, last),
        "timeline": lambda tx: reading.timeline(tx, last),
        "family": lambda tx: reading.family(tx, first, own),
        "descends": lambda tx: reading.descends(tx, first, last),
    }


def lists(tenant: Tenant) -> dict[str, Call]:
    """What it may ask for by a filter."""
    own, middle, long_ago = [tenant.id], tenant.jobs[len(tenant.jobs) * 3 // 4], datetime(2026, 1, 1, tzinfo=UTC)
    filters = {
        "all": Filter(),
        "of a command": Filter(command="test.run"),
        "with a label": Filter(labels={"shelf": "a"}),
        "in a state": Filter(states=["dead", "succeeded"]),
        "open": Filter(states=["queued", "running"]),
        "dead": Filter(states=["dead"]),
        "since": Filter(submitted_after=long_ago),
        "next page": Filter(before=middle),
    }
    return {
        **{name: lambda tx, wanted=wanted: reading.list_jobs(tx, own, wanted, PAGE) for name, wanted in filters.items()},
        "audit": lambda tx: audit.list_records(tx, own, audit.Filter(), PAGE),
        "deliveries": lambda tx: deliveries.list_deliveries(tx, tenant.id, tenant.webhook, None, None, PAGE),
        "again": lambda tx: deliveries.in_range(tx, tenant.id, tenant.webhook, tenant.jobs[0], long_ago, None, ["failed"], PAGE),
    }


def dear(crowd: Crowd, *asked: Callable[[Tenant], dict[str, Call]]) -> dict[tuple[str, int], tuple[int, int]]:
    """What costs more than it may, in rows: any that are met by going through a table, or more than three for each of the 500 that may be named."""
    found = {
        (name, tenant.id): crowd.cost(tenant, call)
        for tenant in (crowd.small, crowd.large)
        for each in asked
        for name, call in each(tenant).items()
    }
    return {name: (whole, by_index) for name, (whole, by_index) in found.items() if whole or by_index > 1500}


def test_what_a_tenant_reads_costs_neither_what_others_have_nor_all_that_it_has_itself(crowd: Crowd):
    crowd.fill()
    crowd.books.tx.execute("vacuum analyze")
    flush(crowd.books.tx)

    assert dear(crowd, by_key, lists) == {}


def test_look_ups_after_a_list_in_the_same_transaction_are_not_planned_anew(crowd: Crowd):
    kept: list[str] = []

    def redeliver(tx: Tx) -> None:
        deliveries.in_range(
            tx, crowd.small.id, crowd.small.webhook, crowd.small.jobs[0], datetime(2026, 1, 1, tzinfo=UTC), None, ["failed"], PAGE
        )
        [(mode,)] = tx.execute("show plan_cache_mode").fetchall()
        kept.append(mode)

    crowd.read(crowd.small, redeliver)

    assert kept == ["force_generic_plan"]


OLD = """
insert into haulier.jobs (id, tenant_id, root_id, command, queue, state, priority, max_failures, submitted_at, due_at, started_at, finished_at, payload)
select id, %(tenant)s, id, 'test.run', 'test', case when number = 1 then 'rejected' else 'succeeded' end::haulier.job_state, 0, 3, at, at, at, at, '{}'
  from unnest(%(ids)s::uuid[], %(times)s::timestamptz[]) with ordinality as made(id, at, number)
"""
#: Within which they were submitted.
DAYS = 5
TO_ITS_DAY = "insert into haulier.archive select j.*, (submitted_at at time zone 'UTC')::date, '[]', '[]' from haulier.jobs j"


def test_what_is_rare_and_what_was_long_ago_is_found_without_reading_all_that_succeeded(crowd: Crowd):
    now, tx, tenant = datetime.now(UTC), crowd.books.tx, crowd.large
    times = [now - timedelta(days=DAYS * number / MANY) for number in range(MANY, 0, -1)]
    ids = [UUID(int=first_id_at(each.timestamp()).int | number) for number, each in enumerate(times)]
    with tx.transaction():
        tx.execute(OLD, {"tenant": tenant.id, "ids": ids, "times": times})
        tx.execute(TO_ITS_DAY)
        tx.execute("delete from haulier.jobs")
    tx.execute("vacuum analyze")
    flush(tx)
    filters = {
        "rejected": Filter(states=["rejected"]),
        "within three hours": Filter(submitted_after=now - timedelta(days=3), submitted_before=now - timedelta(days=2, hours=21)),
        "older than that": Filter(submitted_before=now - timedelta(days=4)),
        "a label, within three hours": Filter(labels={"shelf": "a"}, submitted_after=now - timedelta(hours=3)),
    }

    found: dict[str, int] = {}

    def ask(tx: Tx, name: str) -> None:
        found[name] = len(reading.list_jobs(tx, [tenant.id], filters[name], PAGE))

    for name in filters:
        whole, by_index = crowd.cost(tenant, partial(ask, name=name))
        assert whole + by_index < 3 * PAGE + MANY * 5 / 24 / DAYS, name

    assert found == {"rejected": 1, "within three hours": PAGE, "older than that": PAGE, "a label, within three hours": 0}


def test_what_is_asked_for_by_key_is_found_by_it_even_with_plans_made_for_empty_tables(crowd: Crowd):
    crowd.books.tx.execute("vacuum analyze")  # it says that they are empty, and is believed
    for tenant in (crowd.small, crowd.large):
        for call in by_key(tenant).values():
            for _ in range(8):  # the sixth time is the first with a plan that is kept
                crowd.read(tenant, call)
    crowd.fill()

    assert dear(crowd, by_key) == {}
