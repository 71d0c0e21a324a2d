//! Invitations, domains, sessions, roles, permissions and waitlist entries.

use rollbook_core::time::Timestamp;
use serde_json::{Value, json};

use super::{Entity, Object, Times, data_of, id_and_times, iso, object, payload, with};

/// Invitation URL with a sign-in ticket. The ticket grants access, so it must not be in any row.
const TICKET: &str =
    "https://accounts.kilnworks.example/sign-up?__clerk_ticket=eyJhbGciOiJub25lIn0.INVENTED.sig";

pub(crate) struct Invitation {
    pub(crate) id: String,
    pub(crate) times: Times,
    pub(crate) organization_id: String,
    /// Whether the payload has `organization_id`. Otherwise only the nested copy of the organization has it.
    pub(crate) has_organization_id: bool,
    pub(crate) inviter_id: Option<String>,
    /// User who accepted the invitation.
    pub(crate) user_id: Option<String>,
    pub(crate) email_address: String,
    pub(crate) role: &'static str,
    pub(crate) status: &'static str,
    pub(crate) expires_at: Timestamp,
    pub(crate) public_metadata: Value,
}

pub(crate) struct Domain {
    pub(crate) id: String,
    pub(crate) times: Times,
    pub(crate) organization_id: String,
    pub(crate) name: String,
    pub(crate) enrollment_mode: &'static str,
    /// Verification status; `None` if no verification has begun.
    pub(crate) verification_status: Option<&'static str>,
    pub(crate) affiliation_email_address: Option<String>,
    pub(crate) pending: u32,
}

pub(crate) struct Session {
    pub(crate) id: String,
    pub(crate) times: Times,
    pub(crate) user_id: String,
    /// Nested copy of the user.
    pub(crate) user: Object,
    pub(crate) client_id: String,
    pub(crate) status: &'static str,
    pub(crate) organization_id: Option<String>,
    /// Actor of an impersonated session.
    pub(crate) actor: Option<Value>,
    pub(crate) last_active_at: Timestamp,
    pub(crate) expire_at: Timestamp,
    pub(crate) abandon_at: Timestamp,
}

pub(crate) struct Role {
    pub(crate) id: String,
    pub(crate) times: Times,
    pub(crate) name: String,
    pub(crate) key: String,
    pub(crate) description: Option<String>,
    pub(crate) is_creator_eligible: bool,
    /// Nested copies of the permissions.
    pub(crate) permissions: Vec<Object>,
}

pub(crate) struct Permission {
    pub(crate) id: String,
    pub(crate) times: Times,
    pub(crate) name: String,
    pub(crate) key: String,
    pub(crate) description: String,
}

/// Waitlist entry.
pub(crate) struct Entry {
    pub(crate) id: String,
    pub(crate) times: Times,
    pub(crate) email_address: String,
    pub(crate) status: &'static str,
    pub(crate) is_locked: bool,
    pub(crate) invitation_id: Option<String>,
}

/// `data` of the samples that payloads start from.
pub(super) struct Templates {
    invitation: Object,
    domain: Object,
    verification: Object,
    session: Object,
    role: Object,
    permission: Object,
    entry: Object,
    nested_invitation: Object,
}

impl Templates {
    pub(super) fn read() -> Self {
        Self {
            invitation: object(&data_of("organizationInvitation.created")),
            domain: object(&data_of("organizationDomain.created")),
            verification: object(&data_of("organizationDomain.updated")["verification"]),
            session: object(&data_of("session.created")),
            role: object(&data_of("role.created")),
            permission: object(&data_of("permission.created")),
            entry: object(&data_of("waitlistEntry.updated")),
            nested_invitation: object(&data_of("waitlistEntry.updated")["invitation"]),
        }
    }
}

impl Entity for Invitation {
    const TABLE: &'static str = "organization_invitations";

    id_and_times!();

    fn data(&self, templates: &super::Templates) -> Object {
        let changes = json!({
            "organization_id": self.organization_id,
            "inviter_id": self.inviter_id,
            "email_address": self.email_address,
            "role": self.role,
            "status": self.status,
            "url": (self.status == "pending").then_some(TICKET),
            "public_metadata": self.public_metadata,
            "private_metadata": {},
            "expires_at": self.expires_at.as_millis(),
            "data": { "public_organization_data": { "id": self.organization_id, "name": "A copy" } },
        });
        let mut data = payload(&templates.access.invitation, &self.id, self.times, changes);
        if !self.has_organization_id {
            data.remove("organization_id");
        }
        if let Some(user_id) = &self.user_id {
            data.insert("user_id".into(), user_id.as_str().into());
        }
        data
    }

    fn columns(&self, data: &mut Object) -> Value {
        data.remove("url");
        json!({
            "organization_id": self.organization_id,
            "inviter_id": self.inviter_id,
            "user_id": self.user_id,
            "email_address": self.email_address,
            "role": self.role,
            "status": self.status,
            "expires_at": iso(self.expires_at),
            "public_metadata": self.public_metadata,
            "private_metadata": {},
        })
    }
}

impl Entity for Domain {
    const TABLE: &'static str = "organization_domains";

    id_and_times!();

    fn data(&self, templates: &super::Templates) -> Object {
        let templates = &templates.access;
        let verification = self.verification_status.map(|status| {
            let changes = json!({ "status": status, "attempts": 1 });
            with(&templates.verification, changes)
        });
        let changes = json!({
            "organization_id": self.organization_id,
            "name": self.name,
            "enrollment_mode": self.enrollment_mode,
            "affiliation_email_address": self.affiliation_email_address,
            "verification": verification,
            "total_pending_invitations": self.pending,
            "total_pending_suggestions": 0,
        });
        payload(&templates.domain, &self.id, self.times, changes)
    }

    fn columns(&self, _: &mut Object) -> Value {
        json!({
            "organization_id": self.organization_id,
            "name": self.name,
            "enrollment_mode": self.enrollment_mode,
            "verification_status": self.verification_status,
            "affiliation_email_address": self.affiliation_email_address,
            "total_pending_invitations": self.pending,
            "total_pending_suggestions": 0,
        })
    }
}

impl Entity for Session {
    const TABLE: &'static str = "sessions";

    id_and_times!();

    fn data(&self, templates: &super::Templates) -> Object {
        let changes = json!({
            "user_id": self.user_id,
            "user": self.user,
            "client_id": self.client_id,
            "actor": self.actor,
            "status": self.status,
            "last_active_organization_id": self.organization_id,
            "last_active_at": self.last_active_at.as_millis(),
            "expire_at": self.expire_at.as_millis(),
            "abandon_at": self.abandon_at.as_millis(),
        });
        payload(&templates.access.session, &self.id, self.times, changes)
    }

    fn columns(&self, _: &mut Object) -> Value {
        json!({
            "user_id": self.user_id,
            "client_id": self.client_id,
            "status": self.status,
            "last_active_organization_id": self.organization_id,
            "actor": self.actor,
            "last_active_at": iso(self.last_active_at),
            "expire_at": iso(self.expire_at),
            "abandon_at": iso(self.abandon_at),
        })
    }
}

impl Entity for Role {
    const TABLE: &'static str = "roles";

    id_and_times!();

    fn data(&self, templates: &super::Templates) -> Object {
        let changes = json!({
            "name": self.name,
            "key": self.key,
            "description": self.description,
            "is_creator_eligible": self.is_creator_eligible,
            "permissions": self.permissions,
        });
        payload(&templates.access.role, &self.id, self.times, changes)
    }

    fn columns(&self, _: &mut Object) -> Value {
        json!({
            "name": self.name,
            "key": self.key,
            "description": self.description,
            "is_creator_eligible": self.is_creator_eligible,
            "permissions": self.permissions,
        })
    }
}

impl Entity for Permission {
    const TABLE: &'static str = "permissions";

    id_and_times!();

    fn data(&self, templates: &super::Templates) -> Object {
        let changes = json!({
            "name": self.name,
            "key": self.key,
            "description": self.description,
            "type": "custom",
        });
        payload(&templates.access.permission, &self.id, self.times, changes)
    }

    fn columns(&self, _: &mut Object) -> Value {
        json!({
            "name": self.name,
            "key": self.key,
            "description": self.description,
            "type": "custom",
        })
    }
}

impl Entity for Entry {
    const TABLE: &'static str = "waitlist_entries";

    id_and_times!();

    fn data(&self, templates: &super::Templates) -> Object {
        let templates = &templates.access;
        let invitation = self.invitation_id.as_ref().map(|id| {
            let changes = json!({ "id": id, "email_address": self.email_address, "url": TICKET });
            with(&templates.nested_invitation, changes)
        });
        let changes = json!({
            "email_address": self.email_address,
            "status": self.status,
            "is_locked": self.is_locked,
            "invitation": invitation,
        });
        payload(&templates.entry, &self.id, self.times, changes)
    }

    fn columns(&self, data: &mut Object) -> Value {
        if let Some(Value::Object(invitation)) = data.get_mut("invitation") {
            invitation.remove("url");
        }
        json!({
            "email_address": self.email_address,
            "status": self.status,
            "is_locked": self.is_locked,
            "invitation_id": self.invitation_id,
        })
    }
}
