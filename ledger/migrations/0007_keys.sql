-- When a key was last seen, to the minute: written aside, by whichever intake saw it.
alter table haulier.api_keys add column last_used_at timestamptz;
grant select (last_used_at), update (last_used_at) on haulier.api_keys to haulier_intake;
grant select (last_used_at), update (expires_at) on haulier.api_keys to haulier_client, haulier_operator;
