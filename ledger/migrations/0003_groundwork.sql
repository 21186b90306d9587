-- Which transaction wrote an event. Sequences and times say nothing about the order of commits; this does: all that a reader has not seen yet
-- was written by a transaction that its last snapshot did not hold to be finished. So a reader who stops below the oldest transaction still
-- under way (pg_snapshot_xmin) and goes on from there sees each event once, with no gap and no repeat, whatever order they committed in.
--
-- A bigint and no xid8, which BRIN has no operators for. BRIN, since these rows are read by their age: it costs an insert next to nothing.
alter table haulier.events add column xact bigint not null default (pg_current_xact_id()::text)::bigint;
create index events_by_transaction on haulier.events using brin (xact) with (pages_per_range = 16, autosummarize = on);

create or replace view haulier.every_event as
    select job_id, seq, at, tenant_id, kind, state, attempt, who, data, xact from haulier.events
    union all
    select a.id, x.seq, x.at, a.tenant_id, x.kind, x.state, x.attempt, x.who, x.data, coalesce(x.xact, 0)
      from haulier.archive a,
           jsonb_to_recordset(a.events) as x(seq integer, at timestamptz, kind text, state haulier.job_state, attempt integer,
                                             who text, data jsonb, xact bigint);

-- What people and keys change, beside the jobs' own timelines (haulier.events). Rows are only ever added.
create table haulier.audit (
    id        uuid primary key,
    at        timestamptz not null default clock_timestamp(),
    tenant_id integer,
    who       text not null,
    origin    text,
    action    text not null,
    target    text,
    reason    text,
    data      jsonb
);
create index audit_of_a_tenant on haulier.audit (tenant_id, id);
