-- Forwards of the change feed: how far each came, and the changes that it could not deliver. Only adds: an earlier build
-- goes on.

-- One row for each forward that ever ran. `epoch` grows whenever a process takes the forward or an operator moves it: only
-- whoever knows the current one may save.
CREATE TABLE forwards (
    name        text COLLATE "C" PRIMARY KEY,
    position    bigint NOT NULL,
    epoch       bigint NOT NULL,
    holder      text,
    held_until  timestamptz,
    stopped_at  timestamptz,
    stop_reason text,
    saved_at    timestamptz NOT NULL
) WITH (fillfactor = 10);

-- Changes that wait for their next attempt or behind an earlier change of their subject, and dead letters. Ids only, as in
-- `changes`.
CREATE TABLE forward_changes (
    forward     text COLLATE "C" NOT NULL,
    position    bigint NOT NULL,
    resource    text NOT NULL,
    subject_id  text NOT NULL,
    kind        text NOT NULL,
    changed     text[] NOT NULL,
    origin      text NOT NULL,
    cause       text,
    event_at    timestamptz,
    at          timestamptz NOT NULL,
    state       text NOT NULL,
    tries       bigint NOT NULL,
    attempts    bigint NOT NULL,
    failed_at   timestamptz,
    next_try_at timestamptz NOT NULL,
    last_error  text,
    PRIMARY KEY (forward, position)
);

-- Whoever may delete from the ledger is a worker's role, and needs these tables too.
DO $$
DECLARE
    holder record;
BEGIN
    FOR holder IN
        SELECT DISTINCT grantee FROM information_schema.role_table_grants
        WHERE table_schema = current_schema() AND grantee <> current_user
              AND table_name = 'deliveries' AND privilege_type = 'DELETE'
    LOOP
        EXECUTE format(
            'GRANT SELECT, INSERT, UPDATE, DELETE ON forwards, forward_changes TO %s',
            CASE WHEN holder.grantee = 'PUBLIC' THEN 'PUBLIC' ELSE quote_ident(holder.grantee) END
        );
    END LOOP;
END
$$;
