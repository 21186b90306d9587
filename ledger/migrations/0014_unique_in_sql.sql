-- `unique` for upstream services that submit in SQL, decided as in ledger/unique.py (decision 0013): lock the key's row; then, in a new statement,
-- read how its holder stands. So the functions are volatile, and the transaction must be at READ COMMITTED: anywhere else its one snapshot may be
-- older than the holder's end, and a wish would be answered with a job that is over.
grant select, insert, update on haulier.unique_keys to haulier_definer;
grant insert on haulier.lost_unique_keys to haulier_definer;
grant select (job_id), delete on haulier.outbox to haulier_definer;
grant select (id, state) on haulier.archive to haulier_definer;
create policy definer_decides on haulier.unique_keys to haulier_definer using (true) with check (true);
create policy definer_decides on haulier.lost_unique_keys for insert to haulier_definer with check (true);
create policy definer_decides on haulier.archive for select to haulier_definer using (true);

-- Called by haulier.submit alone, with its rights. Returns the job if it has the key now, else the job that holds it.
create function haulier.claim_unique_key(job uuid, tenant integer, command text, wanted jsonb) returns uuid
    language plpgsql volatile set search_path = pg_catalog, pg_temp set enable_seqscan = off as $$
declare
    name     text := wanted->>'key';
    hold     jsonb := coalesce(wanted->'while', '"active"');
    conflict text := coalesce(wanted->>'on_conflict', 'return');
    until    timestamptz;
    holder   uuid;
    holds    boolean;
    standing haulier.job_state;
    is_over  boolean;
    unknown  text;
begin
    if jsonb_typeof(wanted) <> 'object' then
        raise exception 'unique must be an object such as {"key": "cart-17"}, got %', jsonb_typeof(wanted) using errcode = 'invalid_parameter_value';
    end if;
    select string_agg(quote_literal(k), ', ') into unknown from jsonb_object_keys(wanted) as k where k not in ('key', 'while', 'on_conflict');
    if unknown is not null then
        raise exception 'unique does not know %; it takes key, while, on_conflict', unknown using errcode = 'invalid_parameter_value';
    end if;
    if jsonb_typeof(wanted->'key') is distinct from 'string' or length(name) not between 1 and 255 then
        raise exception 'unique.key must be a string of 1 to 255 characters, got %', coalesce(left(wanted->>'key', 100), 'none')
            using errcode = 'invalid_parameter_value';
    end if;
    if conflict not in ('return', 'reject', 'replace') then
        raise exception 'unique.on_conflict must be return, reject or replace, got %', conflict using errcode = 'invalid_parameter_value';
    end if;
    if hold = '"forever"' then
        until := 'infinity';
    elsif jsonb_typeof(hold) = 'number' and hold::numeric > 0 and hold::numeric <= 366 * 86400 then
        until := now() + make_interval(secs => hold::float8);
    elsif hold <> '"active"' then
        raise exception 'unique.while must be "active", "forever", or a number of seconds above 0 and up to a year, got %', hold
            using errcode = 'invalid_parameter_value';
    end if;
    if current_setting('transaction_isolation') not in ('read committed', 'read uncommitted') then
        raise exception 'unique takes a transaction at READ COMMITTED, this one is at %; nothing was submitted',
            upper(current_setting('transaction_isolation'))
            using errcode = 'feature_not_supported', hint = 'its snapshot may be older than the end of the job that holds the key';
    end if;

    insert into haulier.unique_keys as u (tenant_id, command, key, job_id, held_until) values (tenant, command, name, job, until)
    on conflict on constraint a_unique_key_has_one_holder do update set job_id = u.job_id
    returning u.job_id, u.held_until > clock_timestamp() into holder, holds;
    if holder = job then
        return job;
    end if;

    select j.state into standing from haulier.jobs j where j.id = holder;
    if not found then
        select a.state into standing from haulier.archive a where a.id = holder;
    end if;
    is_over := coalesce(not holds, standing is null or standing in ('succeeded', 'rejected', 'dead', 'cancelled'));
    if not is_over and conflict = 'reject' then
        raise exception 'the unique key % is held by job %; nothing was submitted', quote_literal(name), holder
            using errcode = 'unique_violation', constraint = 'a_unique_key_has_one_holder', detail = holder::text;
    elsif not is_over and conflict = 'return' then
        return holder;
    end if;

    if holds is distinct from false then
        select j.state into standing from haulier.jobs j where j.id = holder for update;
        if standing in ('scheduled', 'waiting', 'queued') then
            if is_over then
                raise exception 'the dead holder of the unique key % was replayed just now; nothing was submitted', quote_literal(name)
                    using errcode = 'serialization_failure', hint = 'roll back and try again';
            end if;
            perform haulier.replace_job(holder, job);
        elsif standing in ('running', 'dead') then
            insert into haulier.lost_unique_keys (tenant_id, job_id, command, key) values (tenant, holder, command, name) on conflict do nothing;
        end if;
    end if;
    update haulier.unique_keys u set job_id = job, held_until = until
     where u.tenant_id = tenant and u.command = claim_unique_key.command and u.key = name;
    return job;
end
$$;

-- The caller has locked it and seen that it waits.
create function haulier.replace_job(replaced uuid, replaced_by uuid) returns void
    language plpgsql volatile set search_path = pg_catalog, pg_temp set enable_seqscan = off as $$
begin
    delete from haulier.outbox where job_id = replaced;
    with cancelled as (
        update haulier.jobs j set state = 'cancelled', reason = 'replaced', finished_at = clock_timestamp(), seq = j.seq + 1
         where j.id = replaced
        returning j.id, j.tenant_id, j.seq, j.attempt)
    insert into haulier.events (job_id, seq, tenant_id, kind, state, attempt, who, data)
    select c.id, c.seq, c.tenant_id, 'cancelled', 'cancelled', c.attempt, session_user, jsonb_build_object('replaced_by', replace_job.replaced_by)
      from cancelled c;
end
$$;

-- As before, but for `unique`.
create or replace function haulier.submit(command text, payload jsonb, options jsonb default '{}') returns uuid
    language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    job     uuid := haulier.uuid7();
    known   haulier.commands;
    owner   haulier.tenants;
    due     timestamptz;
    unknown text;
    holder  uuid;
begin
    select string_agg(quote_literal(k), ', ') into unknown from jsonb_object_keys(options) as k
     where k not in ('tenant', 'priority', 'delay', 'run_at', 'expires_at', 'max_failures', 'labels', 'unique');
    if unknown is not null then
        raise exception 'haulier.submit does not know the option %; it takes tenant, priority, delay, run_at, expires_at, max_failures, labels, unique', unknown
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
    if jsonb_typeof(options->'unique') <> 'null' then
        holder := haulier.claim_unique_key(job, owner.id, split_part(known.name, '@', 1), options->'unique');
        if holder <> job then
            return holder;
        end if;
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

revoke execute on function haulier.claim_unique_key(uuid, integer, text, jsonb), haulier.replace_job(uuid, uuid) from public;
grant execute on function haulier.claim_unique_key(uuid, integer, text, jsonb), haulier.replace_job(uuid, uuid) to haulier_definer;
