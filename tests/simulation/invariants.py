"""What must hold of the ledger after every step, in one statement: each row that it returns is a sentence about what does not."""

from __future__ import annotations

from typing import Any, LiteralString

import psycopg

#: State before, event, state after. Whatever else a timeline tells is wrong.
EDGES: LiteralString = """
    ('', 'accepted', 'queued'), ('', 'accepted', 'scheduled'),
    ('scheduled', 'queued', 'queued'), ('queued', 'started', 'running'),
    ('scheduled', 'cancelled', 'cancelled'), ('queued', 'cancelled', 'cancelled'),
    ('scheduled', 'expired', 'cancelled'), ('queued', 'expired', 'cancelled'),
    ('running', 'succeeded', 'succeeded'), ('running', 'rejected', 'rejected'), ('running', 'died', 'dead'),
    ('running', 'failed', 'scheduled'), ('running', 'snoozed', 'scheduled'), ('running', 'interrupted', 'scheduled'),
    ('running', 'handed_back', 'queued'), ('running', 'rescued', 'queued'),
    ('running', 'cancel_requested', 'running'), ('running', 'cancelled', 'cancelled'),
    ('dead', 'replayed', 'queued'), ('dead', 'resolved', 'dead')
"""

WRONG: LiteralString = f"""
with steps as (
    select job_id, seq, kind, state::text, attempt, row_number() over job as place, lag(state::text, 1, '') over job as before
      from haulier.events window job as (partition by job_id order by seq)),
fences as (
    select job_id, attempt, row_number() over (partition by job_id order by seq) as place from haulier.events where kind = 'started'),
tries as (
    select j.id, j.attempt, j.state::text, coalesce(array_agg(a.number order by a.number) filter (where a.number is not null), '{{}}') as numbers,
           count(*) filter (where a.outcome = 'succeeded') as successes
      from haulier.jobs j left join haulier.attempts a on a.job_id = j.id group by j.id)
select 'timeline with a gap: ' || job_id from steps where seq <> place
union all
select format('no way leads from %%L by %%L to %%L: %%s', before, kind, state, job_id) from steps
 where (before, kind, state) not in (values {EDGES})
union all
select 'timeline that ends elsewhere than its job: ' || j.id from haulier.jobs j
 where not exists (select from steps s where s.job_id = j.id and s.seq = j.seq and s.state = j.state::text)
    or exists (select from steps s where s.job_id = j.id and s.seq > j.seq)
union all
select 'fences that do not rise by one: ' || job_id from fences where attempt <> place
union all
select format('attempts %%s of a job at attempt %%s: %%s', numbers, attempt, id) from tries
 where numbers <> coalesce((select array_agg(n) from generate_series(1, attempt - (state = 'running')::integer) n), '{{}}')
    or successes <> (state = 'succeeded')::integer
union all
select 'outbox and state disagree: ' || coalesce(j.id, o.job_id) from haulier.jobs j full join haulier.outbox o on o.job_id = j.id
 where j.id is null or (o.job_id is not null) <> (j.state in ('scheduled', 'queued'))
    or o.attempt <> j.attempt + 1 or o.scheduled <> (j.state = 'scheduled') or o.solo <> j.solo
union all
select 'lease and state disagree: ' || coalesce(j.id, l.job_id) from haulier.jobs j full join haulier.leases l on l.job_id = j.id
 where j.id is null or (l.job_id is not null) <> (j.state = 'running') or l.attempt <> j.attempt or l.worker_id <> j.worker_id
union all
select 'dead letter and state disagree: ' || coalesce(j.id, d.job_id) from haulier.jobs j full join haulier.dead_letters d on d.job_id = j.id
 where j.id is null or (d.job_id is not null) <> (j.state = 'dead')
union all
select 'an effect that is not its job''s one success: ' || e.job_id from effects e left join haulier.jobs j on j.id = e.job_id
 where j.state is distinct from 'succeeded' or e.attempt <> j.attempt
union all
select 'a second effect: ' || job_id from effects group by job_id having count(*) > 1
"""


def violations(tx: psycopg.Connection[Any]) -> list[str]:
    return [row[0] for row in tx.execute(WRONG.replace("%%", "%"))]
