-- The log lines of an attempt that has run for a while: shown before it ends, and kept when its process dies.
alter table haulier.leases add column log jsonb;
grant update (log) on haulier.leases to haulier_worker;
