-- The ledger. Every state change of a job is one guarded statement of the modules in ledger/, and leaves one row in events.
--
-- Three rules keep it fast at any size:
--   no index of jobs holds its state, so that begin and settle are HOT updates (heap only, no index touched);
--   open work is found through small tables of its own: outbox (to begin), leases (running), dead_letters (needs a person);
--   finished families leave for archive, one row a job, whose partitions are dropped whole.

create type haulier.job_state as enum
    ('scheduled', 'waiting', 'queued', 'running', 'succeeded', 'rejected', 'dead', 'cancelled');

create type haulier.key_role as enum ('viewer', 'submitter', 'operator', 'admin', 'platform');

create table haulier.tenants (
    id         integer generated always as identity primary key,
    slug       text not null
               constraint tenants_have_distinct_slugs unique
               constraint a_slug_is_lower_case_letters_digits_and_dashes check (slug ~ '^[a-z0-9][a-z0-9-]{0,62}$'),
    name       text not null,
    created_at timestamptz not null default now()
);

create table haulier.api_keys (
    id         uuid primary key,
    tenant_id  integer references haulier.tenants,
    prefix     text not null constraint keys_have_distinct_prefixes unique,
    hash       bytea not null,
    role       haulier.key_role not null,
    payloads   boolean not null default false,
    name       text not null,
    created_at timestamptz not null default now(),
    expires_at timestamptz,
    revoked_at timestamptz,
    constraint only_a_platform_key_has_no_tenant check ((tenant_id is null) = (role = 'platform'))
);

-- What the running release knows of its commands, for whoever cannot import them: haulier.submit, upkeep, the relay.
create table haulier.commands (
    name         text primary key,
    queue        text not null,
    max_failures smallint not null,
    fields       text[] not null,
    on_rejected  text,
    on_dead      text,
    mean_ms      real,
    updated_at   timestamptz not null default now()
);

create table haulier.jobs (
    id                  uuid not null constraint jobs_have_distinct_ids primary key,
    tenant_id           integer not null,
    root_id             uuid not null,
    parent_id           uuid,
    command             text not null,
    queue               text not null,
    state               haulier.job_state not null,
    solo                boolean not null default false,
    priority            smallint not null constraint priority_is_within_100 check (priority between -100 and 100),
    max_failures        smallint not null constraint a_job_may_fail_once check (max_failures >= 1),
    failures            smallint not null default 0,
    attempt             integer not null default 0,
    generation          smallint not null default 0,
    seq                 integer not null default 1,
    worker_id           uuid,
    submitted_at        timestamptz not null default now(),
    due_at              timestamptz not null,
    expires_at          timestamptz,
    started_at          timestamptz,
    finished_at         timestamptz,
    cancel_requested_at timestamptz,
    reason              text,
    traceparent         text,
    labels              jsonb,
    payload             jsonb not null,
    original_payload    jsonb,
    result              jsonb,
    error               jsonb,
    progress            jsonb,
    checkpoint          jsonb,
    constraint a_running_job_has_a_worker check ((state = 'running') = (worker_id is not null)),
    constraint a_final_job_has_finished check ((state in ('succeeded', 'rejected', 'dead', 'cancelled')) = (finished_at is not null))
) with (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.05);
create index jobs_of_a_tenant on haulier.jobs (tenant_id, id);
create index jobs_of_a_parent on haulier.jobs (parent_id) where parent_id is not null;

create table haulier.outbox (
    job_id        uuid not null constraint a_job_waits_once_in_the_outbox primary key,
    tenant_id     integer not null,
    queue         text not null,
    command       text not null,
    priority      smallint not null,
    attempt       integer not null,
    solo          boolean not null default false,
    scheduled     boolean not null default false,
    due_at        timestamptz not null,
    expires_at    timestamptz,
    announced_at  timestamptz,
    announcements smallint not null default 0,
    traceparent   text
) with (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_cost_delay = 0);
create index outbox_by_urgency on haulier.outbox (queue, priority desc, due_at) where announced_at is null and not scheduled;
create index outbox_by_due_time on haulier.outbox (due_at) where scheduled;
create index outbox_by_expiry on haulier.outbox (expires_at) where expires_at is not null;
create index outbox_announced on haulier.outbox (queue, announced_at) where announced_at is not null;

create table haulier.leases (
    job_id      uuid not null constraint a_job_has_one_lease primary key,
    tenant_id   integer not null,
    queue       text not null,
    attempt     integer not null,
    worker_id   uuid not null,
    deadline_at timestamptz not null
) with (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_cost_delay = 0);

create table haulier.attempts (
    job_id      uuid not null,
    number      integer not null,
    tenant_id   integer not null,
    worker_id   uuid not null,
    started_at  timestamptz not null,
    finished_at timestamptz not null,
    outcome     text not null,
    error       jsonb,
    log         jsonb,
    constraint an_attempt_is_recorded_once primary key (job_id, number)
);

create table haulier.events (
    job_id    uuid not null,
    seq       integer not null,
    at        timestamptz not null default statement_timestamp(),
    tenant_id integer not null,
    kind      text not null,
    state     haulier.job_state not null,
    attempt   integer not null,
    who       text,
    data      jsonb,
    constraint a_timeline_has_no_two_events_at_one_place primary key (job_id, seq)
);

create table haulier.dead_letters (
    job_id    uuid not null constraint a_job_is_dead_once primary key,
    tenant_id integer not null,
    command   text not null,
    reason    text not null,
    code      text,
    message   text,
    died_at   timestamptz not null default statement_timestamp()
);
create index dead_letters_of_a_tenant on haulier.dead_letters (tenant_id, job_id);

create table haulier.idempotency_keys (
    tenant_id   integer not null,
    key         text not null,
    job_id      uuid not null,
    fingerprint bytea not null,
    expires_at  timestamptz not null default now() + interval '7 days',
    constraint an_idempotency_key_names_one_job primary key (tenant_id, key)
);
create index idempotency_keys_by_expiry on haulier.idempotency_keys (expires_at);

create table haulier.external_calls (
    job_id      uuid not null,
    step        text not null,
    generation  smallint not null,
    tenant_id   integer not null,
    attempt     integer not null,
    honours_key boolean not null,
    state       text not null constraint a_call_is_intended_done_or_refused check (state in ('intended', 'done', 'refused')),
    result      jsonb,
    intended_at timestamptz not null default statement_timestamp(),
    ended_at    timestamptz,
    constraint a_step_calls_once_a_generation primary key (job_id, step, generation)
);

-- Every process that works, relays or keeps up: seen_at is its heartbeat, and with it the lease of all it runs.
create table haulier.workers (
    id         uuid primary key,
    kind       text not null,
    host       text not null,
    pid        integer not null,
    release    text not null,
    queues     text[] not null default '{}',
    commands   text[] not null default '{}',
    begun      jsonb not null default '{}',
    asleep     boolean not null default false,
    started_at timestamptz not null default now(),
    seen_at    timestamptz not null default now(),
    stopped_at timestamptz
) with (fillfactor = 50);

create table haulier.orphan_messages (
    id          uuid primary key,
    queue       text not null,
    body        bytea not null,
    headers     jsonb,
    reason      text not null,
    times       integer not null default 1,
    digest      bytea not null constraint an_orphan_message_is_kept_once unique,
    received_at timestamptz not null default now(),
    last_at     timestamptz not null default now()
);

-- One row a finished job, with its attempts and events inside; partitions by the day of archiving are dropped whole.
create table haulier.archive (
    like haulier.jobs,
    archived_on date not null default current_date,
    attempts    jsonb not null,
    events      jsonb not null
) partition by range (archived_on);
create index archive_by_id on haulier.archive (id);
create index archive_of_a_tenant on haulier.archive (tenant_id, id);
create index archive_of_a_parent on haulier.archive (parent_id) where parent_id is not null;

create view haulier.every_job as
    select id, tenant_id, root_id, parent_id, command, queue, state, solo, priority, max_failures, failures, attempt, generation, seq,
           worker_id, submitted_at, due_at, expires_at, started_at, finished_at, cancel_requested_at, reason, traceparent, labels,
           payload, original_payload, result, error, progress, checkpoint
      from haulier.jobs
    union all
    select id, tenant_id, root_id, parent_id, command, queue, state, solo, priority, max_failures, failures, attempt, generation, seq,
           worker_id, submitted_at, due_at, expires_at, started_at, finished_at, cancel_requested_at, reason, traceparent, labels,
           payload, original_payload, result, error, progress, checkpoint
      from haulier.archive;

create view haulier.every_attempt as
    select job_id, number, tenant_id, worker_id, started_at, finished_at, outcome, error, log from haulier.attempts
    union all
    select a.id, x.number, a.tenant_id, x.worker_id, x.started_at, x.finished_at, x.outcome, x.error, x.log
      from haulier.archive a,
           jsonb_to_recordset(a.attempts) as x(number integer, worker_id uuid, started_at timestamptz, finished_at timestamptz,
                                               outcome text, error jsonb, log jsonb);

create view haulier.every_event as
    select job_id, seq, at, tenant_id, kind, state, attempt, who, data from haulier.events
    union all
    select a.id, x.seq, x.at, a.tenant_id, x.kind, x.state, x.attempt, x.who, x.data
      from haulier.archive a,
           jsonb_to_recordset(a.events) as x(seq integer, at timestamptz, kind text, state haulier.job_state, attempt integer,
                                             who text, data jsonb);

-- RFC 9562 UUIDs of version 7, for callers in SQL (Postgres has its own only from 18 on).
create function haulier.uuid7() returns uuid language sql volatile as $$
    select encode(
        set_byte(
            set_byte(
                overlay(uuid_send(gen_random_uuid()) placing substring(int8send((extract(epoch from clock_timestamp()) * 1000)::bigint) from 3)
                        from 1 for 6),
                6, (get_byte(uuid_send(gen_random_uuid()), 0) & 15) | 112),
            8, (get_byte(uuid_send(gen_random_uuid()), 1) & 63) | 128),
        'hex')::uuid
$$;

-- Submit from any language, in the caller's own transaction. options: tenant (slug, required), priority, delay (seconds) or run_at,
-- expires_at, max_failures, labels. The payload is checked against the command's schema when it is begun.
create function haulier.submit(command text, payload jsonb, options jsonb default '{}') returns uuid language plpgsql as $$
declare
    job     uuid := haulier.uuid7();
    known   haulier.commands;
    owner   haulier.tenants;
    due     timestamptz;
    unknown text;
begin
    select string_agg(quote_literal(k), ', ') into unknown from jsonb_object_keys(options) as k
     where k not in ('tenant', 'priority', 'delay', 'run_at', 'expires_at', 'max_failures', 'labels');
    if unknown is not null then
        raise exception 'haulier.submit does not know the option %; it takes tenant, priority, delay, run_at, expires_at, max_failures, labels', unknown
            using errcode = 'invalid_parameter_value';
    end if;
    select * into known from haulier.commands c where c.name = submit.command;
    if not found then
        raise exception 'unknown command %; nothing was submitted', quote_literal(command) using errcode = 'invalid_parameter_value';
    end if;
    select * into owner from haulier.tenants t where t.slug = options->>'tenant';
    if not found then
        raise exception 'options must name an existing tenant as {"tenant": "<slug>"}, got %', coalesce(options->>'tenant', 'none')
            using errcode = 'invalid_parameter_value';
    end if;
    if jsonb_typeof(payload) is distinct from 'object' then
        raise exception 'payload must be a JSON object, got %', coalesce(jsonb_typeof(payload), 'null') using errcode = 'invalid_parameter_value';
    end if;
    due := coalesce((options->>'run_at')::timestamptz, now() + make_interval(secs => coalesce((options->>'delay')::float8, 0)));
    insert into haulier.jobs (id, tenant_id, root_id, command, queue, state, priority, max_failures, due_at, expires_at, labels, payload)
    values (job, owner.id, job, known.name, known.queue, case when due > now() then 'scheduled' else 'queued' end::haulier.job_state,
            coalesce((options->>'priority')::smallint, 0), least(coalesce((options->>'max_failures')::smallint, known.max_failures), known.max_failures),
            due, (options->>'expires_at')::timestamptz, options->'labels', payload);
    insert into haulier.outbox (job_id, tenant_id, queue, command, priority, attempt, scheduled, due_at, expires_at)
    values (job, owner.id, known.queue, known.name, coalesce((options->>'priority')::smallint, 0), 1, due > now(), due,
            (options->>'expires_at')::timestamptz);
    insert into haulier.events (job_id, seq, tenant_id, kind, state, attempt, who)
    values (job, 1, owner.id, 'accepted', case when due > now() then 'scheduled' else 'queued' end::haulier.job_state, 0, session_user);
    return job;
end
$$;
