"""Role by role, what it may not do: each statement is refused with 42501, on a database where nothing else would stop it."""

from __future__ import annotations

import pytest
from psycopg.errors import InsufficientPrivilege

from tests.roles.conftest import Two

pytestmark = pytest.mark.every_postgres

ROLES = ["intake", "relay", "worker", "upkeep", "client", "operator", "handler", "producer"]

FORBIDDEN: dict[str, list[str]] = {
    # Nobody.
    "*": [
        "truncate haulier.jobs",
        "drop table haulier.jobs",
        "alter table haulier.jobs disable row level security",
        "drop policy own_tenant on haulier.jobs",
        "create table haulier.mine (id integer references haulier.tenants)",
        "create policy mine on haulier.jobs using (true)",
        "create function haulier.mine() returns integer language sql as 'select 1'",
        "update haulier.audit set who = 'nobody'",
        "delete from haulier.audit",
        "update haulier.audit_seals set seq = seq + 1",
        "delete from haulier.audit_seals",
        "delete from haulier.audit_heads",
        "insert into haulier.audit_unsealed (tenant_id, audit_id) values (1, gen_random_uuid())",
        "alter table haulier.audit disable trigger await_seal",
        "delete from haulier.api_keys",
        "update haulier.api_keys set role = 'platform'",
        "update haulier.api_keys set hash = ''",
        "delete from haulier.tenants",
        "update haulier.tenants set slug = 'mine'",
        "update haulier.events set kind = 'never'",
        "update haulier.attempts set outcome = 'succeeded'",
        "update haulier.migrations set version_num = '0000'",
        "delete from haulier.archive",
        "set role haulier_definer",
        "set session authorization haulier",
        "alter role haulier_client bypassrls",
        "call haulier.guard('haulier.jobs')",
        "select pg_read_file('postgresql.conf')",
        "copy (select 1) to program 'true'",
    ],
    "intake": [
        "select payload from haulier.jobs",
        "select * from haulier.every_job",
        "delete from haulier.jobs",
        "update haulier.jobs set payload = '{}'",
        "insert into haulier.leases select id, tenant_id, queue, 1, id, now() from haulier.jobs",
        "insert into haulier.api_keys (id, prefix, hash, role, name) values (gen_random_uuid(), 'x', '', 'platform', 'x')",
        "select * from haulier.events",
        "select haulier.complete(gen_random_uuid(), 1, gen_random_uuid(), null, null)",
        "select haulier.complete_together(gen_random_uuid(), '[]')",
    ],
    "relay": [
        "select payload from haulier.jobs",
        "insert into haulier.outbox select * from haulier.outbox",
        "delete from haulier.outbox",
        "update haulier.jobs set result = '1'",
        "select * from haulier.api_keys",
        "select * from haulier.tenants",
        "select * from haulier.archive",
    ],
    "worker": [
        "delete from haulier.jobs",
        "select * from haulier.api_keys",
        "select * from haulier.audit",
        "select * from haulier.idempotency_keys",
        "delete from haulier.events",
        "select haulier.drop_archive(current_date)",
        "select haulier.complete(gen_random_uuid(), 1, gen_random_uuid(), null, null)",
        "select haulier.complete_together(gen_random_uuid(), '[]')",
    ],
    "upkeep": [
        "select * from haulier.api_keys",
        "insert into haulier.audit (id, who, action) values (gen_random_uuid(), 'key:nobody', 'job.replay')",
        "select * from haulier.webhook_secrets",
        "update haulier.events set seq = 1",
        "update haulier.jobs set payload = '{}'",
        "update haulier.jobs set tenant_id = 1",
        "update haulier.archive set payload = '{}'",
        "update haulier.archive set state = 'rejected'",
        "select * from haulier.tenants",
        "select haulier.complete(gen_random_uuid(), 1, gen_random_uuid(), null, null)",
        "select haulier.complete_together(gen_random_uuid(), '[]')",
        "select * from orders.orders",
    ],
    "client": [
        "select hash from haulier.api_keys",
        "update haulier.jobs set result = '1'",
        "update haulier.jobs set worker_id = id",
        "update haulier.jobs set tenant_id = 1",
        "delete from haulier.jobs",
        "insert into haulier.tenants (slug, name) values ('x', 'x')",
        "select * from haulier.orphan_messages",
        "select * from haulier.workers",
        "delete from haulier.events",
        "insert into haulier.submitters values (1, 'x')",
        "select haulier.complete(gen_random_uuid(), 1, gen_random_uuid(), null, null)",
        "select haulier.complete_together(gen_random_uuid(), '[]')",
        "select haulier.granted_tenants()",
    ],
    "operator": [
        "update haulier.jobs set result = '1'",
        "update haulier.jobs set tenant_id = 1",
        "delete from haulier.jobs",
        "delete from haulier.orphan_messages",
        "update haulier.submitters set role = 'x'",
    ],
    "handler": [
        "select payload from haulier.jobs",
        "select * from haulier.every_job",
        "update haulier.jobs set state = 'succeeded'",
        "delete from haulier.outbox",
        "select * from haulier.leases",
        "select * from haulier.api_keys",
        "select * from haulier.commands",
        "select * from haulier.workers",
        "insert into haulier.attempts select id, 1, tenant_id, id, now(), now(), 'succeeded' from haulier.jobs",
        "truncate orders.orders",
        "alter table orders.orders disable row level security",
    ],
    "producer": [
        "select payload from haulier.jobs",
        "update haulier.jobs set payload = '{}'",
        "select * from haulier.events",
        "select * from haulier.submitters",
        "select * from haulier.api_keys",
        "select url from haulier.webhooks",
        "select * from haulier.callbacks",
        "select * from orders.orders",
        "select haulier.complete(gen_random_uuid(), 1, gen_random_uuid(), null, null)",
        "select haulier.complete_together(gen_random_uuid(), '[]')",
    ],
}


@pytest.mark.parametrize("role", ROLES)
def test_is_refused(two: Two, role: str):
    two.tx.execute("select haulier.open_archive(current_date)")
    allowed: list[str] = []
    tx = two.act(f"haulier_{role}")
    tx.rollback()
    for statement in FORBIDDEN["*"] + FORBIDDEN[role]:
        tx.execute("begin")
        tx.execute(f"set local haulier.tenant = '{two.mine}'")  # pyright: ignore[reportArgumentType, reportCallIssue]
        try:
            tx.execute(statement)  # pyright: ignore[reportArgumentType, reportCallIssue]
        except InsufficientPrivilege:
            pass
        else:
            allowed.append(statement)
        tx.rollback()

    assert allowed == []
