-- A family is archived whole, so whoever knows the day of one of its jobs looks for the others in that day alone.
create or replace view haulier.every_job with (security_invoker = true) as
    select id, tenant_id, root_id, parent_id, command, queue, state, solo, priority, max_failures, failures, attempt, generation, seq,
           worker_id, submitted_at, due_at, expires_at, started_at, finished_at, cancel_requested_at, reason, traceparent, labels,
           payload, original_payload, result, error, progress, checkpoint, null::date as archived_on
      from haulier.jobs
    union all
    select id, tenant_id, root_id, parent_id, command, queue, state, solo, priority, max_failures, failures, attempt, generation, seq,
           worker_id, submitted_at, due_at, expires_at, started_at, finished_at, cancel_requested_at, reason, traceparent, labels,
           payload, original_payload, result, error, progress, checkpoint, archived_on
      from haulier.archive;
