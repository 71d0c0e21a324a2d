-- The change feed: one line for each real change of a row, in the order of the commits. `rollbook migrate` makes the triggers
-- that write to changes_pending, and drops them with `changes = no`. Only adds: an earlier build goes on.

-- Changes that have no position yet. Triggers write them in the transaction of the change; a worker moves the committed ones
-- to `changes`. The number orders the changes of one row: a transaction draws it while it holds the row's lock.
CREATE TABLE changes_pending (
    number     bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    resource   text NOT NULL,
    subject_id text NOT NULL,
    kind       text NOT NULL,
    changed    text[] NOT NULL,
    origin     text NOT NULL,
    cause      text,
    event_at   timestamptz,
    noted_at   timestamptz NOT NULL DEFAULT clock_timestamp()
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 10000, autovacuum_vacuum_cost_delay = 0);

CREATE TABLE changes (
    position   bigint PRIMARY KEY,
    resource   text NOT NULL,
    subject_id text NOT NULL,
    kind       text NOT NULL,
    changed    text[] NOT NULL,
    origin     text NOT NULL,
    cause      text,
    event_at   timestamptz,
    at         timestamptz NOT NULL
) WITH (autovacuum_vacuum_scale_factor = 0.02);

-- One row. Its lock makes one process at a time give positions.
CREATE TABLE changes_state (
    single          boolean PRIMARY KEY DEFAULT true CHECK (single),
    last_position   bigint NOT NULL DEFAULT 0,
    last_at         timestamptz NOT NULL DEFAULT '-infinity',
    removed_through bigint NOT NULL DEFAULT 0
) WITH (fillfactor = 10);
INSERT INTO changes_state DEFAULT VALUES;

-- Whoever may delete from the ledger is a worker's role, and needs these tables too. Whoever reads current_members may read
-- the feed.
DO $$
DECLARE
    holder record;
BEGIN
    FOR holder IN
        SELECT DISTINCT grantee, table_name::text = 'deliveries' AS works FROM information_schema.role_table_grants
        WHERE table_schema = current_schema() AND grantee <> current_user
              AND (table_name = 'deliveries' AND privilege_type = 'DELETE'
                   OR table_name = 'current_members' AND privilege_type = 'SELECT')
    LOOP
        EXECUTE format(
            CASE WHEN holder.works
                THEN 'GRANT SELECT, INSERT, UPDATE, DELETE ON changes_pending, changes, changes_state TO %s'
                ELSE 'GRANT SELECT ON changes, changes_state TO %s' END,
            CASE WHEN holder.grantee = 'PUBLIC' THEN 'PUBLIC' ELSE quote_ident(holder.grantee) END
        );
    END LOOP;
END
$$;
