-- Who may do what (decision 0011). Processes log in as accounts of their own and assume one of these roles for each connection:
-- nobody who works owns a table, and no policy lets its owner through (force).
--
-- Roles belong to the whole cluster: they may be there already, or just being made by the migration of another database.
do $$
declare
    wanted text;
    roles  text[] := array['haulier_intake', 'haulier_relay', 'haulier_worker', 'haulier_upkeep', 'haulier_client', 'haulier_operator',
                           'haulier_handler', 'haulier_producer', 'haulier_definer'];
begin
    foreach wanted in array roles loop
        if not exists (select from pg_catalog.pg_roles where rolname = wanted) then
            begin
                execute format('create role %I nologin', wanted);
            exception when duplicate_object or unique_violation then
                null;  -- the other one was quicker
            end;
        end if;
    end loop;
    if not (select rolsuper from pg_catalog.pg_roles where rolname = current_user) then
        execute format('grant haulier_definer, haulier_operator to %I', current_user);
    end if;
exception when insufficient_privilege then
    if not (select bool_and(pg_catalog.pg_has_role(current_user, r.oid, 'usage')) and count(*) = 2
              from pg_catalog.pg_roles r where rolname in ('haulier_definer', 'haulier_operator')) then
        raise exception '% may not make the roles that Haulier works with', quote_ident(current_user) using
            errcode = 'insufficient_privilege',
            hint = 'let an administrator of this server run: '
                   || (select coalesce(string_agg(format('create role %I nologin; ', r), ''), '') from unnest(roles) r
                        where not exists (select from pg_catalog.pg_roles where rolname = r))
                   || format('grant haulier_definer, haulier_operator to %I;', current_user);
    end if;
end
$$;

grant usage on schema haulier to public;  -- for haulier.submit, which refuses whom it does not know; nothing else here is public
revoke execute on all functions in schema haulier from public;

-- Every table with rows of tenants is guarded by this, here and in the schemas of the domains: the roles that act for one tenant see and
-- write rows of the tenant that their transaction is bound to, and without one, none. `for_all` are the roles that need everybody's rows.
-- (After the transaction the setting is '' and not null.)
create procedure haulier.guard(relation regclass, for_all name[] default '{}', tenant_column name default 'tenant_id')
    language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
    own text := format('%I = nullif(current_setting(''haulier.tenant'', true), '''')::integer', tenant_column);
begin
    execute format('alter table %s enable row level security, force row level security', relation);
    execute format('create policy own_tenant on %s to haulier_client, haulier_handler using (%s) with check (%2$s)', relation, own);
    if cardinality(for_all) > 0 then
        execute format('create policy every_tenant on %s to %s using (true) with check (true)', relation,
                       (select string_agg(quote_ident(r), ', ') from unnest(for_all) r));
    end if;
end
$$;
revoke execute on procedure haulier.guard from public;

-- Which accounts of the database may submit for which tenants, by haulier.submit or by producers.submit.
create table haulier.submitters (
    tenant_id integer not null references haulier.tenants,
    role      name not null,
    granted_at timestamptz not null default now(),
    constraint a_role_submits_for_a_tenant_once primary key (tenant_id, role)
);

call haulier.guard('haulier.tenants', '{haulier_intake,haulier_worker,haulier_operator,haulier_definer}', 'id');
call haulier.guard('haulier.api_keys', '{haulier_intake,haulier_operator}');
call haulier.guard('haulier.jobs', '{haulier_intake,haulier_relay,haulier_worker,haulier_upkeep,haulier_operator,haulier_definer}');
call haulier.guard('haulier.outbox', '{haulier_intake,haulier_relay,haulier_worker,haulier_upkeep,haulier_operator,haulier_definer}');
call haulier.guard('haulier.leases', '{haulier_worker,haulier_upkeep,haulier_operator,haulier_definer}');
call haulier.guard('haulier.attempts', '{haulier_worker,haulier_upkeep,haulier_operator,haulier_definer}');
call haulier.guard('haulier.events', '{haulier_intake,haulier_relay,haulier_worker,haulier_upkeep,haulier_operator,haulier_definer}');
call haulier.guard('haulier.dead_letters', '{haulier_worker,haulier_upkeep,haulier_operator}');
call haulier.guard('haulier.idempotency_keys', '{haulier_intake,haulier_upkeep,haulier_operator}');
call haulier.guard('haulier.external_calls', '{haulier_worker,haulier_upkeep,haulier_operator}');
call haulier.guard('haulier.audit', '{haulier_operator}');
call haulier.guard('haulier.unique_keys', '{haulier_intake,haulier_upkeep,haulier_operator}');
call haulier.guard('haulier.lost_unique_keys', '{haulier_intake,haulier_upkeep,haulier_operator}');
call haulier.guard('haulier.archive', '{haulier_intake,haulier_worker,haulier_upkeep,haulier_operator}');
call haulier.guard('haulier.submitters', '{haulier_operator,haulier_definer}');

alter view haulier.every_job set (security_invoker = true);
alter view haulier.every_attempt set (security_invoker = true);
alter view haulier.every_event set (security_invoker = true);

grant select on haulier.migrations to public;  -- a number, which every start looks at before it assumes a role
grant select, insert, update on haulier.commands to haulier_intake, haulier_relay, haulier_worker, haulier_upkeep, haulier_operator;
grant select on haulier.commands to haulier_client, haulier_producer, haulier_definer;

-- The intake: recognises keys, and writes what was submitted. It reads no payload.
grant select on haulier.tenants, haulier.api_keys to haulier_intake;
grant insert on haulier.jobs, haulier.outbox, haulier.events to haulier_intake;
grant select (id, tenant_id, state, seq, attempt, submitted_at, due_at) on haulier.jobs to haulier_intake;
grant select, insert on haulier.idempotency_keys to haulier_intake;
grant select on haulier.workers to haulier_intake;
-- It cancels what a submission with a unique key takes the place of. So does an upstream service, of the tenants that it was granted.
grant select, insert, update, delete on haulier.unique_keys to haulier_intake, haulier_producer;
grant insert on haulier.lost_unique_keys to haulier_intake, haulier_producer;
grant update (state, reason, finished_at, seq) on haulier.jobs to haulier_intake, haulier_producer;
grant select (job_id), delete on haulier.outbox to haulier_intake, haulier_producer;
grant select (id, state) on haulier.archive to haulier_intake, haulier_producer;

-- The relay: carries the outbox.
grant select, update on haulier.outbox to haulier_relay;
grant select (id, root_id, tenant_id, state, seq, attempt), update (state, seq) on haulier.jobs to haulier_relay;
grant insert on haulier.events to haulier_relay;
grant select, insert, update on haulier.workers to haulier_relay;

-- A worker's plumbing: begin, heartbeat, settle, calls.
grant select on haulier.tenants, haulier.archive to haulier_worker;
grant select, insert, update on haulier.jobs to haulier_worker;
grant select, insert, update, delete on haulier.outbox to haulier_worker;
grant select, insert, delete on haulier.leases to haulier_worker;
grant insert on haulier.attempts, haulier.events, haulier.dead_letters to haulier_worker;
grant select, insert, update on haulier.external_calls, haulier.workers, haulier.orphan_messages to haulier_worker;

-- Upkeep: rescues, expires, archives, forgets. Days of the archive are made and dropped by functions, for only an owner can.
grant select, insert, update, delete on haulier.jobs, haulier.outbox to haulier_upkeep;
grant select, update, delete on haulier.leases, haulier.idempotency_keys to haulier_upkeep;
grant select, insert, delete on haulier.attempts, haulier.events to haulier_upkeep;
grant insert on haulier.dead_letters to haulier_upkeep;
grant select, update, delete on haulier.unique_keys to haulier_upkeep;
grant select, delete on haulier.lost_unique_keys to haulier_upkeep;
grant select, delete on haulier.external_calls to haulier_upkeep;
grant select, insert on haulier.archive to haulier_upkeep;
grant select, insert, update, delete on haulier.workers to haulier_upkeep;
grant select, insert, update on haulier.orphan_messages to haulier_upkeep;

-- On behalf of a key: of a tenant's (client), or of the platform's (operator). Neither can say that a job has succeeded.
grant select on haulier.tenants, haulier.jobs, haulier.outbox, haulier.leases, haulier.attempts, haulier.events, haulier.dead_letters,
    haulier.external_calls, haulier.archive, haulier.audit, haulier.every_job, haulier.every_attempt, haulier.every_event
    to haulier_client, haulier_operator;
grant update (state, reason, failures, due_at, expires_at, solo, payload, original_payload, generation, finished_at, cancel_requested_at, seq)
    on haulier.jobs to haulier_client, haulier_operator;
grant insert, delete on haulier.outbox to haulier_client, haulier_operator;
grant insert on haulier.events, haulier.audit to haulier_client, haulier_operator;
grant delete on haulier.dead_letters to haulier_client, haulier_operator;
grant select, insert, update on haulier.unique_keys to haulier_client, haulier_operator;
grant select, insert, delete on haulier.lost_unique_keys to haulier_client, haulier_operator;
grant insert, update (state, result, ended_at) on haulier.external_calls to haulier_client, haulier_operator;
grant select (id, tenant_id, prefix, role, payloads, name, created_at, expires_at, revoked_at), insert, update (revoked_at)
    on haulier.api_keys to haulier_client, haulier_operator;
grant select (kind, asleep, seen_at) on haulier.workers to haulier_client, haulier_operator;
grant insert on haulier.tenants to haulier_operator;
grant select on haulier.orphan_messages to haulier_operator;
grant select (hash) on haulier.api_keys to haulier_operator;  -- `haulier dev` looks whether the keys that it has kept are still good
grant select, insert, delete on haulier.submitters to haulier_operator;
grant select on haulier.every_job to haulier_worker;

-- Handlers, and upstream services in transactions of their own: they write jobs, and of the ledger they read no more than that takes.
grant insert on haulier.jobs, haulier.outbox, haulier.events, haulier.idempotency_keys to haulier_handler, haulier_producer;
grant select (id, tenant_id, state, seq, attempt, submitted_at, due_at) on haulier.jobs to haulier_handler, haulier_producer;
grant select (tenant_id, key, job_id, fingerprint) on haulier.idempotency_keys to haulier_handler, haulier_producer;
grant select (kind, asleep, seen_at) on haulier.workers to haulier_handler, haulier_producer;
grant select on haulier.tenants to haulier_handler, haulier_producer;

-- What runs with other rights than its caller's: each function takes what it needs from this role, and from nobody else.
grant select on haulier.tenants, haulier.submitters to haulier_definer;
grant select, insert, update on haulier.jobs to haulier_definer;
grant select, delete on haulier.leases to haulier_definer;
grant insert on haulier.outbox, haulier.attempts, haulier.events to haulier_definer;
grant execute on function haulier.uuid7() to haulier_worker, haulier_upkeep, haulier_definer;

set local check_function_bodies = off;  -- it would be planned as the owner, who may not see what the function will
create function haulier.granted_tenants() returns setof integer
    language sql stable security definer set search_path = pg_catalog, pg_temp as $$
    select s.tenant_id from haulier.submitters s join pg_roles r on r.rolname = s.role where pg_has_role(session_user, r.oid, 'member')
$$;
set local check_function_bodies = on;
create policy granted_tenants on haulier.tenants to haulier_producer using (id in (select haulier.granted_tenants()));
do $$
declare
    relation text;
begin
    foreach relation in array array['jobs', 'outbox', 'events', 'idempotency_keys', 'unique_keys', 'lost_unique_keys', 'archive'] loop
        execute format('create policy granted_tenants on haulier.%I to haulier_producer using (tenant_id in (select haulier.granted_tenants()))',
                       relation);
    end loop;
end
$$;

-- Executed on the handler's connection, in the transaction that is bound to the job's tenant: so a handler completes no job of another one's.
-- (A worker of the release before assumes no role and binds nothing.)
create or replace function haulier.complete(job uuid, fence integer, worker uuid, outcome jsonb, lines jsonb) returns void
    language plpgsql security definer set search_path = pg_catalog, pg_temp set enable_seqscan = off as $$
declare
    settled record;
begin
    update haulier.jobs
       set state = 'succeeded', result = outcome, finished_at = clock_timestamp(), worker_id = null, seq = seq + 1
     where id = job and state = 'running' and attempt = fence and worker_id = worker
       and (tenant_id = nullif(current_setting('haulier.tenant', true), '')::integer or current_setting('role') = 'none')
    returning tenant_id, seq, started_at, finished_at into settled;
    if not found then
        raise exception 'attempt % no longer holds job %', fence, job
            using errcode = 'LL001', hint = 'another attempt has it, or it was settled by somebody else; nothing of this one is written';
    end if;
    delete from haulier.leases where job_id = job and attempt = fence;
    insert into haulier.attempts (job_id, number, tenant_id, worker_id, started_at, finished_at, outcome, log)
    values (job, fence, settled.tenant_id, worker, settled.started_at, settled.finished_at, 'succeeded', lines);
    insert into haulier.events (job_id, seq, tenant_id, kind, state, attempt)
    values (job, settled.seq, settled.tenant_id, 'succeeded', 'succeeded', fence);
end
$$;

-- As before, but for who may: the account that logged in must have been granted the tenant.
create or replace function haulier.submit(command text, payload jsonb, options jsonb default '{}') returns uuid
    language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
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
    if options->>'tenant' is not null and not coalesce(owner.id in (select haulier.granted_tenants()), false)
       and not (select rolsuper from pg_roles where rolname = session_user) then  -- the same for a tenant that is not there
        raise exception 'role % may not submit for a tenant %; nothing was submitted', quote_ident(session_user), quote_literal(options->>'tenant')
            using errcode = 'insufficient_privilege',
                  hint = format('an operator grants it: haulier tenants grant %s --role %s', options->>'tenant', session_user);
    end if;
    if owner.id is null then
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

-- A partition is read through its parent, whose rights and policies hold then; by itself it is open to nobody.
create function haulier.open_archive(day date) returns void
    language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    partition text := 'archive_' || to_char(day, 'YYYYMMDD');
begin
    if to_regclass(format('haulier.%I', partition)) is null then
        execute format('create table haulier.%I partition of haulier.archive for values from (%L) to (%L)', partition, day, day + 1);
        execute format('alter table haulier.%I enable row level security, force row level security', partition);
    end if;
end
$$;

create function haulier.drop_archive(before date) returns setof text
    language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    partition text;
begin
    for partition in
        select c.relname from pg_inherits i join pg_class c on c.oid = i.inhrelid
         where i.inhparent = 'haulier.archive'::regclass and c.relname < 'archive_' || to_char(before, 'YYYYMMDD') order by 1
    loop
        execute format('drop table haulier.%I', partition);
        return next partition;
    end loop;
end
$$;

do $$
declare
    partition regclass;
begin
    for partition in select inhrelid from pg_catalog.pg_inherits where inhparent = 'haulier.archive'::regclass loop
        execute format('alter table %s enable row level security, force row level security', partition);
    end loop;
end
$$;

revoke execute on function haulier.granted_tenants(), haulier.open_archive(date), haulier.drop_archive(date) from public;
grant execute on function haulier.granted_tenants() to haulier_producer, haulier_definer;
grant execute on function haulier.open_archive(date), haulier.drop_archive(date) to haulier_upkeep;
grant execute on function haulier.complete(uuid, integer, uuid, jsonb, jsonb) to haulier_handler;
grant execute on function haulier.submit(text, jsonb, jsonb) to public;

-- An owner that is no superuser must be let into the schema to be given a function.
grant create on schema haulier to haulier_definer;
alter function haulier.granted_tenants() owner to haulier_definer;
alter function haulier.complete(uuid, integer, uuid, jsonb, jsonb) owner to haulier_definer;
alter function haulier.submit(text, jsonb, jsonb) owner to haulier_definer;
revoke create on schema haulier from haulier_definer;
