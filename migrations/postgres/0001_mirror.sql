-- The copy of Clerk. Read these tables as you like, join them, hang triggers on them; only Rollbook writes
-- them. They are made in the schema that the setting `schema` names.
--
-- Every table: id (Clerk's), typed columns, data (the whole object as Clerk sent it), created_at,
-- updated_at, deleted_at (null while it lives), synced_at, synced_by (the svix-id that made the row what it
-- is). There are no foreign keys and no unique columns beside id: a membership may arrive before its
-- user, an address may move between users out of order. The version columns decide which delivery wins; see
-- crates/README.md. No index has a part in them, so that most updates stay within their page (HOT), for which
-- each page keeps some room.
--
-- Ids have the database's own order of text, as columns of yours that refer to them have: an index of
-- another order could not serve a join.

CREATE TABLE users (
    id                    text PRIMARY KEY,
    external_id           text,
    username              text,
    first_name            text,
    last_name             text,
    primary_email_address text,
    primary_phone_number  text,
    image_url             text,
    banned                boolean,
    locked                boolean,
    last_sign_in_at       timestamptz,
    last_active_at        timestamptz,
    public_metadata       jsonb,
    private_metadata      jsonb,
    unsafe_metadata       jsonb,
    data                  jsonb,
    created_at            timestamptz,
    updated_at            timestamptz,
    deleted_at            timestamptz,
    synced_at             timestamptz NOT NULL,
    synced_by             text NOT NULL,
    version_dead          boolean NOT NULL,
    version_updated_at    bigint NOT NULL,
    version_event_at      bigint NOT NULL,
    version_hash          bytea NOT NULL,
    version_floor         bigint NOT NULL DEFAULT 0
) WITH (fillfactor = 85, autovacuum_vacuum_scale_factor = 0.02);

CREATE INDEX users_by_email ON users (primary_email_address);
CREATE INDEX users_by_external_id ON users (external_id) WHERE external_id IS NOT NULL;

CREATE TABLE organizations (
    id                      text PRIMARY KEY,
    name                    text,
    slug                    text,
    image_url               text,
    created_by              text,
    members_count           bigint,
    max_allowed_memberships bigint,
    public_metadata         jsonb,
    private_metadata        jsonb,
    data                    jsonb,
    created_at              timestamptz,
    updated_at              timestamptz,
    deleted_at              timestamptz,
    synced_at               timestamptz NOT NULL,
    synced_by               text NOT NULL,
    version_dead            boolean NOT NULL,
    version_updated_at      bigint NOT NULL,
    version_event_at        bigint NOT NULL,
    version_hash            bytea NOT NULL,
    version_floor           bigint NOT NULL DEFAULT 0
) WITH (fillfactor = 85, autovacuum_vacuum_scale_factor = 0.02);

CREATE INDEX organizations_by_slug ON organizations (slug) WHERE slug IS NOT NULL;

CREATE TABLE organization_memberships (
    id                 text PRIMARY KEY,
    organization_id    text,
    user_id            text,
    role               text,
    permissions        jsonb,
    public_metadata    jsonb,
    private_metadata   jsonb,
    data               jsonb,
    created_at         timestamptz,
    updated_at         timestamptz,
    deleted_at         timestamptz,
    synced_at          timestamptz NOT NULL,
    synced_by          text NOT NULL,
    version_dead       boolean NOT NULL,
    version_updated_at bigint NOT NULL,
    version_event_at   bigint NOT NULL,
    version_hash       bytea NOT NULL,
    version_floor      bigint NOT NULL DEFAULT 0
) WITH (fillfactor = 85, autovacuum_vacuum_scale_factor = 0.02);

CREATE INDEX organization_memberships_by_organization ON organization_memberships (organization_id, user_id);
CREATE INDEX organization_memberships_by_user ON organization_memberships (user_id, organization_id);

-- The ledger: what became of each delivery, written in the same transaction as the rows.
CREATE TABLE deliveries (
    svix_id     text PRIMARY KEY,
    event_type  text NOT NULL,
    subject_id  text,
    outcome     text NOT NULL,
    event_at    timestamptz NOT NULL,
    received_at timestamptz NOT NULL,
    applied_at  timestamptz NOT NULL,
    attempts    integer NOT NULL
);
