-- What a tenant may take: `granted` by the platform, `own` by its admins. The tighter of the two holds.
create table haulier.limits (
    tenant_id integer not null constraint a_tenant_has_one_set_of_limits primary key references haulier.tenants,
    granted   jsonb not null default '{}',
    own       jsonb not null default '{}',
    version   integer not null default 1
);
call haulier.guard('haulier.limits', '{haulier_intake,haulier_operator}');
grant select on haulier.limits to haulier_intake;
grant select, insert, update on haulier.limits to haulier_client, haulier_operator;
-- An intake counts the open jobs of tenants that have a limit on them.
grant select (tenant_id) on haulier.outbox to haulier_intake;
grant select (tenant_id) on haulier.leases to haulier_intake;
create policy intake_counts on haulier.leases for select to haulier_intake using (true);
