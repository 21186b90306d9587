-- Postgres reads the text of each CHECK of a table anew in every statement that writes a row of it: four of them were a third of what a
-- job's completion costs. So there is one, said shortly; and a priority is checked where it is written once and read by sets.
alter table haulier.jobs
    drop constraint priority_is_within_100,
    drop constraint a_job_may_fail_once,
    drop constraint a_running_job_has_a_worker,
    drop constraint a_final_job_has_finished,
    add constraint a_job_may_fail_runs_with_a_worker_and_ends_at_a_time check (
        max_failures >= 1 and (state = 'running') = (worker_id is not null) and (state >= 'succeeded') = (finished_at is not null));
alter table haulier.outbox add constraint priority_is_within_100 check (priority between -100 and 100);

-- One success, written from within the transaction that holds its effects: `select haulier.complete(…); commit` is one round trip, and
-- since a lost lease raises, that commit cannot happen without it.
--
-- A function, because it has to be planned by index at any size: a plan made while these tables are tiny reads them whole ever after,
-- and on a connection that handlers write on, the planner's settings are not ours to change.
create function haulier.complete(job uuid, fence integer, worker uuid, outcome jsonb, lines jsonb) returns void
    language plpgsql set enable_seqscan = off as $$
declare
    settled record;
begin
    update haulier.jobs
       set state = 'succeeded', result = outcome, finished_at = clock_timestamp(), worker_id = null, seq = seq + 1
     where id = job and state = 'running' and attempt = fence and worker_id = worker
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
