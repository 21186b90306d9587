-- What ended otherwise is rare, and asked for: `?state=rejected` shall not read all that has succeeded. (Not on the live tables, where an index
-- that knows the state would be written at each change of it.)
create index archive_of_what_did_not_succeed on haulier.archive (tenant_id, id) where state <> 'succeeded';

-- As every_job has it: whoever knows the earliest day on which a job can have been archived leaves the partitions before it alone.
create or replace view haulier.every_attempt with (security_invoker = true) as
    select job_id, number, tenant_id, worker_id, started_at, finished_at, outcome, error, log, null::date as archived_on from haulier.attempts
    union all
    select a.id, x.number, a.tenant_id, x.worker_id, x.started_at, x.finished_at, x.outcome, x.error, x.log, a.archived_on
      from haulier.archive a,
           jsonb_to_recordset(a.attempts) as x(number integer, worker_id uuid, started_at timestamptz, finished_at timestamptz,
                                               outcome text, error jsonb, log jsonb);

create or replace view haulier.every_event with (security_invoker = true) as
    select job_id, seq, at, tenant_id, kind, state, attempt, who, data, xact, null::date as archived_on from haulier.events
    union all
    select a.id, x.seq, x.at, a.tenant_id, x.kind, x.state, x.attempt, x.who, x.data, coalesce(x.xact, 0), a.archived_on
      from haulier.archive a,
           jsonb_to_recordset(a.events) as x(seq integer, at timestamptz, kind text, state haulier.job_state, attempt integer,
                                             who text, data jsonb, xact bigint);
