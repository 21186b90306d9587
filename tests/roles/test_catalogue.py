"""What the catalogue says of every table that is there: whoever adds one and forgets its guard fails here.

A new table with rows of tenants: `call haulier.guard('haulier.…', '{haulier_…}')` in its migration, beside the grants that its statements need.
"""

from __future__ import annotations

import pytest

from tests.roles.conftest import Two

pytestmark = pytest.mark.every_postgres

SCHEMAS = ["haulier", "orders"]
GROUPS = (
    "array['haulier_intake', 'haulier_relay', 'haulier_worker', 'haulier_upkeep', 'haulier_client', 'haulier_operator', 'haulier_handler',"
    " 'haulier_producer', 'haulier_definer']"
)
#: Tables without rows of tenants, and what of them those who act for one tenant may read.
OPEN = {
    ("haulier_client", "commands"),
    ("haulier_client", "workers.asleep"),
    ("haulier_client", "workers.id"),
    ("haulier_client", "workers.kind"),
    ("haulier_client", "workers.seen_at"),
    ("haulier_client", "workers.stopped_at"),
    ("haulier_handler", "workers.asleep"),
    ("haulier_handler", "workers.id"),
    ("haulier_handler", "workers.kind"),
    ("haulier_handler", "workers.seen_at"),
    ("haulier_handler", "workers.stopped_at"),
    ("haulier_producer", "commands"),
    ("haulier_producer", "workers.asleep"),
    ("haulier_producer", "workers.id"),
    ("haulier_producer", "workers.kind"),
    ("haulier_producer", "workers.seen_at"),
    ("haulier_producer", "workers.stopped_at"),
}
WITHOUT_TENANTS = {"commands", "migrations", "orphan_messages", "token_secrets", "webhook_cursor", "workers"}
#: Unique over tenants, and no oracle: their values are ours and random (a UUID, a key's prefix), or a platform key's to choose.
OURS_TO_CHOOSE = {"id", "job_id", "order_id", "prefix", "slug"}

TABLES = """
select c.relname, c.relrowsecurity, c.relforcerowsecurity,
       exists (select from pg_attribute a where a.attrelid = c.oid and a.attname = 'tenant_id' and not a.attisdropped),
       c.relispartition,
       exists (select from pg_policies p where p.schemaname = n.nspname and p.tablename = c.relname and p.policyname = 'own_tenant'
                  and p.qual like '%%current_setting(''haulier.tenant''%%' and p.with_check = p.qual and p.cmd = 'ALL' and p.permissive = 'PERMISSIVE'
                  and p.roles @> '{haulier_client,haulier_handler}')
  from pg_class c join pg_namespace n on n.oid = c.relnamespace
 where n.nspname = any(%s) and c.relkind in ('r', 'p') order by 1
"""


def test_every_table_with_rows_of_tenants_is_guarded(two: Two):
    two.tx.execute("select haulier.open_archive(current_date)")

    rows = two.tx.execute(TABLES, (SCHEMAS,)).fetchall()

    with_tenants = {name for name, _, _, has_tenants, _, _ in rows if has_tenants} | {"tenants"}
    assert {row[0] for row in rows} - with_tenants == WITHOUT_TENANTS
    assert len(with_tenants) > 18
    unguarded = [name for name, on, forced, *_ in rows if name in with_tenants and not (on and forced)]
    assert unguarded == []
    assert [name for name, _, _, _, partition, policy in rows if name in with_tenants and not (partition or policy)] == []


def test_who_acts_for_a_tenant_reads_nothing_else_but_this(two: Two):
    rows = two.tx.execute(
        """
        select r, c.relname, a.attname, has_table_privilege(r, c.oid, 'select')
          from pg_class c join pg_namespace n on n.oid = c.relnamespace and n.nspname = 'haulier',
               pg_attribute a, unnest(array['haulier_client', 'haulier_handler', 'haulier_producer']) r
         where c.relkind in ('r', 'p') and a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped and c.relname = any(%s)
           and c.relname <> 'migrations' and has_column_privilege(r, c.oid, a.attname, 'select')
        """,
        (sorted(WITHOUT_TENANTS),),
    ).fetchall()

    assert {(role, table if whole else f"{table}.{column}") for role, table, column, whole in rows} == OPEN


def test_no_role_of_ours_is_more_than_it_was_granted(two: Two):
    groups = two.tx.execute(
        f"select rolname, rolsuper, rolbypassrls, rolcreaterole, rolcanlogin from pg_roles where rolname = any({GROUPS})"
    )
    assert sorted(groups.fetchall()) == sorted((row[0], False, False, False, False) for row in two.tx.execute(f"select unnest({GROUPS})"))

    owned = two.tx.execute(
        f"select c.relname from pg_class c join pg_roles r on r.oid = c.relowner where r.rolname = any({GROUPS})"
    ).fetchall()
    members = two.tx.execute(
        f"select r.rolname, g.rolname from pg_auth_members m join pg_roles g on g.oid = m.roleid join pg_roles r on r.oid = m.member"
        f" where r.rolname = any({GROUPS})"
    ).fetchall()
    assert (owned, members) == ([], [])


def test_nobody_may_truncate_refer_or_trigger_and_nobody_changes_the_audit(two: Two):
    found = two.tx.execute(
        f"select r, c.relname, p from pg_class c join pg_namespace n on n.oid = c.relnamespace, unnest({GROUPS}) r,"
        " unnest(array['truncate', 'references', 'trigger']) p"
        " where n.nspname = any(%s) and c.relkind in ('r', 'p', 'v') and has_table_privilege(r, c.oid, p)",
        (SCHEMAS,),
    ).fetchall()
    changed = two.tx.execute(
        f"select r, t from unnest({GROUPS}) r, unnest(array['haulier.audit', 'haulier.audit_seals']) t"
        " where has_any_column_privilege(r, t, 'update') or has_table_privilege(r, t, 'delete')"
    ).fetchall()

    assert (found, changed) == ([], [])


def test_views_ask_as_whoever_reads_them(two: Two):
    views = two.tx.execute(
        "select relname, reloptions from pg_class c join pg_namespace n on n.oid = c.relnamespace and nspname = any(%s) where relkind = 'v'",
        (SCHEMAS,),
    ).fetchall()

    assert len(views) >= 3
    assert [name for name, options in views if "security_invoker=true" not in (options or [])] == []


def test_functions_that_lend_rights_are_few_and_pin_where_they_look(two: Two):
    rows = two.tx.execute(
        "select p.proname, p.prosecdef, p.proconfig, r.rolname, has_function_privilege('public', p.oid, 'execute')"
        "  from pg_proc p join pg_namespace n on n.oid = p.pronamespace and n.nspname = 'haulier' join pg_roles r on r.oid = p.proowner"
    ).fetchall()

    lending = {name: owner for name, definer, _, owner, _ in rows if definer}
    assert lending.keys() == {"complete", "complete_together", "submit", "granted_tenants", "open_archive", "drop_archive", "await_seal"}
    assert {name for name, owner in lending.items() if owner != "haulier_definer"} == {"open_archive", "drop_archive"}  # only owners may
    assert [name for name, definer, config, *_ in rows if definer and "search_path=pg_catalog, pg_temp" not in (config or [])] == []
    assert {name for name, *_, public in rows if public} == {"submit"}  # which says no by itself


def test_no_unique_constraint_tells_one_tenant_of_another(two: Two):
    """Trap 17: where a caller chooses the value, the constraint leads with the tenant."""
    rows = two.tx.execute(
        "select c.relname, i.indexrelid::regclass::text, a.attname"
        "  from pg_index i join pg_class c on c.oid = i.indrelid join pg_namespace n on n.oid = c.relnamespace"
        "  join pg_attribute a on a.attrelid = c.oid and a.attnum = i.indkey[0]"
        " where n.nspname = any(%s) and i.indisunique and c.relrowsecurity",
        (SCHEMAS,),
    ).fetchall()

    assert len(rows) > 8
    assert [row for row in rows if row[2] not in {"tenant_id"} | OURS_TO_CHOOSE] == []
