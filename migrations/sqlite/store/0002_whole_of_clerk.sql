-- The rest of Clerk: invitations, domains, roles, permissions, sessions, the waiting list and billing. All tables
-- are made as in 0001: the same columns around their own, no foreign keys, nothing unique beside id.
-- What they keep of an event is in crates/rollbook-core/src/catalog.

-- Whether a directory has taken the person away: Clerk updates such a user and deletes none.
ALTER TABLE users ADD COLUMN deprovisioned INTEGER;
UPDATE users SET deprovisioned = json_extract(data, '$.deprovisioned')
WHERE json_type(data, '$.deprovisioned') IN ('true', 'false');

CREATE INDEX organizations_by_creator ON organizations (created_by) WHERE created_by IS NOT NULL;

CREATE TABLE organization_invitations (
    id                 TEXT PRIMARY KEY NOT NULL,
    organization_id    TEXT,
    inviter_id         TEXT,
    user_id            TEXT,
    email_address      TEXT,
    role               TEXT,
    status             TEXT,
    expires_at         TEXT,
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

CREATE INDEX organization_invitations_by_organization ON organization_invitations (organization_id);
CREATE INDEX organization_invitations_by_email ON organization_invitations (email_address);
CREATE INDEX organization_invitations_by_user ON organization_invitations (user_id) WHERE user_id IS NOT NULL;
CREATE INDEX organization_invitations_by_inviter ON organization_invitations (inviter_id) WHERE inviter_id IS NOT NULL;

CREATE TABLE organization_domains (
    id                        TEXT PRIMARY KEY NOT NULL,
    organization_id           TEXT,
    name                      TEXT,
    enrollment_mode           TEXT,
    verification_status       TEXT,
    affiliation_email_address TEXT,
    total_pending_invitations INTEGER,
    total_pending_suggestions INTEGER,
    data                      TEXT,
    created_at                TEXT,
    updated_at                TEXT,
    deleted_at                TEXT,
    synced_at                 TEXT NOT NULL,
    synced_by                 TEXT NOT NULL,
    version_dead              INTEGER NOT NULL,
    version_updated_at        INTEGER NOT NULL,
    version_event_at          INTEGER NOT NULL,
    version_hash              BLOB NOT NULL,
    version_floor             INTEGER NOT NULL DEFAULT 0
) STRICT;

CREATE INDEX organization_domains_by_organization ON organization_domains (organization_id);
CREATE INDEX organization_domains_by_name ON organization_domains (name);

CREATE TABLE roles (
    id                  TEXT PRIMARY KEY NOT NULL,
    name                TEXT,
    key                 TEXT,
    description         TEXT,
    is_creator_eligible INTEGER,
    permissions         TEXT,
    data                TEXT,
    created_at          TEXT,
    updated_at          TEXT,
    deleted_at          TEXT,
    synced_at           TEXT NOT NULL,
    synced_by           TEXT NOT NULL,
    version_dead        INTEGER NOT NULL,
    version_updated_at  INTEGER NOT NULL,
    version_event_at    INTEGER NOT NULL,
    version_hash        BLOB NOT NULL,
    version_floor       INTEGER NOT NULL DEFAULT 0
) STRICT;

CREATE INDEX roles_by_key ON roles (key);

CREATE TABLE permissions (
    id                 TEXT PRIMARY KEY NOT NULL,
    name               TEXT,
    key                TEXT,
    description        TEXT,
    type               TEXT,
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

CREATE INDEX permissions_by_key ON permissions (key);

CREATE TABLE sessions (
    id                          TEXT PRIMARY KEY NOT NULL,
    user_id                     TEXT,
    client_id                   TEXT,
    status                      TEXT,
    last_active_organization_id TEXT,
    actor                       TEXT,
    last_active_at              TEXT,
    expire_at                   TEXT,
    abandon_at                  TEXT,
    data                        TEXT,
    created_at                  TEXT,
    updated_at                  TEXT,
    deleted_at                  TEXT,
    synced_at                   TEXT NOT NULL,
    synced_by                   TEXT NOT NULL,
    version_dead                INTEGER NOT NULL,
    version_updated_at          INTEGER NOT NULL,
    version_event_at            INTEGER NOT NULL,
    version_hash                BLOB NOT NULL,
    version_floor               INTEGER NOT NULL DEFAULT 0
) STRICT;

CREATE INDEX sessions_by_user ON sessions (user_id);
CREATE INDEX sessions_by_organization ON sessions (last_active_organization_id) WHERE last_active_organization_id IS NOT NULL;

CREATE TABLE waitlist_entries (
    id                 TEXT PRIMARY KEY NOT NULL,
    email_address      TEXT,
    status             TEXT,
    is_locked          INTEGER,
    invitation_id      TEXT,
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

CREATE INDEX waitlist_entries_by_email ON waitlist_entries (email_address);

CREATE TABLE subscriptions (
    id                 TEXT PRIMARY KEY NOT NULL,
    status             TEXT,
    payer_id           TEXT,
    user_id            TEXT,
    organization_id    TEXT,
    latest_payment_id  TEXT,
    payment_source_id  TEXT,
    active_at          TEXT,
    past_due_at        TEXT,
    canceled_at        TEXT,
    ended_at           TEXT,
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

CREATE INDEX subscriptions_by_user ON subscriptions (user_id) WHERE user_id IS NOT NULL;
CREATE INDEX subscriptions_by_organization ON subscriptions (organization_id) WHERE organization_id IS NOT NULL;
CREATE INDEX subscriptions_by_payer ON subscriptions (payer_id);

CREATE TABLE subscription_items (
    id                 TEXT PRIMARY KEY NOT NULL,
    subscription_id    TEXT,
    payer_id           TEXT,
    user_id            TEXT,
    organization_id    TEXT,
    plan_id            TEXT,
    plan_slug          TEXT,
    status             TEXT,
    is_free_trial      INTEGER,
    interval           TEXT,
    amount             INTEGER,
    currency           TEXT,
    seats              INTEGER,
    period_start       TEXT,
    period_end         TEXT,
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

CREATE INDEX subscription_items_by_subscription ON subscription_items (subscription_id);
CREATE INDEX subscription_items_by_user ON subscription_items (user_id) WHERE user_id IS NOT NULL;
CREATE INDEX subscription_items_by_organization ON subscription_items (organization_id) WHERE organization_id IS NOT NULL;
CREATE INDEX subscription_items_by_plan ON subscription_items (plan_id) WHERE plan_id IS NOT NULL;

CREATE TABLE payment_attempts (
    id                  TEXT PRIMARY KEY NOT NULL,
    payment_id          TEXT,
    invoice_id          TEXT,
    statement_id        TEXT,
    payer_id            TEXT,
    user_id             TEXT,
    organization_id     TEXT,
    payment_source_id   TEXT,
    gateway_external_id TEXT,
    status              TEXT,
    charge_type         TEXT,
    amount              INTEGER,
    currency            TEXT,
    failed_code         TEXT,
    billing_date        TEXT,
    paid_at             TEXT,
    failed_at           TEXT,
    data                TEXT,
    created_at          TEXT,
    updated_at          TEXT,
    deleted_at          TEXT,
    synced_at           TEXT NOT NULL,
    synced_by           TEXT NOT NULL,
    version_dead        INTEGER NOT NULL,
    version_updated_at  INTEGER NOT NULL,
    version_event_at    INTEGER NOT NULL,
    version_hash        BLOB NOT NULL,
    version_floor       INTEGER NOT NULL DEFAULT 0
) STRICT;

CREATE INDEX payment_attempts_by_user ON payment_attempts (user_id) WHERE user_id IS NOT NULL;
CREATE INDEX payment_attempts_by_organization ON payment_attempts (organization_id) WHERE organization_id IS NOT NULL;
CREATE INDEX payment_attempts_by_payment ON payment_attempts (payment_id);
