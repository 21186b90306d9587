-- What was submitted together: one row a batch, and one a set of some hundreds of its items, written with the set's jobs. No row, and no index of
-- jobs, for each job: a batch's jobs are read by their ids.
create table haulier.batches (
    tenant_id  integer not null,
    id         uuid not null,
    key        text,
    atomic     boolean not null,
    who        text,
    created_at timestamptz not null default now(),
    items      integer,
    constraint a_batch_has_one_id primary key (tenant_id, id),
    constraint a_batch_key_names_one_batch unique (tenant_id, key)
);
create index batches_by_age on haulier.batches (created_at);

-- `ids` has one place for each item: its job, or nothing where it was refused. `digest` tells a repeat from another body.
create table haulier.batch_sets (
    tenant_id integer not null,
    batch_id  uuid not null,
    start     integer not null,
    digest    bytea not null,
    ids       uuid[] not null,
    constraint a_batch_has_one_set_at_a_place primary key (tenant_id, batch_id, start)
);

call haulier.guard('haulier.batches', '{haulier_intake,haulier_upkeep,haulier_operator}');
call haulier.guard('haulier.batch_sets', '{haulier_intake,haulier_upkeep,haulier_operator}');
grant select, insert, update on haulier.batches, haulier.batch_sets to haulier_intake;
grant select on haulier.batches, haulier.batch_sets to haulier_client, haulier_operator;
grant select, update, delete on haulier.batches, haulier.batch_sets to haulier_upkeep;
