"""Who may submit from a transaction of their own: an account that was granted the tenant, and nobody else."""

from __future__ import annotations

from pathlib import Path

import psycopg
import pytest
from psycopg.errors import InsufficientPrivilege

import producers
from ledger.jobs import Unique
from ledger.webhooks import add as add_webhook
from tests.console.running import haulier
from tests.intake.commands import HANDLERS, Note
from tests.roles.conftest import Two

pytestmark = pytest.mark.every_postgres

SUBMIT = """select haulier.submit('test.run', '{"n": 2}', '{"tenant": "mine"}')"""
FOREIGN = SUBMIT.replace("mine", "other")


def test_sql_submits_for_the_tenants_that_an_operator_granted(two: Two, tmp_path: Path):
    shop = two.account("test_shop")
    console = {"HAULIER_DATABASE_URL": two.log_in("console")}

    refused = refusal(shop, SUBMIT)
    granted = [haulier("tenants", "grant", "mine", "--role", "test_shop", cwd=tmp_path, **console) for _ in range(2)]
    with psycopg.connect(shop) as tx:
        row = tx.execute(SUBMIT).fetchone()
    foreign, absent = refusal(shop, FOREIGN), refusal(shop, SUBMIT.replace("mine", "nobody"))
    revoked = [haulier("tenants", "revoke", "mine", "--role", "test_shop", cwd=tmp_path, **console).returncode for _ in range(2)]
    again = refusal(shop, SUBMIT)

    assert row is not None
    assert two.tx.execute(
        "select e.who, j.tenant_id from haulier.events e join haulier.jobs j on j.id = e.job_id where j.id = %s", row
    ).fetchone() == (
        "test_shop",
        two.mine,
    )
    assert [done.returncode for done in granted] == [0, 0]
    assert "already" in granted[1].stdout
    assert revoked == [0, 1]
    assert "role test_shop may not submit for a tenant 'mine'" in refused == again
    assert "haulier tenants grant mine --role test_shop" in refused
    assert foreign.replace("other", "nobody") == absent  # no news of who is there
    audit = two.tx.execute("select action, target, who from haulier.audit where tenant_id = %s order by id", (two.mine,)).fetchall()
    assert audit == [("tenant.grant", "test_shop", "console:test_console"), ("tenant.revoke", "test_shop", "console:test_console")]


def test_sql_takes_a_unique_key_with_no_rights_but_to_submit(two: Two):
    shop = two.account("test_shop")
    two.tx.execute("insert into haulier.submitters values (%s, 'test_shop')", (two.mine,))
    unique = SUBMIT.replace('"mine"', '"mine", "unique": {"key": "u", "on_conflict": "%s"}')
    with psycopg.connect(shop) as tx:
        first, same, other = (tx.execute(unique % way).fetchone() for way in ("return", "return", "replace"))  # pyright: ignore[reportArgumentType, reportCallIssue]
    claim = "select haulier.claim_unique_key(gen_random_uuid(), 1, 'test.run', '{\"key\": \"u\"}')"
    cancel = "select haulier.replace_job(gen_random_uuid(), gen_random_uuid())"
    denied = [refusal(shop, statement) for statement in (claim, cancel)]

    assert first == same != other
    found = "select who, data->>'replaced_by' from haulier.events where kind = 'cancelled' and job_id = %s"
    assert first is not None
    assert other is not None
    assert two.tx.execute(found, first).fetchone() == ("test_shop", str(other[0]))
    assert all("permission denied for function" in each for each in denied)


def test_an_account_that_nobody_knows_is_granted_nothing(two: Two, tmp_path: Path):
    done = haulier("tenants", "grant", "mine", "--role", "no_such_role", cwd=tmp_path, HAULIER_DATABASE_URL=two.log_in("console"))

    assert done.returncode == 1
    assert "no_such_role" in done.stderr


def test_python_submits_in_the_callers_own_transaction(two: Two):
    shop = two.account("test_shop", "haulier_producer")
    two.tx.execute("insert into haulier.submitters values (%s, 'test_shop')", (two.mine,))
    webhooks = {
        tenant: add_webhook(two.tx, tenant, "", "https://x.example", ["job.dead"], None, "s").id for tenant in (two.mine, two.other)
    }

    with psycopg.connect(shop) as tx:
        first = producers.submit(tx, Note(text="a"), tenant="mine", key="k", handlers=HANDLERS)
        assert producers.submit(tx, Note(text="a"), tenant="mine", key="k", handlers=HANDLERS) == first
        held = producers.submit(tx, Note(text="b"), tenant="mine", unique=Unique("u"), handlers=HANDLERS)
        other = producers.submit(tx, Note(text="c"), tenant="mine", unique=Unique("u", on_conflict="replace"), handlers=HANDLERS)
        called = producers.submit(tx, Note(text="d"), tenant="mine", callback=webhooks[two.mine], handlers=HANDLERS)
        with pytest.raises(producers.InvalidSubmission, match="no webhook"):
            producers.submit(tx, Note(text="d"), tenant="mine", callback=webhooks[two.other], handlers=HANDLERS)
        with pytest.raises(ValueError, match="no tenant 'other'"):
            producers.submit(tx, Note(text="a"), tenant="other", handlers=HANDLERS)
        tx.commit()
        producers.wake(tx)

    states = dict(two.tx.execute("select id, state::text from haulier.jobs where id = any(%s)", ([first, held, other],)).fetchall())
    assert states == {first: "queued", held: "cancelled", other: "queued"}
    assert two.tx.execute("select job_id, webhook_id from haulier.callbacks").fetchall() == [(called, webhooks[two.mine])]


def test_a_producer_writes_no_foreign_row_and_reads_no_payload(two: Two):
    shop = two.account("test_shop", "haulier_producer")
    two.tx.execute("insert into haulier.submitters values (%s, 'test_shop')", (two.mine,))
    with psycopg.connect(shop) as tx:
        assert {row[0] for row in tx.execute("select tenant_id from haulier.jobs")} == {two.mine}
        forge = (
            "insert into haulier.events (job_id, seq, tenant_id, kind, state, attempt) select id, 9, {}, 'x', 'queued', 0 from haulier.jobs"
        )
        for statement in (
            forge.format(two.other),
            "select payload from haulier.jobs",
            "select haulier.granted_tenants(), hash from haulier.api_keys",
        ):
            with pytest.raises(InsufficientPrivilege), tx.transaction():
                tx.execute(statement)  # pyright: ignore[reportArgumentType, reportCallIssue]


def test_a_schema_in_the_callers_path_is_not_looked_at(two: Two):
    """A function that lends rights finds ours, whatever its caller puts in the way."""
    shop = two.account("test_shop")
    two.tx.execute("insert into haulier.submitters values (%s, 'test_shop')", (two.mine,))
    two.tx.execute("grant create on database " + two.tx.info.dbname + " to test_shop")  # pyright: ignore[reportArgumentType, reportCallIssue]
    with psycopg.connect(shop) as tx:
        tx.execute("create schema trap")
        tx.execute("create function trap.now() returns timestamptz language sql as $$ select '2000-01-01'::timestamptz $$")
        tx.execute("create temp table jobs (id uuid)")
        tx.execute("set search_path = trap, pg_temp, pg_catalog, haulier")
        row = tx.execute(SUBMIT).fetchone()

    found = two.tx.execute("select due_at > now() - interval '1 hour' from haulier.jobs where id = %s", row).fetchone()
    two.tx.execute("drop schema trap cascade")
    two.tx.execute("revoke create on database " + two.tx.info.dbname + " from test_shop")  # pyright: ignore[reportArgumentType, reportCallIssue]
    assert found == (True,)


def refusal(url: str, statement: str) -> str:
    with psycopg.connect(url) as tx, pytest.raises(InsufficientPrivilege) as error:
        tx.execute(statement)  # pyright: ignore[reportArgumentType, reportCallIssue]
    return f"{error.value.diag.message_primary} {error.value.diag.message_hint}"
