-- What is kept of the deleted, and what ends with its parents.
--
-- A row's content and its end have a version each from now on: version_updated_at, version_event_at and version_hash
-- are the content's (an empty hash: none has come; ff: it was erased, for good), version_deleted_at is the time of
-- the event that ended it, in milliseconds. version_parents_deleted_at is what a row has from what it hangs on; deleted_at
-- shows its own end or else that one.

ALTER TABLE users ADD COLUMN version_deleted_at INTEGER;
UPDATE users
SET version_deleted_at = version_event_at, version_updated_at = -9223372036854775808,
    version_event_at = -9223372036854775808, version_hash = x''
WHERE version_dead;
ALTER TABLE users DROP COLUMN version_dead;
CREATE INDEX users_deleted ON users (deleted_at) WHERE deleted_at IS NOT NULL;

ALTER TABLE organizations ADD COLUMN version_deleted_at INTEGER;
UPDATE organizations
SET version_deleted_at = version_event_at, version_updated_at = -9223372036854775808,
    version_event_at = -9223372036854775808, version_hash = x''
WHERE version_dead;
ALTER TABLE organizations DROP COLUMN version_dead;
CREATE INDEX organizations_deleted ON organizations (deleted_at) WHERE deleted_at IS NOT NULL;

ALTER TABLE organization_memberships ADD COLUMN version_deleted_at INTEGER;
UPDATE organization_memberships
SET version_deleted_at = version_event_at, version_updated_at = -9223372036854775808,
    version_event_at = -9223372036854775808, version_hash = x''
WHERE version_dead;
ALTER TABLE organization_memberships DROP COLUMN version_dead;
CREATE INDEX organization_memberships_deleted ON organization_memberships (deleted_at) WHERE deleted_at IS NOT NULL;
ALTER TABLE organization_memberships ADD COLUMN version_parents_deleted_at TEXT;

ALTER TABLE organization_invitations ADD COLUMN version_deleted_at INTEGER;
UPDATE organization_invitations
SET version_deleted_at = version_event_at, version_updated_at = -9223372036854775808,
    version_event_at = -9223372036854775808, version_hash = x''
WHERE version_dead;
ALTER TABLE organization_invitations DROP COLUMN version_dead;
CREATE INDEX organization_invitations_deleted ON organization_invitations (deleted_at) WHERE deleted_at IS NOT NULL;
ALTER TABLE organization_invitations ADD COLUMN version_parents_deleted_at TEXT;

ALTER TABLE organization_domains ADD COLUMN version_deleted_at INTEGER;
UPDATE organization_domains
SET version_deleted_at = version_event_at, version_updated_at = -9223372036854775808,
    version_event_at = -9223372036854775808, version_hash = x''
WHERE version_dead;
ALTER TABLE organization_domains DROP COLUMN version_dead;
CREATE INDEX organization_domains_deleted ON organization_domains (deleted_at) WHERE deleted_at IS NOT NULL;
ALTER TABLE organization_domains ADD COLUMN version_parents_deleted_at TEXT;

ALTER TABLE roles ADD COLUMN version_deleted_at INTEGER;
UPDATE roles
SET version_deleted_at = version_event_at, version_updated_at = -9223372036854775808,
    version_event_at = -9223372036854775808, version_hash = x''
WHERE version_dead;
ALTER TABLE roles DROP COLUMN version_dead;
CREATE INDEX roles_deleted ON roles (deleted_at) WHERE deleted_at IS NOT NULL;

ALTER TABLE permissions ADD COLUMN version_deleted_at INTEGER;
UPDATE permissions
SET version_deleted_at = version_event_at, version_updated_at = -9223372036854775808,
    version_event_at = -9223372036854775808, version_hash = x''
WHERE version_dead;
ALTER TABLE permissions DROP COLUMN version_dead;
CREATE INDEX permissions_deleted ON permissions (deleted_at) WHERE deleted_at IS NOT NULL;

ALTER TABLE sessions ADD COLUMN version_deleted_at INTEGER;
UPDATE sessions
SET version_deleted_at = version_event_at, version_updated_at = -9223372036854775808,
    version_event_at = -9223372036854775808, version_hash = x''
WHERE version_dead;
ALTER TABLE sessions DROP COLUMN version_dead;
CREATE INDEX sessions_deleted ON sessions (deleted_at) WHERE deleted_at IS NOT NULL;
ALTER TABLE sessions ADD COLUMN version_parents_deleted_at TEXT;

ALTER TABLE waitlist_entries ADD COLUMN version_deleted_at INTEGER;
UPDATE waitlist_entries
SET version_deleted_at = version_event_at, version_updated_at = -9223372036854775808,
    version_event_at = -9223372036854775808, version_hash = x''
WHERE version_dead;
ALTER TABLE waitlist_entries DROP COLUMN version_dead;
CREATE INDEX waitlist_entries_deleted ON waitlist_entries (deleted_at) WHERE deleted_at IS NOT NULL;

ALTER TABLE subscriptions ADD COLUMN version_deleted_at INTEGER;
UPDATE subscriptions
SET version_deleted_at = version_event_at, version_updated_at = -9223372036854775808,
    version_event_at = -9223372036854775808, version_hash = x''
WHERE version_dead;
ALTER TABLE subscriptions DROP COLUMN version_dead;
CREATE INDEX subscriptions_deleted ON subscriptions (deleted_at) WHERE deleted_at IS NOT NULL;
ALTER TABLE subscriptions ADD COLUMN version_parents_deleted_at TEXT;

ALTER TABLE subscription_items ADD COLUMN version_deleted_at INTEGER;
UPDATE subscription_items
SET version_deleted_at = version_event_at, version_updated_at = -9223372036854775808,
    version_event_at = -9223372036854775808, version_hash = x''
WHERE version_dead;
ALTER TABLE subscription_items DROP COLUMN version_dead;
CREATE INDEX subscription_items_deleted ON subscription_items (deleted_at) WHERE deleted_at IS NOT NULL;
ALTER TABLE subscription_items ADD COLUMN version_parents_deleted_at TEXT;

ALTER TABLE payment_attempts ADD COLUMN version_deleted_at INTEGER;
UPDATE payment_attempts
SET version_deleted_at = version_event_at, version_updated_at = -9223372036854775808,
    version_event_at = -9223372036854775808, version_hash = x''
WHERE version_dead;
ALTER TABLE payment_attempts DROP COLUMN version_dead;
CREATE INDEX payment_attempts_deleted ON payment_attempts (deleted_at) WHERE deleted_at IS NOT NULL;
ALTER TABLE payment_attempts ADD COLUMN version_parents_deleted_at TEXT;

-- What has ended with its parents already.
UPDATE organization_memberships
SET version_parents_deleted_at = found.ended_at, deleted_at = coalesce(organization_memberships.deleted_at, found.ended_at)
FROM (
    SELECT child.id, min(coalesce(organization.deleted_at, person.deleted_at), coalesce(person.deleted_at, organization.deleted_at)) AS ended_at
    FROM organization_memberships AS child
    LEFT JOIN organizations AS organization ON organization.id = child.organization_id
    LEFT JOIN users AS person ON person.id = child.user_id
) AS found
WHERE found.id = organization_memberships.id AND found.ended_at IS NOT NULL;

UPDATE organization_invitations
SET version_parents_deleted_at = parent.deleted_at, deleted_at = coalesce(organization_invitations.deleted_at, parent.deleted_at)
FROM organizations AS parent
WHERE parent.id = organization_invitations.organization_id AND parent.deleted_at IS NOT NULL;

UPDATE organization_domains
SET version_parents_deleted_at = parent.deleted_at, deleted_at = coalesce(organization_domains.deleted_at, parent.deleted_at)
FROM organizations AS parent
WHERE parent.id = organization_domains.organization_id AND parent.deleted_at IS NOT NULL;

UPDATE sessions
SET version_parents_deleted_at = parent.deleted_at, deleted_at = coalesce(sessions.deleted_at, parent.deleted_at)
FROM users AS parent
WHERE parent.id = sessions.user_id AND parent.deleted_at IS NOT NULL;

-- The ledger is pruned by age. An index by subject would double the pages of every commit, to save a scan when
-- someone asks for a story.
CREATE INDEX deliveries_by_age ON deliveries (applied_at);

-- Who belongs to an organization today: one row for each person, the latest of their memberships.
CREATE VIEW current_members AS
SELECT organization_id, organization_name, organization_slug, user_id, first_name, last_name, primary_email_address,
       role, member_since, membership_id
FROM (
    SELECT membership.organization_id, organization.name AS organization_name, organization.slug AS organization_slug,
           membership.user_id, person.first_name, person.last_name, person.primary_email_address, membership.role,
           membership.created_at AS member_since, membership.id AS membership_id,
           row_number() OVER (
               PARTITION BY membership.organization_id, membership.user_id
               ORDER BY membership.created_at DESC NULLS LAST, membership.id DESC
           ) AS place
    FROM organization_memberships AS membership
    LEFT JOIN organizations AS organization ON organization.id = membership.organization_id
    LEFT JOIN users AS person ON person.id = membership.user_id
    WHERE membership.deleted_at IS NULL
)
WHERE place = 1;
