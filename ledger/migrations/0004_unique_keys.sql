-- What a submission with `unique` holds: one row a key, with the one job that is its holder. `held_until` is empty while the holder's own
-- state decides; 'infinity' is for ever.
create table haulier.unique_keys (
    tenant_id  integer not null,
    command    text not null,
    key        text not null,
    job_id     uuid not null,
    held_until timestamptz,
    constraint a_unique_key_has_one_holder primary key (tenant_id, command, key)
);
create index unique_keys_of_a_job on haulier.unique_keys (job_id) where held_until is null;
create index unique_keys_by_end on haulier.unique_keys (held_until) where held_until is not null;

-- Who held a key, lost it to another job, and may come back: a dead one that is replayed, or one that ran and may die. A replay has to win
-- the key back.
create table haulier.lost_unique_keys (
    tenant_id integer not null,
    job_id    uuid not null,
    command   text not null,
    key       text not null,
    constraint a_job_loses_a_unique_key_once primary key (job_id)
);
