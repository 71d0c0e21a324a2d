-- The rest of Clerk: invitations, domains, roles, permissions, sessions, the waiting list and billing. All tables
-- are made as in 0001: the same columns around their own, no foreign keys, nothing unique beside id.
-- What they keep of an event is in crates/rollbook-core/src/catalog.

-- Whether a directory has taken the person away: Clerk updates such a user and deletes none.
ALTER TABLE users ADD COLUMN deprovisioned boolean;
UPDATE users SET deprovisioned = (data ->> 'deprovisioned')::boolean
WHERE jsonb_typeof(data -> 'deprovisioned') = 'boolean';

CREATE INDEX organizations_by_creator ON organizations (created_by) WHERE created_by IS NOT NULL;

CREATE TABLE organization_invitations (
    id                 text PRIMARY KEY,
    organization_id    text,
    inviter_id         text,
    user_id            text,
    email_address      text,
    role               text,
    status             text,
    expires_at         timestamptz,
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

CREATE INDEX organization_invitations_by_organization ON organization_invitations (organization_id);
CREATE INDEX organization_invitations_by_email ON organization_invitations (email_address);
CREATE INDEX organization_invitations_by_user ON organization_invitations (user_id) WHERE user_id IS NOT NULL;
CREATE INDEX organization_invitations_by_inviter ON organization_invitations (inviter_id) WHERE inviter_id IS NOT NULL;

CREATE TABLE organization_domains (
    id                        text PRIMARY KEY,
    organization_id           text,
    name                      text,
    enrollment_mode           text,
    verification_status       text,
    affiliation_email_address text,
    total_pending_invitations bigint,
    total_pending_suggestions bigint,
    data                      jsonb,
    created_at                timestamptz,
    updated_at                timestamptz,
    deleted_at                timestamptz,
    synced_at                 timestamptz NOT NULL,
    synced_by                 text NOT NULL,
    version_dead              boolean NOT NULL,
    version_updated_at        bigint NOT NULL,
    version_event_at          bigint NOT NULL,
    version_hash              bytea NOT NULL,
    version_floor             bigint NOT NULL DEFAULT 0
) WITH (fillfactor = 85, autovacuum_vacuum_scale_factor = 0.02);

CREATE INDEX organization_domains_by_organization ON organization_domains (organization_id);
CREATE INDEX organization_domains_by_name ON organization_domains (name);

CREATE TABLE roles (
    id                  text PRIMARY KEY,
    name                text,
    key                 text,
    description         text,
    is_creator_eligible boolean,
    permissions         jsonb,
    data                jsonb,
    created_at          timestamptz,
    updated_at          timestamptz,
    deleted_at          timestamptz,
    synced_at           timestamptz NOT NULL,
    synced_by           text NOT NULL,
    version_dead        boolean NOT NULL,
    version_updated_at  bigint NOT NULL,
    version_event_at    bigint NOT NULL,
    version_hash        bytea NOT NULL,
    version_floor       bigint NOT NULL DEFAULT 0
) WITH (fillfactor = 85, autovacuum_vacuum_scale_factor = 0.02);

CREATE INDEX roles_by_key ON roles (key);

CREATE TABLE permissions (
    id                 text PRIMARY KEY,
    name               text,
    key                text,
    description        text,
    type               text,
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

CREATE INDEX permissions_by_key ON permissions (key);

CREATE TABLE sessions (
    id                          text PRIMARY KEY,
    user_id                     text,
    client_id                   text,
    status                      text,
    last_active_organization_id text,
    actor                       jsonb,
    last_active_at              timestamptz,
    expire_at                   timestamptz,
    abandon_at                  timestamptz,
    data                        jsonb,
    created_at                  timestamptz,
    updated_at                  timestamptz,
    deleted_at                  timestamptz,
    synced_at                   timestamptz NOT NULL,
    synced_by                   text NOT NULL,
    version_dead                boolean NOT NULL,
    version_updated_at          bigint NOT NULL,
    version_event_at            bigint NOT NULL,
    version_hash                bytea NOT NULL,
    version_floor               bigint NOT NULL DEFAULT 0
) WITH (fillfactor = 85, autovacuum_vacuum_scale_factor = 0.02);

CREATE INDEX sessions_by_user ON sessions (user_id);
CREATE INDEX sessions_by_organization ON sessions (last_active_organization_id) WHERE last_active_organization_id IS NOT NULL;

CREATE TABLE waitlist_entries (
    id                 text PRIMARY KEY,
    email_address      text,
    status             text,
    is_locked          boolean,
    invitation_id      text,
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

CREATE INDEX waitlist_entries_by_email ON waitlist_entries (email_address);

CREATE TABLE subscriptions (
    id                 text PRIMARY KEY,
    status             text,
    payer_id           text,
    user_id            text,
    organization_id    text,
    latest_payment_id  text,
    payment_source_id  text,
    active_at          timestamptz,
    past_due_at        timestamptz,
    canceled_at        timestamptz,
    ended_at           timestamptz,
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

CREATE INDEX subscriptions_by_user ON subscriptions (user_id) WHERE user_id IS NOT NULL;
CREATE INDEX subscriptions_by_organization ON subscriptions (organization_id) WHERE organization_id IS NOT NULL;
CREATE INDEX subscriptions_by_payer ON subscriptions (payer_id);

CREATE TABLE subscription_items (
    id                 text PRIMARY KEY,
    subscription_id    text,
    payer_id           text,
    user_id            text,
    organization_id    text,
    plan_id            text,
    plan_slug          text,
    status             text,
    is_free_trial      boolean,
    interval           text,
    amount             bigint,
    currency           text,
    seats              bigint,
    period_start       timestamptz,
    period_end         timestamptz,
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

CREATE INDEX subscription_items_by_subscription ON subscription_items (subscription_id);
CREATE INDEX subscription_items_by_user ON subscription_items (user_id) WHERE user_id IS NOT NULL;
CREATE INDEX subscription_items_by_organization ON subscription_items (organization_id) WHERE organization_id IS NOT NULL;
CREATE INDEX subscription_items_by_plan ON subscription_items (plan_id) WHERE plan_id IS NOT NULL;

CREATE TABLE payment_attempts (
    id                  text PRIMARY KEY,
    payment_id          text,
    invoice_id          text,
    statement_id        text,
    payer_id            text,
    user_id             text,
    organization_id     text,
    payment_source_id   text,
    gateway_external_id text,
    status              text,
    charge_type         text,
    amount              bigint,
    currency            text,
    failed_code         text,
    billing_date        timestamptz,
    paid_at             timestamptz,
    failed_at           timestamptz,
    data                jsonb,
    created_at          timestamptz,
    updated_at          timestamptz,
    deleted_at          timestamptz,
    synced_at           timestamptz NOT NULL,
    synced_by           text NOT NULL,
    version_dead        boolean NOT NULL,
    version_updated_at  bigint NOT NULL,
    version_event_at    bigint NOT NULL,
    version_hash        bytea NOT NULL,
    version_floor       bigint NOT NULL DEFAULT 0
) WITH (fillfactor = 85, autovacuum_vacuum_scale_factor = 0.02);

CREATE INDEX payment_attempts_by_user ON payment_attempts (user_id) WHERE user_id IS NOT NULL;
CREATE INDEX payment_attempts_by_organization ON payment_attempts (organization_id) WHERE organization_id IS NOT NULL;
CREATE INDEX payment_attempts_by_payment ON payment_attempts (payment_id);
