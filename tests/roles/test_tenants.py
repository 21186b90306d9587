"""Two tenants: whoever acts for one sees and changes nothing of the other, whatever it asks for; without one, it sees nothing at all."""

from __future__ import annotations

import psycopg
import pytest
from psycopg.errors import InsufficientPrivilege

from config.ids import uuid7
from ledger import attempts, jobs, reading
from ledger.attempts import Lease, LeaseLostError, Success
from ledger.connection import opening, send
from tests.roles.conftest import TIMEOUTS, Two, submission

pytestmark = pytest.mark.every_postgres

READABLE = ["tenants", "jobs", "outbox", "events", "api_keys", "attempts", "dead_letters", "audit", "archive", "every_job", "every_event"]


@pytest.mark.parametrize("tenant", [None, "", "0"])
def test_without_a_tenant_there_are_no_rows(two: Two, tenant: str | None):
    """After a transaction that was bound, the setting is '' and not null (trap 15)."""
    tx = two.act("haulier_client")
    if tenant is not None:
        tx.execute("select set_config('haulier.tenant', %s, true)", (tenant,))

    for table in READABLE:
        columns = "id" if table == "api_keys" else "*"
        assert tx.execute(f"select {columns} from haulier.{table}").fetchall() == [], table  # pyright: ignore[reportArgumentType, reportCallIssue]


def test_a_client_sees_its_own_and_only_that(two: Two):
    tx = two.act("haulier_client", two.mine)

    assert {row[0] for row in tx.execute("select id from haulier.every_job")} == set(two.jobs[two.mine])
    assert [row[0] for row in tx.execute("select slug from haulier.tenants")] == ["mine"]
    assert [row[0] for row in tx.execute("select tenant_id from haulier.api_keys")] == [two.mine]
    assert {row[0] for row in tx.execute("select tenant_id from haulier.events")} == {two.mine}
    assert reading.job(tx, two.jobs[two.other][0], None) is None  # even where the query itself is not restricted
    assert len(reading.list_jobs(tx, None, reading.Filter(), 10)) == 2


def test_a_client_changes_nothing_of_another(two: Two):
    foreign = two.jobs[two.other][0]
    tx = two.act("haulier_client", two.mine)

    assert jobs.cancel(tx, foreign, [two.other], "me") is False
    assert jobs.request_cancel(tx, foreign, [two.other], "me") is False
    assert tx.execute("update haulier.jobs set payload = '{}' where id = %s", (foreign,)).rowcount == 0
    assert tx.execute("delete from haulier.outbox where job_id = %s", (foreign,)).rowcount == 0
    assert tx.execute("update haulier.api_keys set revoked_at = now() where tenant_id = %s", (two.other,)).rowcount == 0
    tx.commit()

    assert two.tx.execute("select state::text from haulier.jobs where id = %s", (foreign,)).fetchone() == ("queued",)
    assert two.tx.execute("select count(*) from haulier.api_keys where revoked_at is not null").fetchone() == (0,)


@pytest.mark.parametrize("role", ["haulier_client", "haulier_handler"])
def test_a_foreign_row_cannot_be_written(two: Two, role: str):
    tx = two.act(role, two.mine)

    with pytest.raises(InsufficientPrivilege, match="row-level security"):
        tx.execute(
            "insert into haulier.events (job_id, seq, tenant_id, kind, state, attempt) values (%s, 9, %s, 'forged', 'queued', 0)",
            (two.jobs[two.other][0], two.other),
        )


def test_a_row_cannot_be_moved_to_another_tenant(two: Two):
    tx = two.act("haulier_client", two.mine)

    with pytest.raises(InsufficientPrivilege):
        tx.execute("update haulier.jobs set tenant_id = %s", (two.other,))


def test_a_handler_submits_for_its_own_tenant_and_completes_its_own_job_and_no_others(two: Two):
    worker = uuid7()
    begun, _ = attempts.begin(two.tx, worker, [(two.jobs[two.mine][0], 1), (two.jobs[two.other][0], 1)], TIMEOUTS)
    mine, other = sorted(begun, key=lambda job: job.tenant_id)
    tx = two.act("haulier_handler")
    tx.rollback()
    send(tx, opening(two.mine))
    with pytest.raises(LeaseLostError):
        attempts.complete(tx, Lease(other.job_id, 1, worker), None)
    send(tx, b"rollback; " + opening(two.mine))
    with pytest.raises(LeaseLostError):
        attempts.complete_together(tx, worker, [Success(mine.job_id, 1), Success(other.job_id, 1)])
    send(tx, b"rollback; " + opening(two.mine))
    with pytest.raises(InsufficientPrivilege):
        jobs.submit(tx, [submission(two.other)])
    send(tx, b"rollback; " + opening(two.mine))

    assert len(jobs.submit(tx, [submission(two.mine, key="k")])) == 1
    attempts.complete(tx, Lease(mine.job_id, 1, worker), '"done"', chain=two.other)

    assert tx.execute("select current_setting('haulier.tenant')").fetchone() == (str(two.other),)
    states = dict(
        two.tx.execute("select id, state::text from haulier.jobs where worker_id is not null or finished_at is not null").fetchall()
    )
    assert states == {mine.job_id: "succeeded", other.job_id: "running"}


def test_a_handler_reads_no_payload_and_no_key(two: Two):
    for statement in (
        "select payload from haulier.jobs",
        "select * from haulier.jobs",
        "select hash from haulier.api_keys",
        "select 1 from haulier.leases",
        "select 1 from haulier.events",
        "update haulier.jobs set state = 'succeeded'",
        "delete from haulier.outbox",
        "insert into haulier.dead_letters (job_id, tenant_id, command, reason) select id, tenant_id, 'x', 'y' from haulier.jobs",
    ):
        tx = two.act("haulier_handler", two.mine)
        with pytest.raises(InsufficientPrivilege):
            tx.execute(statement)
        tx.rollback()


def test_a_handler_meets_another_tenants_goods_nowhere(two: Two):
    """Whatever SQL it runs: reads, changes, deletes, and unique values that would tell it of them (trap 17)."""
    for tenant in (two.mine, two.other):
        with two.tx.transaction():
            two.tx.execute("select set_config('haulier.tenant', %s, true)", (str(tenant),))
            two.tx.execute(
                "insert into orders.products (tenant, sku, name, price, stock, available) values ('t', %s, 'x', 1, 5, 5)",
                (f"sku-{tenant}",),
            )
    foreign = f"sku-{two.other}"
    tx = two.act("haulier_handler", two.mine)

    assert tx.execute("select sku from orders.products").fetchall() == [(f"sku-{two.mine}",)]
    assert tx.execute("update orders.products set price = 2").rowcount == 1
    assert tx.execute("delete from orders.products where sku = %s", (foreign,)).rowcount == 0
    tx.execute("insert into orders.products (tenant, sku, name, price, stock, available) values ('t', %s, 'mine too', 1, 1, 1)", (foreign,))
    with pytest.raises(InsufficientPrivilege), tx.transaction():
        tx.execute(
            "insert into orders.products (tenant_id, tenant, sku, name, price, stock, available) values (%s, 't', 'y', 'y', 1, 1, 1)",
            (two.other,),
        )
    with pytest.raises(InsufficientPrivilege), tx.transaction():
        tx.execute("update orders.products set tenant_id = %s", (two.other,))
    tx.commit()

    assert two.tx.execute("select name, price from orders.products where tenant_id = %s", (two.other,)).fetchall() == [("x", 1)]


def test_a_handler_that_is_bound_to_nobody_writes_nothing(two: Two):
    tx = two.act("haulier_handler")
    with pytest.raises((InsufficientPrivilege, psycopg.errors.NotNullViolation)):
        tx.execute("insert into orders.products (tenant, sku, name, price, stock, available) values ('t', 'x', 'x', 1, 5, 5)")


def test_an_operator_sees_all_tenants(two: Two):
    tx = two.act("haulier_operator")

    assert {row[0] for row in tx.execute("select id from haulier.every_job")} == {*two.jobs[two.mine], *two.jobs[two.other]}


def test_an_idempotency_key_of_one_tenant_is_no_news_to_another(two: Two):
    """Trap 17: the same key in another tenant is another key, and neither collides with nor shows the first."""
    two.tx.execute("update haulier.idempotency_keys set key = 'only-the-others' where tenant_id = %s and key = 'key-0'", (two.other,))
    tx = two.act("haulier_handler", two.mine)

    assert len(jobs.submit(tx, [submission(two.mine, key="only-the-others")])) == 1
    assert tx.execute("select count(*) from haulier.idempotency_keys where key = 'only-the-others'").fetchone() == (1,)


def test_a_partition_of_the_archive_is_open_to_nobody(two: Two):
    two.tx.execute("select haulier.open_archive(current_date)")
    [(name,)] = two.tx.execute(
        "select c.relname from pg_inherits i join pg_class c on c.oid = i.inhrelid where i.inhparent = 'haulier.archive'::regclass"
    ).fetchall()

    for role in ("haulier_client", "haulier_operator", "haulier_upkeep"):
        tx = two.act(role, two.mine)
        with pytest.raises(InsufficientPrivilege):
            tx.execute(f"select from haulier.{name}")  # pyright: ignore[reportArgumentType, reportCallIssue]
        tx.rollback()


def test_no_account_of_a_service_has_rights_of_its_own(two: Two):
    """A connection that forgot to assume its role finds every door closed."""
    with psycopg.connect(two.log_in("serve")) as tx, pytest.raises(InsufficientPrivilege):
        tx.execute("select id from haulier.jobs")
