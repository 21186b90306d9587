-- As before, but each job's end is looked up by its id: joined, a set of n was compared n times with n.
create or replace function haulier.complete_together(worker uuid, successes jsonb) returns void
    language plpgsql security definer set search_path = pg_catalog, pg_temp set enable_seqscan = off as $$
declare
    ends jsonb;
    ids  uuid[];
    held integer;
begin
    select jsonb_object_agg((e ->> 'id')::uuid, e), array_agg((e ->> 'id')::uuid) into ends, ids from jsonb_array_elements(successes) e;
    with settled as (
        update haulier.jobs j
           set state = 'succeeded', result = nullif(ends -> j.id::text -> 'result', 'null'), finished_at = clock_timestamp(), worker_id = null,
               seq = j.seq + 1
         where j.id = any(ids) and j.state = 'running' and j.attempt = (ends -> j.id::text ->> 'attempt')::integer and j.worker_id = worker
           and (j.tenant_id = nullif(current_setting('haulier.tenant', true), '')::integer or current_setting('role') = 'none')
        returning j.id, j.tenant_id, j.seq, j.attempt, j.started_at, j.finished_at),
    released as (
        delete from haulier.leases where job_id = any(array(select id from settled))),
    recorded as (
        insert into haulier.attempts (job_id, number, tenant_id, worker_id, started_at, finished_at, outcome, log)
        select id, attempt, tenant_id, worker, started_at, finished_at, 'succeeded', nullif(ends -> id::text -> 'log', 'null') from settled),
    told as (
        insert into haulier.events (job_id, seq, tenant_id, kind, state, attempt)
        select id, seq, tenant_id, 'succeeded', 'succeeded', attempt from settled)
    select count(*) into held from settled;
    if held <> jsonb_array_length(successes) then
        raise exception '% of % jobs are no longer held by worker %', jsonb_array_length(successes) - held, jsonb_array_length(successes), worker
            using errcode = 'LL001', hint = 'other attempts have them, or they were settled by somebody else; nothing of this set is written';
    end if;
end
$$;
