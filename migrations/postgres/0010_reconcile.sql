-- What the reconciliation with Clerk's API keeps: its runs, the objects that wait for an operator, its locks, and the last
-- walk of each resource. Only adds: an earlier build goes on.

CREATE TABLE reconcile_runs (
    id          text COLLATE "C" PRIMARY KEY,
    started_at  timestamptz NOT NULL,
    saved_at    timestamptz NOT NULL,
    finished_at timestamptz,
    state       text NOT NULL,
    is_dry      boolean NOT NULL,
    progress    text NOT NULL,
    last_error  text
);
CREATE INDEX reconcile_runs_by_start ON reconcile_runs (started_at, id);

-- Objects that a run wants to delete, or found deleted although Clerk has them. Ids only, no content.
CREATE TABLE reconcile_held (
    run        text COLLATE "C" NOT NULL,
    table_name text COLLATE "C" NOT NULL,
    id         text COLLATE "C" NOT NULL,
    kind       text NOT NULL,
    state      text NOT NULL,
    noted_at   timestamptz NOT NULL,
    PRIMARY KEY (run, table_name, id)
);
CREATE INDEX reconcile_held_settled ON reconcile_held (noted_at) WHERE state <> 'waiting';

CREATE TABLE reconcile_locks (
    name       text COLLATE "C" PRIMARY KEY,
    holder     text NOT NULL,
    held_until timestamptz NOT NULL
);

CREATE TABLE reconcile_walks (
    resource       text COLLATE "C" PRIMARY KEY,
    complete_since timestamptz,
    last_walk_at   timestamptz NOT NULL,
    drift          bigint NOT NULL
);

-- How fresh each reconciled table is. `applied_through` is the newest event time among the last 1,000 lines of the ledger,
-- without readings of Clerk's API; it is null where these are all that the lines are about.
CREATE VIEW freshness AS
SELECT known.resource, walk.complete_since, walk.last_walk_at, walk.drift, applied.through AS applied_through
FROM (VALUES ('organizations'), ('users'), ('organization_memberships'), ('organization_invitations'), ('organization_domains'), ('roles'), ('permissions'), ('waitlist_entries')) AS known (resource)
CROSS JOIN (
    SELECT max(event_at) FILTER (WHERE event_type NOT LIKE 'reconcile.%') AS through
    FROM (SELECT event_at, event_type FROM deliveries ORDER BY applied_at DESC LIMIT 1000) AS latest
) AS applied
LEFT JOIN reconcile_walks AS walk ON walk.resource = known.resource;

-- Whoever may delete from the ledger is a worker's role, and needs these tables too. Whoever reads current_members may read
-- freshness.
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
                THEN 'GRANT SELECT, INSERT, UPDATE, DELETE ON reconcile_runs, reconcile_held, reconcile_locks, reconcile_walks TO %s'
                ELSE 'GRANT SELECT ON freshness TO %s' END,
            CASE WHEN holder.grantee = 'PUBLIC' THEN 'PUBLIC' ELSE quote_ident(holder.grantee) END
        );
    END LOOP;
END
$$;

-- Rows that are not deleted, in the order in which Clerk created them: the reconciliation pages through them and counts them.
DROP INDEX CONCURRENTLY IF EXISTS organizations_living;
CREATE INDEX CONCURRENTLY organizations_living ON organizations (created_at, id COLLATE "C") WHERE deleted_at IS NULL;
DROP INDEX CONCURRENTLY IF EXISTS users_living;
CREATE INDEX CONCURRENTLY users_living ON users (created_at, id COLLATE "C") WHERE deleted_at IS NULL;
DROP INDEX CONCURRENTLY IF EXISTS organization_memberships_living;
CREATE INDEX CONCURRENTLY organization_memberships_living ON organization_memberships (created_at, id COLLATE "C") WHERE deleted_at IS NULL;
DROP INDEX CONCURRENTLY IF EXISTS organization_invitations_living;
CREATE INDEX CONCURRENTLY organization_invitations_living ON organization_invitations (created_at, id COLLATE "C") WHERE deleted_at IS NULL;
DROP INDEX CONCURRENTLY IF EXISTS organization_domains_living;
CREATE INDEX CONCURRENTLY organization_domains_living ON organization_domains (created_at, id COLLATE "C") WHERE deleted_at IS NULL;
DROP INDEX CONCURRENTLY IF EXISTS roles_living;
CREATE INDEX CONCURRENTLY roles_living ON roles (created_at, id COLLATE "C") WHERE deleted_at IS NULL;
DROP INDEX CONCURRENTLY IF EXISTS permissions_living;
CREATE INDEX CONCURRENTLY permissions_living ON permissions (created_at, id COLLATE "C") WHERE deleted_at IS NULL;
DROP INDEX CONCURRENTLY IF EXISTS waitlist_entries_living;
CREATE INDEX CONCURRENTLY waitlist_entries_living ON waitlist_entries (created_at, id COLLATE "C") WHERE deleted_at IS NULL;
