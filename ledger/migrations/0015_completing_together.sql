-- The ends of jobs that shared a transaction, written with its commit: all of them, or the commit sent along cannot happen.
create function haulier.complete_together(worker uuid, successes jsonb) returns void
    language plpgsql security definer set search_path = pg_catalog, pg_temp set enable_seqscan = off as $$
declare
    held integer;
begin
    with ends as materialized (
        select * from jsonb_to_recordset(successes) as e(id uuid, attempt integer, result jsonb, log jsonb)),
    settled as (
        update haulier.jobs j
           set state = 'succeeded', result = e.result, finished_at = clock_timestamp(), worker_id = null, seq = j.seq + 1
          from ends e
         where j.id = any(array(select id from ends)) and j.id = e.id and j.state = 'running' and j.attempt = e.attempt and j.worker_id = worker
           and (j.tenant_id = nullif(current_setting('haulier.tenant', true), '')::integer or current_setting('role') = 'none')
        returning j.id, j.tenant_id, j.seq, j.attempt, j.started_at, j.finished_at, e.log),
    released as (
        delete from haulier.leases where job_id = any(array(select id from settled))),
    recorded as (
        insert into haulier.attempts (job_id, number, tenant_id, worker_id, started_at, finished_at, outcome, log)
        select id, attempt, tenant_id, worker, started_at, finished_at, 'succeeded', log from settled),
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

revoke execute on function haulier.complete_together(uuid, jsonb) from public;
grant execute on function haulier.complete_together(uuid, jsonb) to haulier_handler;
grant create on schema haulier to haulier_definer;
alter function haulier.complete_together(uuid, jsonb) owner to haulier_definer;
revoke create on schema haulier from haulier_definer;
