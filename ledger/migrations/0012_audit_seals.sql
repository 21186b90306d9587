-- What makes it evident when somebody tampers with the audit (decision 0016): upkeep seals each record into its tenant's chain of hashes.
-- Rows are only ever added to the chain; a chain's head says where it ends, so that a missing end is noticed.
-- tenant_id 0: the platform's own records.
create table haulier.audit_seals (
    tenant_id integer not null,
    seq       bigint not null,
    audit_id  uuid not null,
    hash      bytea not null constraint a_seal_is_a_sha256 check (length(hash) = 32),
    sealed_at timestamptz not null default now(),
    constraint a_chain_has_one_seal_at_a_place primary key (tenant_id, seq),
    constraint a_record_is_sealed_once unique (tenant_id, audit_id)
);
create table haulier.audit_heads (
    tenant_id integer not null constraint a_chain_has_one_head primary key,
    seq       bigint not null,
    hash      bytea not null
);

-- What is still to be sealed. A trigger keeps it, for records are committed in another order than they are made in, and no place in time is
-- surely behind all of them.
create table haulier.audit_unsealed (
    tenant_id integer not null,
    audit_id  uuid not null,
    constraint a_record_waits_once_for_its_seal primary key (tenant_id, audit_id)
);

call haulier.guard('haulier.audit_seals', '{haulier_upkeep,haulier_operator}');
call haulier.guard('haulier.audit_heads', '{haulier_upkeep,haulier_operator}');
call haulier.guard('haulier.audit_unsealed', '{haulier_upkeep,haulier_operator,haulier_definer}');
create policy upkeep_seals on haulier.audit for select to haulier_upkeep using (true);
grant select on haulier.audit to haulier_upkeep;
grant select, insert on haulier.audit_seals to haulier_upkeep;
grant select, insert, update on haulier.audit_heads to haulier_upkeep;
grant select, delete on haulier.audit_unsealed to haulier_upkeep;
grant select on haulier.audit_seals, haulier.audit_heads to haulier_client, haulier_operator;
grant select on haulier.audit_unsealed to haulier_operator;
grant insert on haulier.audit_unsealed to haulier_definer;

create function haulier.await_seal() returns trigger
    language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
    insert into haulier.audit_unsealed (tenant_id, audit_id) values (coalesce(new.tenant_id, 0), new.id);
    return null;
end
$$;
revoke execute on function haulier.await_seal() from public;
create trigger await_seal after insert on haulier.audit for each row execute function haulier.await_seal();
grant create on schema haulier to haulier_definer;
alter function haulier.await_seal() owner to haulier_definer;
revoke create on schema haulier from haulier_definer;

-- What was recorded before. Force would hide it from an owner that is no superuser.
alter table haulier.audit no force row level security;
alter table haulier.audit_unsealed no force row level security;
insert into haulier.audit_unsealed (tenant_id, audit_id) select coalesce(tenant_id, 0), id from haulier.audit;
alter table haulier.audit_unsealed force row level security;
alter table haulier.audit force row level security;
