-- What is still to be done for rows whose parent was deleted or erased, so that a large cascade goes in small steps and
-- one row that refuses its change keeps it from nobody else. Rollbook's workers write and empty it; it is empty most of
-- the time. A line about `children` stands for all rows that name this row as their parent; one about a `row` for a
-- single row that could not be changed yet; one about `content` for a single row that is due to lose its content.
CREATE TABLE rollbook_cascades (
    table_name    text NOT NULL,
    id            text NOT NULL,
    what          text NOT NULL CHECK (what IN ('children', 'row', 'content')),
    parent_table  text,
    parent_id     text,
    survivors     boolean NOT NULL DEFAULT false,
    forget_ledger boolean NOT NULL DEFAULT false,
    noted_at      timestamptz NOT NULL DEFAULT clock_timestamp(),
    revision      bigint NOT NULL DEFAULT 0,
    attempts      integer NOT NULL DEFAULT 0,
    next_try_at   timestamptz NOT NULL DEFAULT clock_timestamp(),
    last_error    text,
    PRIMARY KEY (table_name, id, what)
);

-- Whoever may delete from the ledger is a worker's role, and needs this table too.
DO $$
DECLARE
    worker text;
BEGIN
    FOR worker IN
        SELECT DISTINCT grantee FROM information_schema.role_table_grants
        WHERE table_schema = current_schema() AND table_name = 'deliveries' AND privilege_type = 'DELETE'
              AND grantee <> current_user
    LOOP
        EXECUTE format(
            'GRANT SELECT, INSERT, UPDATE, DELETE ON rollbook_cascades TO %s',
            CASE WHEN worker = 'PUBLIC' THEN 'PUBLIC' ELSE quote_ident(worker) END
        );
    END LOOP;
END
$$;
