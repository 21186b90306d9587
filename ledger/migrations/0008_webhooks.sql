-- Webhooks: where a tenant's receivers are, what they want to hear, and what they were told.
create table haulier.webhooks (
    id              uuid primary key,
    tenant_id       integer not null references haulier.tenants,
    name            text not null,
    url             text not null,
    events          text[] not null,
    commands        text[],
    enabled         boolean not null default true,
    disabled_reason text,
    version         integer not null default 1,
    -- Events of older transactions are none of its: it is told what happens from its creation on (or from when it was enabled again).
    since           bigint not null default (pg_snapshot_xmin(pg_current_snapshot())::text)::bigint,
    succeeded_at    timestamptz,
    created_at      timestamptz not null default now(),
    updated_at      timestamptz not null default now()
);
create index webhooks_of_a_tenant on haulier.webhooks (tenant_id, id);

-- Apart from the webhooks, so that whoever shows and changes those never needs to read these.
create table haulier.webhook_secrets (
    id         uuid primary key,
    tenant_id  integer not null,
    webhook_id uuid not null references haulier.webhooks on delete cascade,
    secret     text not null,
    created_at timestamptz not null default now(),
    expires_at timestamptz
);
create index secrets_of_a_webhook on haulier.webhook_secrets (webhook_id);

-- One row for each event and webhook. What tries to deliver it is a job, the last of job_ids; how that stands is the job's to say until the
-- delivery is settled here, in the transaction of that job's completion.
create table haulier.webhook_deliveries (
    id          uuid primary key,
    tenant_id   integer not null,
    webhook_id  uuid not null,
    event       text not null,
    subject_id  uuid,
    subject_seq bigint,
    body        text not null,
    job_ids     uuid[] not null,
    state       text not null default 'pending' constraint a_delivery_is_pending_delivered_or_rejected
                check (state in ('pending', 'delivered', 'rejected')),
    reason      text,
    created_at  timestamptz not null default statement_timestamp(),
    constraint an_event_is_told_once_a_webhook unique (tenant_id, webhook_id, event, subject_id, subject_seq)
);
create index deliveries_of_a_webhook on haulier.webhook_deliveries (tenant_id, webhook_id, id);

-- How far the dispatcher has read haulier.events: below this transaction it has seen all. Null while no webhook is enabled.
create table haulier.webhook_cursor (
    single boolean primary key default true constraint there_is_one_cursor check (single),
    xact bigint
);
insert into haulier.webhook_cursor default values;

-- Which webhook a submission asked to be called back. A table of its own: few jobs have one, and the others shall not carry it.
create table haulier.callbacks (
    job_id     uuid not null constraint a_job_calls_back_once primary key,
    tenant_id  integer not null,
    webhook_id uuid not null
);

-- Who may do what. A key's tenant sets its webhooks up and never reads a secret back; what signs is a handler, bound to the job's tenant; upkeep
-- finds out who is to be told, and reads no secret.
call haulier.guard('haulier.webhooks', '{haulier_upkeep,haulier_operator}');
call haulier.guard('haulier.webhook_secrets', '{haulier_operator}');
call haulier.guard('haulier.webhook_deliveries', '{haulier_upkeep,haulier_operator}');
call haulier.guard('haulier.callbacks', '{haulier_intake,haulier_upkeep,haulier_operator}');

grant select, insert, update, delete on haulier.webhooks to haulier_client, haulier_operator;
grant select (id, tenant_id, webhook_id, expires_at), insert, update (expires_at), delete on haulier.webhook_secrets to haulier_client, haulier_operator;
grant select, insert, update (job_ids, state, reason) on haulier.webhook_deliveries to haulier_client, haulier_operator;
-- Tests and redeliveries are jobs, too.
grant insert on haulier.jobs, haulier.idempotency_keys to haulier_client, haulier_operator;
grant select (tenant_id, key, job_id, fingerprint) on haulier.idempotency_keys to haulier_client, haulier_operator;

grant select, update (succeeded_at, enabled, disabled_reason, version, updated_at) on haulier.webhooks to haulier_handler;
grant select on haulier.webhook_secrets to haulier_handler;
grant select, update (state, reason) on haulier.webhook_deliveries to haulier_handler;
grant insert (id, tenant_id, who, action, target, reason) on haulier.audit to haulier_handler;
grant execute on function haulier.uuid7() to haulier_handler;

grant select on haulier.webhooks to haulier_upkeep;
grant select, insert, update, delete on haulier.webhook_deliveries to haulier_upkeep;
grant select, update on haulier.webhook_cursor to haulier_upkeep;
grant select, delete on haulier.callbacks to haulier_upkeep;
grant insert on haulier.idempotency_keys to haulier_upkeep;

grant insert on haulier.callbacks to haulier_intake;
