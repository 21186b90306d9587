-- Upkeep ends what nobody else ends, and takes results away; of a job it writes nothing else.
revoke update on haulier.jobs from haulier_upkeep;
grant update (state, reason, finished_at, due_at, failures, error, solo, worker_id, seq, result) on haulier.jobs to haulier_upkeep;
