//! Users, organizations, sessions, roles and permissions.

use super::{Column, Kind, Resource, Source, belongs_to, column, delete, deleted_with, upsert};

/// Users. A directory (SCIM) that removes a person, or is itself deleted, does not delete the user: it sends
/// `user.updated` with `deprovisioned`.
pub static USERS: Resource = Resource {
    number: 1,
    table: "users",
    object: "user",
    events: &[upsert("user.created"), upsert("user.updated"), delete("user.deleted")],
    columns: &[
        column("external_id", Kind::IndexedText, &["external_id"]),
        column("username", Kind::Text, &["username"]),
        column("first_name", Kind::Text, &["first_name"]),
        column("last_name", Kind::Text, &["last_name"]),
        Column {
            name: "primary_email_address",
            kind: Kind::IndexedText,
            source: Source::Chosen {
                list: "email_addresses",
                id_of: "primary_email_address_id",
                field: "email_address",
            },
        },
        Column {
            name: "primary_phone_number",
            kind: Kind::Text,
            source: Source::Chosen {
                list: "phone_numbers",
                id_of: "primary_phone_number_id",
                field: "phone_number",
            },
        },
        column("image_url", Kind::Text, &["image_url"]),
        column("banned", Kind::Bool, &["banned"]),
        column("locked", Kind::Bool, &["locked"]),
        column("deprovisioned", Kind::Bool, &["deprovisioned"]),
        column("last_sign_in_at", Kind::Time, &["last_sign_in_at"]),
        column("last_active_at", Kind::Time, &["last_active_at"]),
        column("public_metadata", Kind::Json, &["public_metadata"]),
        column("private_metadata", Kind::Json, &["private_metadata"]),
        column("unsafe_metadata", Kind::Json, &["unsafe_metadata"]),
    ],
    links: &[],
    addresses: &[],
    secrets: &[],
    volatile: &[&["last_active_at"], &["lockout_expires_in_seconds"]],
};

/// Organizations.
pub static ORGANIZATIONS: Resource = Resource {
    number: 0,
    table: "organizations",
    object: "organization",
    events: &[upsert("organization.created"), upsert("organization.updated"), delete("organization.deleted")],
    columns: &[
        column("name", Kind::Text, &["name"]),
        column("slug", Kind::IndexedText, &["slug"]),
        column("image_url", Kind::Text, &["image_url"]),
        column("created_by", Kind::Id, &["created_by"]),
        column("members_count", Kind::Integer, &["members_count"]),
        column("max_allowed_memberships", Kind::Integer, &["max_allowed_memberships"]),
        column("public_metadata", Kind::Json, &["public_metadata"]),
        column("private_metadata", Kind::Json, &["private_metadata"]),
    ],
    links: &[],
    addresses: &[],
    secrets: &[],
    volatile: &[
        &["members_count"],
        &["pending_invitations_count"],
        &["missing_member_with_elevated_permissions"],
        &["last_active_at"],
    ],
};

/// Memberships of users in organizations. A user who rejoins gets a membership with a new id.
pub static ORGANIZATION_MEMBERSHIPS: Resource = Resource {
    number: 2,
    table: "organization_memberships",
    object: "organization_membership",
    events: &[
        upsert("organizationMembership.created"),
        upsert("organizationMembership.updated"),
        delete("organizationMembership.deleted"),
    ],
    columns: &[
        column("organization_id", Kind::Id, &["organization", "id"]),
        column("user_id", Kind::Id, &["public_user_data", "user_id"]),
        column("role", Kind::Text, &["role"]),
        column("permissions", Kind::Json, &["permissions"]),
        column("public_metadata", Kind::Json, &["public_metadata"]),
        column("private_metadata", Kind::Json, &["private_metadata"]),
    ],
    links: &[deleted_with(&ORGANIZATIONS, "organization_id"), deleted_with(&USERS, "user_id")],
    addresses: &[],
    secrets: &[],
    volatile: &[&["organization"], &["public_user_data"]],
};

/// Invitations to organizations. An accepted, revoked or expired invitation keeps its row and has a new
/// status.
pub static ORGANIZATION_INVITATIONS: Resource = Resource {
    number: 3,
    table: "organization_invitations",
    object: "organization_invitation",
    events: &[
        upsert("organizationInvitation.created"),
        upsert("organizationInvitation.accepted"),
        upsert("organizationInvitation.revoked"),
    ],
    columns: &[
        Column {
            name: "organization_id",
            kind: Kind::Id,
            source: Source::Either(&["organization_id"], &["data", "public_organization_data", "id"]),
        },
        column("inviter_id", Kind::Id, &["inviter_id"]),
        column("user_id", Kind::Id, &["user_id"]),
        column("email_address", Kind::IndexedText, &["email_address"]),
        column("role", Kind::Text, &["role"]),
        column("status", Kind::Text, &["status"]),
        column("expires_at", Kind::Time, &["expires_at"]),
        column("public_metadata", Kind::Json, &["public_metadata"]),
        column("private_metadata", Kind::Json, &["private_metadata"]),
    ],
    links: &[deleted_with(&ORGANIZATIONS, "organization_id"), belongs_to(&USERS, "user_id")],
    addresses: &["email_address"],
    secrets: &[&["url"]],
    volatile: &[&["url"], &["public_organization_data"], &["public_inviter_data"]],
};

/// Domains of organizations.
pub static ORGANIZATION_DOMAINS: Resource = Resource {
    number: 4,
    table: "organization_domains",
    object: "organization_domain",
    events: &[
        upsert("organizationDomain.created"),
        upsert("organizationDomain.updated"),
        delete("organizationDomain.deleted"),
    ],
    columns: &[
        column("organization_id", Kind::Id, &["organization_id"]),
        column("name", Kind::IndexedText, &["name"]),
        column("enrollment_mode", Kind::Text, &["enrollment_mode"]),
        column("verification_status", Kind::Text, &["verification", "status"]),
        column("affiliation_email_address", Kind::Text, &["affiliation_email_address"]),
        column("total_pending_invitations", Kind::Integer, &["total_pending_invitations"]),
        column("total_pending_suggestions", Kind::Integer, &["total_pending_suggestions"]),
    ],
    links: &[deleted_with(&ORGANIZATIONS, "organization_id")],
    addresses: &[],
    secrets: &[],
    volatile: &[
        &["total_pending_invitations"],
        &["total_pending_suggestions"],
        &["public_organization_data"],
    ],
};

/// Roles. Memberships refer to them by `key`.
pub static ROLES: Resource = Resource {
    number: 5,
    table: "roles",
    object: "role",
    events: &[upsert("role.created"), upsert("role.updated"), delete("role.deleted")],
    columns: &[
        column("name", Kind::Text, &["name"]),
        column("key", Kind::IndexedText, &["key"]),
        column("description", Kind::Text, &["description"]),
        column("is_creator_eligible", Kind::Bool, &["is_creator_eligible"]),
        column("permissions", Kind::Json, &["permissions"]),
    ],
    links: &[],
    addresses: &[],
    secrets: &[],
    volatile: &[],
};

/// Permissions. Memberships refer to them by `key`.
pub static PERMISSIONS: Resource = Resource {
    number: 6,
    table: "permissions",
    object: "permission",
    events: &[upsert("permission.created"), upsert("permission.updated"), delete("permission.deleted")],
    columns: &[
        column("name", Kind::Text, &["name"]),
        column("key", Kind::IndexedText, &["key"]),
        column("description", Kind::Text, &["description"]),
        column("type", Kind::Text, &["type"]),
    ],
    links: &[],
    addresses: &[],
    secrets: &[],
    volatile: &[],
};

/// Sessions. Sessions are never deleted: the status shows how one ended. `actor` is the person behind an
/// impersonation.
pub static SESSIONS: Resource = Resource {
    number: 7,
    table: "sessions",
    object: "session",
    events: &[
        upsert("session.created"),
        upsert("session.pending"),
        upsert("session.ended"),
        upsert("session.removed"),
        upsert("session.revoked"),
    ],
    columns: &[
        column("user_id", Kind::Id, &["user_id"]),
        column("client_id", Kind::Id, &["client_id"]),
        column("status", Kind::Text, &["status"]),
        column("last_active_organization_id", Kind::Id, &["last_active_organization_id"]),
        column("actor", Kind::Json, &["actor"]),
        column("last_active_at", Kind::Time, &["last_active_at"]),
        column("expire_at", Kind::Time, &["expire_at"]),
        column("abandon_at", Kind::Time, &["abandon_at"]),
    ],
    links: &[deleted_with(&USERS, "user_id")],
    addresses: &[],
    secrets: &[],
    volatile: &[],
};

/// Waitlist entries. An entry that is let in has a nested invitation with a ticket.
pub static WAITLIST_ENTRIES: Resource = Resource {
    number: 8,
    table: "waitlist_entries",
    object: "waitlist_entry",
    events: &[upsert("waitlistEntry.created"), upsert("waitlistEntry.updated")],
    columns: &[
        column("email_address", Kind::IndexedText, &["email_address"]),
        column("status", Kind::Text, &["status"]),
        column("is_locked", Kind::Bool, &["is_locked"]),
        column("invitation_id", Kind::Id, &["invitation", "id"]),
    ],
    links: &[],
    addresses: &["email_address"],
    secrets: &[&["invitation", "url"]],
    volatile: &[&["invitation"]],
};
