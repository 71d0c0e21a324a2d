-- The copy of Clerk. Read these tables as you like; only Rollbook writes them.
--
-- Every table: id (Clerk's), typed columns, data (the whole object as Clerk sent it, JSON),
-- created_at, updated_at, deleted_at (null while it lives), synced_at, synced_by (the svix-id that
-- made the row what it is). Times are ISO 8601 in UTC. There are no foreign keys and no unique
-- columns beside id: a membership may arrive before its user, an address may move between users out
-- of order. The version columns decide which delivery wins; see crates/README.md.

CREATE TABLE users (
    id                    TEXT PRIMARY KEY NOT NULL,
    external_id           TEXT,
    username              TEXT,
    first_name            TEXT,
    last_name             TEXT,
    primary_email_address TEXT,
    primary_phone_number  TEXT,
    image_url             TEXT,
    banned                INTEGER,
    locked                INTEGER,
    last_sign_in_at       TEXT,
    last_active_at        TEXT,
    public_metadata       TEXT,
    private_metadata      TEXT,
    unsafe_metadata       TEXT,
    data                  TEXT,
    created_at            TEXT,
    updated_at            TEXT,
    deleted_at            TEXT,
    synced_at             TEXT NOT NULL,
    synced_by             TEXT NOT NULL,
    version_dead          INTEGER NOT NULL,
    version_updated_at    INTEGER NOT NULL,
    version_event_at      INTEGER NOT NULL,
    version_hash          BLOB NOT NULL,
    version_floor         INTEGER NOT NULL DEFAULT 0
) STRICT;

CREATE INDEX users_by_email ON users (primary_email_address);
CREATE INDEX users_by_external_id ON users (external_id) WHERE external_id IS NOT NULL;

CREATE TABLE organizations (
    id                      TEXT PRIMARY KEY NOT NULL,
    name                    TEXT,
    slug                    TEXT,
    image_url               TEXT,
    created_by              TEXT,
    members_count           INTEGER,
    max_allowed_memberships INTEGER,
    public_metadata         TEXT,
    private_metadata        TEXT,
    data                    TEXT,
    created_at              TEXT,
    updated_at              TEXT,
    deleted_at              TEXT,
    synced_at               TEXT NOT NULL,
    synced_by               TEXT NOT NULL,
    version_dead            INTEGER NOT NULL,
    version_updated_at      INTEGER NOT NULL,
    version_event_at        INTEGER NOT NULL,
    version_hash            BLOB NOT NULL,
    version_floor           INTEGER NOT NULL DEFAULT 0
) STRICT;

CREATE INDEX organizations_by_slug ON organizations (slug) WHERE slug IS NOT NULL;

CREATE TABLE organization_memberships (
    id                 TEXT PRIMARY KEY NOT NULL,
    organization_id    TEXT,
    user_id            TEXT,
    role               TEXT,
    permissions        TEXT,
    public_metadata    TEXT,
    private_metadata   TEXT,
    data               TEXT,
    created_at         TEXT,
    updated_at         TEXT,
    deleted_at         TEXT,
    synced_at          TEXT NOT NULL,
    synced_by          TEXT NOT NULL,
    version_dead       INTEGER NOT NULL,
    version_updated_at INTEGER NOT NULL,
    version_event_at   INTEGER NOT NULL,
    version_hash       BLOB NOT NULL,
    version_floor      INTEGER NOT NULL DEFAULT 0
) STRICT;

CREATE INDEX organization_memberships_by_organization ON organization_memberships (organization_id, user_id);
CREATE INDEX organization_memberships_by_user ON organization_memberships (user_id, organization_id);

-- The ledger: what became of each delivery, written in the same transaction as the rows.
CREATE TABLE deliveries (
    svix_id     TEXT PRIMARY KEY NOT NULL,
    event_type  TEXT NOT NULL,
    subject_id  TEXT,
    outcome     TEXT NOT NULL,
    event_at    TEXT NOT NULL,
    received_at TEXT NOT NULL,
    applied_at  TEXT NOT NULL,
    attempts    INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
