-- What is kept of the deleted, and what ends with its parents.
--
-- A row's content and its end have a version each from now on: version_updated_at, version_event_at and version_hash
-- are the content's (an empty hash: none has come; ff: it was erased, for good), version_deleted_at is the time of
-- the event that ended it, in milliseconds. version_parents_deleted_at is what a row has from what it hangs on;
-- deleted_at shows its own end or else that one. version_revision counts the writes of a row: a worker that has read
-- it before another wrote it learns so.

ALTER TABLE users
    ADD COLUMN version_deleted_at bigint,
    ADD COLUMN version_revision bigint NOT NULL DEFAULT 0;
UPDATE users
SET version_deleted_at = version_event_at, version_updated_at = -9223372036854775808,
    version_event_at = -9223372036854775808, version_hash = ''
WHERE version_dead;
ALTER TABLE users DROP COLUMN version_dead;
CREATE INDEX users_deleted ON users (deleted_at) WHERE deleted_at IS NOT NULL;

ALTER TABLE organizations
    ADD COLUMN version_deleted_at bigint,
    ADD COLUMN version_revision bigint NOT NULL DEFAULT 0;
UPDATE organizations
SET version_deleted_at = version_event_at, version_updated_at = -9223372036854775808,
    version_event_at = -9223372036854775808, version_hash = ''
WHERE version_dead;
ALTER TABLE organizations DROP COLUMN version_dead;
CREATE INDEX organizations_deleted ON organizations (deleted_at) WHERE deleted_at IS NOT NULL;

ALTER TABLE organization_memberships
    ADD COLUMN version_deleted_at bigint,
    ADD COLUMN version_revision bigint NOT NULL DEFAULT 0,
    ADD COLUMN version_parents_deleted_at timestamptz;
UPDATE organization_memberships
SET version_deleted_at = version_event_at, version_updated_at = -9223372036854775808,
    version_event_at = -9223372036854775808, version_hash = ''
WHERE version_dead;
ALTER TABLE organization_memberships DROP COLUMN version_dead;
CREATE INDEX organization_memberships_deleted ON organization_memberships (deleted_at) WHERE deleted_at IS NOT NULL;

ALTER TABLE organization_invitations
    ADD COLUMN version_deleted_at bigint,
    ADD COLUMN version_revision bigint NOT NULL DEFAULT 0,
    ADD COLUMN version_parents_deleted_at timestamptz;
UPDATE organization_invitations
SET version_deleted_at = version_event_at, version_updated_at = -9223372036854775808,
    version_event_at = -9223372036854775808, version_hash = ''
WHERE version_dead;
ALTER TABLE organization_invitations DROP COLUMN version_dead;
CREATE INDEX organization_invitations_deleted ON organization_invitations (deleted_at) WHERE deleted_at IS NOT NULL;

ALTER TABLE organization_domains
    ADD COLUMN version_deleted_at bigint,
    ADD COLUMN version_revision bigint NOT NULL DEFAULT 0,
    ADD COLUMN version_parents_deleted_at timestamptz;
UPDATE organization_domains
SET version_deleted_at = version_event_at, version_updated_at = -9223372036854775808,
    version_event_at = -9223372036854775808, version_hash = ''
WHERE version_dead;
ALTER TABLE organization_domains DROP COLUMN version_dead;
CREATE INDEX organization_domains_deleted ON organization_domains (deleted_at) WHERE deleted_at IS NOT NULL;

ALTER TABLE roles
    ADD COLUMN version_deleted_at bigint,
    ADD COLUMN version_revision bigint NOT NULL DEFAULT 0;
UPDATE roles
SET version_deleted_at = version_event_at, version_updated_at = -9223372036854775808,
    version_event_at = -9223372036854775808, version_hash = ''
WHERE version_dead;
ALTER TABLE roles DROP COLUMN version_dead;
CREATE INDEX roles_deleted ON roles (deleted_at) WHERE deleted_at IS NOT NULL;

ALTER TABLE permissions
    ADD COLUMN version_deleted_at bigint,
    ADD COLUMN version_revision bigint NOT NULL DEFAULT 0;
UPDATE permissions
SET version_deleted_at = version_event_at, version_updated_at = -9223372036854775808,
    version_event_at = -9223372036854775808, version_hash = ''
WHERE version_dead;
ALTER TABLE permissions DROP COLUMN version_dead;
CREATE INDEX permissions_deleted ON permissions (deleted_at) WHERE deleted_at IS NOT NULL;

ALTER TABLE sessions
    ADD COLUMN version_deleted_at bigint,
    ADD COLUMN version_revision bigint NOT NULL DEFAULT 0,
    ADD COLUMN version_parents_deleted_at timestamptz;
UPDATE sessions
SET version_deleted_at = version_event_at, version_updated_at = -9223372036854775808,
    version_event_at = -9223372036854775808, version_hash = ''
WHERE version_dead;
ALTER TABLE sessions DROP COLUMN version_dead;
CREATE INDEX sessions_deleted ON sessions (deleted_at) WHERE deleted_at IS NOT NULL;

ALTER TABLE waitlist_entries
    ADD COLUMN version_deleted_at bigint,
    ADD COLUMN version_revision bigint NOT NULL DEFAULT 0;
UPDATE waitlist_entries
SET version_deleted_at = version_event_at, version_updated_at = -9223372036854775808,
    version_event_at = -9223372036854775808, version_hash = ''
WHERE version_dead;
ALTER TABLE waitlist_entries DROP COLUMN version_dead;
CREATE INDEX waitlist_entries_deleted ON waitlist_entries (deleted_at) WHERE deleted_at IS NOT NULL;

ALTER TABLE subscriptions
    ADD COLUMN version_deleted_at bigint,
    ADD COLUMN version_revision bigint NOT NULL DEFAULT 0,
    ADD COLUMN version_parents_deleted_at timestamptz;
UPDATE subscriptions
SET version_deleted_at = version_event_at, version_updated_at = -9223372036854775808,
    version_event_at = -9223372036854775808, version_hash = ''
WHERE version_dead;
ALTER TABLE subscriptions DROP COLUMN version_dead;
CREATE INDEX subscriptions_deleted ON subscriptions (deleted_at) WHERE deleted_at IS NOT NULL;

ALTER TABLE subscription_items
    ADD COLUMN version_deleted_at bigint,
    ADD COLUMN version_revision bigint NOT NULL DEFAULT 0,
    ADD COLUMN version_parents_deleted_at timestamptz;
UPDATE subscription_items
SET version_deleted_at = version_event_at, version_updated_at = -9223372036854775808,
    version_event_at = -9223372036854775808, version_hash = ''
WHERE version_dead;
ALTER TABLE subscription_items DROP COLUMN version_dead;
CREATE INDEX subscription_items_deleted ON subscription_items (deleted_at) WHERE deleted_at IS NOT NULL;

ALTER TABLE payment_attempts
    ADD COLUMN version_deleted_at bigint,
    ADD COLUMN version_revision bigint NOT NULL DEFAULT 0,
    ADD COLUMN version_parents_deleted_at timestamptz;
UPDATE payment_attempts
SET version_deleted_at = version_event_at, version_updated_at = -9223372036854775808,
    version_event_at = -9223372036854775808, version_hash = ''
WHERE version_dead;
ALTER TABLE payment_attempts DROP COLUMN version_dead;
CREATE INDEX payment_attempts_deleted ON payment_attempts (deleted_at) WHERE deleted_at IS NOT NULL;

-- What has ended with its parents already.
UPDATE organization_invitations AS child
SET version_parents_deleted_at = parent.deleted_at, deleted_at = coalesce(child.deleted_at, parent.deleted_at)
FROM organizations AS parent
WHERE parent.id = child.organization_id AND parent.deleted_at IS NOT NULL;

UPDATE organization_domains AS child
SET version_parents_deleted_at = parent.deleted_at, deleted_at = coalesce(child.deleted_at, parent.deleted_at)
FROM organizations AS parent
WHERE parent.id = child.organization_id AND parent.deleted_at IS NOT NULL;

UPDATE sessions AS child
SET version_parents_deleted_at = parent.deleted_at, deleted_at = coalesce(child.deleted_at, parent.deleted_at)
FROM users AS parent
WHERE parent.id = child.user_id AND parent.deleted_at IS NOT NULL;

UPDATE organization_memberships AS child
SET version_parents_deleted_at = found.ended_at, deleted_at = coalesce(child.deleted_at, found.ended_at)
FROM (
    SELECT membership.id, least(organization.deleted_at, person.deleted_at) AS ended_at
    FROM organization_memberships AS membership
    LEFT JOIN organizations AS organization ON organization.id = membership.organization_id
    LEFT JOIN users AS person ON person.id = membership.user_id
) AS found
WHERE found.id = child.id AND found.ended_at IS NOT NULL;

-- The ledger is told by subject, and pruned by age.
CREATE INDEX deliveries_by_subject ON deliveries (subject_id, applied_at) WHERE subject_id IS NOT NULL;
CREATE INDEX deliveries_by_age ON deliveries (applied_at);

-- Who belongs to an organization today: one row for each person, the latest of their memberships.
CREATE VIEW current_members AS
SELECT DISTINCT ON (membership.organization_id, membership.user_id)
       membership.organization_id, organization.name AS organization_name, organization.slug AS organization_slug,
       membership.user_id, person.first_name, person.last_name, person.primary_email_address, membership.role,
       membership.created_at AS member_since, membership.id AS membership_id
FROM organization_memberships AS membership
LEFT JOIN organizations AS organization ON organization.id = membership.organization_id
LEFT JOIN users AS person ON person.id = membership.user_id
WHERE membership.deleted_at IS NULL
ORDER BY membership.organization_id, membership.user_id, membership.created_at DESC NULLS LAST, membership.id DESC;

-- A place for someone whose webhook is still on its way, so that a foreign key of the application's holds. Call it in
-- the transaction that needs it: INSERT INTO projects (owner) VALUES (clerk.ensure_user('user_…')). The row has an id
-- and nothing else, and is below every version: the first delivery fills it. Keep that transaction short: a worker
-- that has the same user to write waits for it. It runs with its owner's rights, so that a role which only reads the
-- mirror can be given it; temporary tables are looked at last, so that nobody can slip in one of their own.
SELECT set_config('search_path', quote_ident(current_schema()) || ', pg_temp', true);

CREATE FUNCTION ensure_user(id text) RETURNS text LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
BEGIN
    IF id IS NULL OR NOT id LIKE 'user\_%' OR octet_length(id) > 255 THEN
        RAISE EXCEPTION 'ensure_user wants the id of a user, such as user_29w83sxmDNGwOuEthce5gg56FcC' USING ERRCODE = '22023';
    END IF;
    INSERT INTO users (id, synced_at, synced_by, version_updated_at, version_event_at, version_hash)
    VALUES (ensure_user.id, now(), 'ensure_user', -9223372036854775808, -9223372036854775808, '')
    ON CONFLICT DO NOTHING;
    RETURN id;
END
$$;

CREATE FUNCTION ensure_organization(id text) RETURNS text LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
BEGIN
    IF id IS NULL OR NOT id LIKE 'org\_%' OR octet_length(id) > 255 THEN
        RAISE EXCEPTION 'ensure_organization wants the id of an organization, such as org_29w9IfBrPmcpi0IeBVaKtA7R94W' USING ERRCODE = '22023';
    END IF;
    INSERT INTO organizations (id, synced_at, synced_by, version_updated_at, version_event_at, version_hash)
    VALUES (ensure_organization.id, now(), 'ensure_organization', -9223372036854775808, -9223372036854775808, '')
    ON CONFLICT DO NOTHING;
    RETURN id;
END
$$;

REVOKE ALL ON FUNCTION ensure_user (text), ensure_organization (text) FROM PUBLIC;
