-- What the reconciliation with Clerk's API keeps: its runs, the objects that wait for an operator, its locks, and the last
-- walk of each resource. The columns mean the same as on Postgres (0010). Only adds: an earlier build goes on.

CREATE TABLE reconcile_runs (
    id          TEXT PRIMARY KEY,
    started_at  TEXT NOT NULL,
    saved_at    TEXT NOT NULL,
    finished_at TEXT,
    state       TEXT NOT NULL,
    is_dry      INTEGER NOT NULL,
    progress    TEXT NOT NULL,
    last_error  TEXT
) STRICT, WITHOUT ROWID;
CREATE INDEX reconcile_runs_by_start ON reconcile_runs (started_at, id);

-- Objects that a run wants to delete, or found deleted although Clerk has them. Ids only, no content.
CREATE TABLE reconcile_held (
    run        TEXT NOT NULL,
    table_name TEXT NOT NULL,
    id         TEXT NOT NULL,
    kind       TEXT NOT NULL,
    state      TEXT NOT NULL,
    noted_at   TEXT NOT NULL,
    PRIMARY KEY (run, table_name, id)
) STRICT, WITHOUT ROWID;
CREATE INDEX reconcile_held_settled ON reconcile_held (noted_at) WHERE state <> 'waiting';

CREATE TABLE reconcile_locks (
    name       TEXT PRIMARY KEY,
    holder     TEXT NOT NULL,
    held_until TEXT NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE reconcile_walks (
    resource       TEXT PRIMARY KEY,
    complete_since TEXT,
    last_walk_at   TEXT NOT NULL,
    drift          INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- How fresh each reconciled table is. `applied_through` is the newest event time among the last 1,000 lines of the ledger,
-- without readings of Clerk's API; it is null where these are all that the lines are about.
CREATE VIEW freshness AS
WITH known (resource) AS (VALUES ('organizations'), ('users'), ('organization_memberships'), ('organization_invitations'), ('organization_domains'), ('roles'), ('permissions'), ('waitlist_entries')),
     latest AS (SELECT event_at, event_type FROM deliveries ORDER BY applied_at DESC LIMIT 1000),
     applied AS (SELECT max(event_at) AS through FROM latest WHERE event_type NOT LIKE 'reconcile.%')
SELECT known.resource, walk.complete_since, walk.last_walk_at, walk.drift, applied.through AS applied_through
FROM known CROSS JOIN applied LEFT JOIN reconcile_walks AS walk ON walk.resource = known.resource;

-- Rows that are not deleted, in the order in which Clerk created them: the reconciliation pages through them and counts them.
CREATE INDEX organizations_living ON organizations (created_at, id) WHERE deleted_at IS NULL;
CREATE INDEX users_living ON users (created_at, id) WHERE deleted_at IS NULL;
CREATE INDEX organization_memberships_living ON organization_memberships (created_at, id) WHERE deleted_at IS NULL;
CREATE INDEX organization_invitations_living ON organization_invitations (created_at, id) WHERE deleted_at IS NULL;
CREATE INDEX organization_domains_living ON organization_domains (created_at, id) WHERE deleted_at IS NULL;
CREATE INDEX roles_living ON roles (created_at, id) WHERE deleted_at IS NULL;
CREATE INDEX permissions_living ON permissions (created_at, id) WHERE deleted_at IS NULL;
CREATE INDEX waitlist_entries_living ON waitlist_entries (created_at, id) WHERE deleted_at IS NULL;
