-- What signs watch tokens. One secret signs (retires_at is null), those before it are still believed for a while. Only an intake reads them;
-- an operator makes new ones and retires the old, unseen.
create table haulier.token_secrets (
    id         uuid primary key default gen_random_uuid(),
    secret     bytea not null constraint a_secret_is_256_bits check (length(secret) = 32),
    made_at    timestamptz not null default clock_timestamp(),
    retires_at timestamptz
);

-- The installation's first: two random UUIDs are 244 bits of chance.
insert into haulier.token_secrets (secret) values (uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid()));

grant select on haulier.token_secrets to haulier_intake;
grant select (retires_at), insert (secret), update (retires_at), delete on haulier.token_secrets to haulier_operator;
