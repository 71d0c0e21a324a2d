//! Actions on invitations, domains, sessions, roles, permissions and waitlist entries.

use std::time::Duration;

use serde_json::json;

use super::Instance;
use crate::ids::id;
use crate::model::Times;
use crate::model::access::{Domain, Entry, Invitation, Permission, Role, Session};
use crate::names;

const DAY: Duration = Duration::from_secs(86_400);

impl Instance {
    pub(super) fn invite(&mut self, organization: usize) {
        let (rng, now) = (&mut self.rng, self.now);
        let inviter = rng.usize(..self.users.len());
        self.addresses += 1;
        let invitation = Invitation {
            id: id("orginv_", rng, now),
            times: Times::created(now),
            organization_id: self.organizations[organization].id.clone(),
            has_organization_id: rng.u32(..8) > 0,
            inviter_id: rng.bool().then(|| self.users[inviter].id.clone()),
            user_id: None,
            email_address: names::address(rng, self.addresses),
            role: "org:member",
            status: "pending",
            expires_at: now.plus(30 * DAY),
            public_metadata: names::metadata(rng),
        };
        self.others.invitations.push(invitation);
        self.announce(|others| &mut others.invitations, "organizationInvitation.created", None);
    }

    /// Accepts (as a random user) or revokes an invitation. Both keep its row.
    pub(super) fn answer_invitation(&mut self, at: usize) {
        let accepts = self.rng.bool();
        self.end_invitation(at, accepts);
    }

    pub(super) fn end_invitation(&mut self, at: usize, accepts: bool) {
        let (rng, now) = (&mut self.rng, self.now);
        let invitation = &mut self.others.invitations[at];
        invitation.status = if accepts { "accepted" } else { "revoked" };
        invitation.user_id = accepts.then(|| self.users[rng.usize(..self.users.len())].id.clone());
        invitation.times.touch(now, rng);
        let event_type =
            if accepts { "organizationInvitation.accepted" } else { "organizationInvitation.revoked" };
        self.announce(|others| &mut others.invitations, event_type, Some(at));
        self.others.invitations.swap_remove(at);
    }

    pub(super) fn add_domain(&mut self, organization: usize) {
        let (rng, now) = (&mut self.rng, self.now);
        let domain = Domain {
            id: id("orgdmn_", rng, now),
            times: Times::created(now),
            organization_id: self.organizations[organization].id.clone(),
            name: format!("shop-{}.example", rng.u32(..10_000)),
            enrollment_mode: "manual_invitation",
            verification_status: None,
            affiliation_email_address: None,
            pending: 0,
        };
        self.others.domains.push(domain);
        self.announce(|others| &mut others.domains, "organizationDomain.created", None);
    }

    pub(super) fn change_domain(&mut self, at: usize) {
        let (rng, now) = (&mut self.rng, self.now);
        let domain = &mut self.others.domains[at];
        match rng.u32(..3) {
            0 => domain.verification_status = Some(if rng.bool() { "verified" } else { "failed" }),
            1 => domain.enrollment_mode = "automatic_suggestion",
            _ => {
                domain.pending += 1;
                domain.affiliation_email_address = Some(format!("boss@{}", domain.name));
            }
        }
        domain.times.touch(now, rng);
        self.announce(|others| &mut others.domains, "organizationDomain.updated", Some(at));
    }

    pub(super) fn delete_domain(&mut self, at: usize) {
        let gone = self.others.domains.swap_remove(at);
        self.announce_deletion_of(gone, "organizationDomain.deleted", "organization_domain");
    }

    /// Starts a session. One in four is pending before it is active.
    pub(super) fn sign_in(&mut self, user: usize) {
        let pending = self.rng.u32(..4) == 0;
        self.begin_session(user, pending);
    }

    pub(super) fn begin_session(&mut self, user: usize, pending: bool) {
        let copy = self.users[user].data(&self.templates);
        let (rng, now) = (&mut self.rng, self.now);
        let organization = (!self.organizations.is_empty() && rng.bool())
            .then(|| self.organizations[rng.usize(..self.organizations.len())].id.clone());
        let session = Session {
            id: id("sess_", rng, now),
            times: Times::created(now),
            user_id: self.users[user].id.clone(),
            user: copy,
            client_id: id("client_", rng, now),
            status: if pending { "pending" } else { "active" },
            organization_id: organization,
            actor: (rng.u32(..16) == 0)
                .then(|| json!({ "sub": "user_operator", "iss": "https://dashboard" })),
            last_active_at: now,
            expire_at: now.plus(7 * DAY),
            abandon_at: now.plus(30 * DAY),
        };
        self.others.sessions.push(session);
        let event_type = if pending { "session.pending" } else { "session.created" };
        self.announce(|others| &mut others.sessions, event_type, None);
    }

    pub(super) fn end_session(&mut self, at: usize) {
        let how = ["ended", "removed", "revoked"][self.rng.usize(..3)];
        self.end_session_as(at, how);
    }

    pub(super) fn end_session_as(&mut self, at: usize, how: &'static str) {
        let session = &mut self.others.sessions[at];
        session.status = how;
        session.last_active_at = self.now;
        session.times.touch(self.now, &mut self.rng);
        self.announce(|others| &mut others.sessions, &format!("session.{how}"), Some(at));
        self.others.sessions.swap_remove(at);
    }

    pub(super) fn create_permission(&mut self) {
        let (rng, now) = (&mut self.rng, self.now);
        let number = rng.u32(..1000);
        let permission = Permission {
            id: id("perm_", rng, now),
            times: Times::created(now),
            name: format!("Read {number}"),
            key: format!("org:papers_{number}:read"),
            description: String::new(),
        };
        self.others.permissions.push(permission);
        self.announce(|others| &mut others.permissions, "permission.created", None);
    }

    pub(super) fn change_permission(&mut self, at: usize) {
        let permission = &mut self.others.permissions[at];
        permission.description = names::organization(&mut self.rng);
        permission.times.touch(self.now, &mut self.rng);
        self.announce(|others| &mut others.permissions, "permission.updated", Some(at));
    }

    pub(super) fn delete_permission(&mut self, at: usize) {
        let gone = self.others.permissions.swap_remove(at);
        self.announce_deletion_of(gone, "permission.deleted", "permission");
    }

    pub(super) fn create_role(&mut self) {
        let (rng, now) = (&mut self.rng, self.now);
        let number = rng.u32(..1000);
        let role = Role {
            id: id("role_", rng, now),
            times: Times::created(now),
            name: format!("Clerk {number}"),
            key: format!("org:clerk_{number}"),
            description: rng.bool().then(|| names::organization(rng)),
            is_creator_eligible: rng.bool(),
            permissions: Vec::new(),
        };
        self.others.roles.push(role);
        self.announce(|others| &mut others.roles, "role.created", None);
    }

    pub(super) fn change_role(&mut self, at: usize) {
        let newest = self.others.permissions.last();
        let copy = newest.map(|permission| crate::model::Entity::data(permission, &self.templates));
        let role = &mut self.others.roles[at];
        role.permissions = copy.into_iter().collect();
        role.name = names::organization(&mut self.rng);
        role.times.touch(self.now, &mut self.rng);
        self.announce(|others| &mut others.roles, "role.updated", Some(at));
    }

    /// Deletes a role. Memberships that name the role stay as they are.
    pub(super) fn delete_role(&mut self, at: usize) {
        let gone = self.others.roles.swap_remove(at);
        self.announce_deletion_of(gone, "role.deleted", "role");
    }

    pub(super) fn join_waitlist(&mut self) {
        let (rng, now) = (&mut self.rng, self.now);
        self.addresses += 1;
        let entry = Entry {
            id: id("wle_", rng, now),
            times: Times::created(now),
            email_address: names::address(rng, self.addresses),
            status: "pending",
            is_locked: false,
            invitation_id: None,
        };
        self.others.entries.push(entry);
        self.announce(|others| &mut others.entries, "waitlistEntry.created", None);
    }

    pub(super) fn change_entry(&mut self, at: usize) {
        let (rng, now) = (&mut self.rng, self.now);
        let entry = &mut self.others.entries[at];
        match rng.u32(..3) {
            0 => {
                entry.status = "invited";
                entry.invitation_id = Some(id("inv_", rng, now));
            }
            1 => entry.status = if entry.invitation_id.is_some() { "completed" } else { "rejected" },
            _ => entry.is_locked = !entry.is_locked,
        }
        entry.times.touch(now, rng);
        self.announce(|others| &mut others.entries, "waitlistEntry.updated", Some(at));
    }
}
