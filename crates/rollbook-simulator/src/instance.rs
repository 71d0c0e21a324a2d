//! A simulated Clerk instance: users sign up, create organizations, join, change, leave and are deleted.
//!
//! Every step emits the events that Clerk would emit, and records what the rows must be from then on. For one
//! subject `updated_at` never decreases and the event time strictly increases, so the last event about it is
//! also its greatest version.

mod access;
mod announce;
mod billing;
mod others;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use fastrand::Rng;
use rollbook_core::time::Timestamp;
use serde_json::json;

use self::others::OtherObjects;
use crate::event::Event;
use crate::ids::id;
use crate::model::{Membership, Organization, Templates, Times, User};
use crate::names;
use crate::state::Step;
use crate::truth::Truth;

const DAY_MILLIS: i64 = 86_400_000;
/// Maximum number of email addresses per user, so that bodies keep a realistic size.
const EMAILS_MAX: usize = 4;

/// Objects of the instance and the events so far. Functions refer to objects by index.
pub(crate) struct Instance {
    rng: Rng,
    now: Timestamp,
    templates: Templates,
    users: Vec<User>,
    organizations: Vec<Organization>,
    memberships: Vec<Membership>,
    others: OtherObjects,
    /// Organization id and user id of former members.
    former_members: Vec<(String, String)>,
    /// Addresses of deleted users. They can sign up again as other users.
    free_addresses: Vec<String>,
    addresses: usize,
    pub(crate) events: Vec<Event>,
    pub(crate) truth: Truth,
    pub(crate) steps: Vec<Step>,
    /// Child rows of a user or an organization, by its id.
    children: BTreeMap<String, Vec<(&'static str, String)>>,
    /// Rows that were deleted with a parent and have no delete event of their own.
    deleted_with_parents: BTreeSet<(&'static str, String)>,
}

impl Instance {
    pub(crate) fn new(seed: u64, start: Timestamp) -> Self {
        Self {
            rng: Rng::with_seed(seed),
            now: start,
            templates: Templates::read(),
            users: Vec::new(),
            organizations: Vec::new(),
            memberships: Vec::new(),
            others: OtherObjects::default(),
            former_members: Vec::new(),
            free_addresses: Vec::new(),
            addresses: 0,
            events: Vec::new(),
            truth: Truth::default(),
            steps: Vec::new(),
            children: BTreeMap::new(),
            deleted_with_parents: BTreeSet::new(),
        }
    }

    /// Performs one random action on a user, an organization or a membership. It emits at least one event.
    /// There must be a user.
    pub(crate) fn act(&mut self) {
        self.pass_time();
        let before = self.events.len();
        match self.rng.u32(..100) {
            45..60 => self.with_random(|it| &it.organizations, Self::change_organization),
            60..72 => self.with_random(|it| &it.organizations, Self::join_someone),
            72..82 => self.with_random(|it| &it.memberships, Self::change_membership),
            82..90 => self.with_random(|it| &it.memberships, Self::leave),
            90..94 => self.rejoin(),
            94..98 if self.users.len() > 2 => self.with_random(|it| &it.users, Self::delete_user),
            98 if self.organizations.len() > 1 => {
                self.with_random(|it| &it.organizations, Self::delete_organization);
            }
            _ => {}
        }
        if self.events.len() == before {
            self.with_random(|it| &it.users, Self::change_user_in_a_burst);
        }
    }

    /// Performs one random action on any kind of object; one in three is on another kind than [`Self::act`]
    /// covers.
    pub(crate) fn act_on_any(&mut self) {
        if self.rng.u32(..3) > 0 {
            return self.act();
        }
        self.pass_time();
        let before = self.events.len();
        while self.events.len() == before {
            self.act_on_others();
        }
    }

    /// Calls `act` with the index of a random element of `list`, if there is one.
    fn with_random<T>(&mut self, list: impl Fn(&Self) -> &Vec<T>, act: impl Fn(&mut Self, usize)) {
        let length = list(self).len();
        if length > 0 {
            let at = self.rng.usize(..length);
            act(self, at);
        }
    }

    /// Emits every event type for one user and one organization, independent of the random numbers.
    pub(crate) fn emit_every_event_type(&mut self) {
        self.create_user();
        self.create_user();
        let (founder, user) = (self.users.len() - 2, self.users.len() - 1);
        self.create_organization_of(founder);
        let organization = self.organizations.len() - 1;
        self.join(organization, user);
        let membership = self.memberships.len() - 1;
        for _ in 0..2 {
            self.pass_time();
            self.change_user(user);
            self.change_organization(organization);
            self.change_membership(membership);
        }
        self.emit_every_other_event_type(user, organization);
        self.leave(membership);
        self.delete_organization(organization);
        self.delete_user(user);
    }

    /// Advances the time. One action in five happens in the same millisecond as the one before.
    fn pass_time(&mut self) {
        let millis = match self.rng.u32(..10) {
            0 | 1 => 0,
            2..=6 => self.rng.u64(1..50),
            _ => self.rng.u64(50..60_000),
        };
        self.now = self.now.plus(Duration::from_millis(millis));
    }

    pub(crate) fn create_user(&mut self) {
        self.pass_time();
        let (rng, now) = (&mut self.rng, self.now);
        let mut user = User {
            id: id("user_", rng, now),
            times: Times::created(now),
            external_id: rng.bool().then(|| format!("crm-{}", self.addresses)),
            username: rng.bool().then(|| format!("name_{}", self.addresses)),
            first_name: names::first(rng),
            last_name: names::last(rng),
            emails: Vec::new(),
            primary_email_id: None,
            phones: Vec::new(),
            primary_phone_id: None,
            account_ids: Vec::new(),
            image_url: image_url(rng),
            banned: false,
            locked: false,
            deprovisioned: false,
            last_sign_in_at: None,
            last_active_at: Some(day_of(now)),
            public_metadata: json!({}),
            private_metadata: json!({}),
            unsafe_metadata: names::metadata(rng),
        };
        // One user in sixteen signs up by phone and has no email address.
        if rng.u8(..) < 16 {
            user.add_phone(rng, now);
        } else {
            let address = self.address();
            user.add_email(address, &mut self.rng, self.now);
        }
        self.users.push(user);
        self.announce_user("user.created", self.users.len() - 1);
    }

    fn address(&mut self) -> String {
        if self.rng.u8(..) < 64 && !self.free_addresses.is_empty() {
            let at = self.rng.usize(..self.free_addresses.len());
            return self.free_addresses.swap_remove(at);
        }
        self.addresses += 1;
        names::address(&mut self.rng, self.addresses)
    }

    /// Creates an organization with a random user as its first member. There must be a user.
    pub(crate) fn create_organization(&mut self) {
        self.pass_time();
        self.with_random(|it| &it.users, Self::create_organization_of);
    }

    fn create_organization_of(&mut self, founder: usize) {
        let (rng, now) = (&mut self.rng, self.now);
        let name = names::organization(rng);
        self.organizations.push(Organization {
            id: id("org_", rng, now),
            times: Times::created(now),
            slug: slug(&name, rng),
            name,
            image_url: image_url(rng),
            created_by: self.users[founder].id.clone(),
            members: 0,
            has_member_count: false,
            max_allowed_memberships: 25,
            public_metadata: json!({}),
            private_metadata: json!({}),
        });
        let at = self.organizations.len() - 1;
        self.announce_organization("organization.created", at);
        self.organizations[at].has_member_count = true;
        self.join(at, founder);
    }

    fn join_someone(&mut self, organization: usize) {
        let user = self.rng.usize(..self.users.len());
        if !self.is_member(&self.organizations[organization].id, &self.users[user].id) {
            self.join(organization, user);
        }
    }

    fn is_member(&self, organization_id: &str, user_id: &str) -> bool {
        self.memberships.iter().any(|one| one.organization_id == organization_id && one.user_id == user_id)
    }

    fn join(&mut self, organization: usize, user: usize) {
        let (rng, now) = (&mut self.rng, self.now);
        let organization = &mut self.organizations[organization];
        organization.members += 1;
        self.memberships.push(Membership {
            id: id("orgmem_", rng, now),
            times: Times::created(now),
            is_admin: organization.members == 1,
            organization_id: organization.id.clone(),
            user_id: self.users[user].id.clone(),
            public_metadata: json!({}),
            private_metadata: rng.bool().then(|| json!({})),
        });
        self.announce_membership("organizationMembership.created", self.memberships.len() - 1);
    }

    /// Lets a former member join again, with a new membership.
    fn rejoin(&mut self) {
        let Some((organization_id, user_id)) = self.former_members.pop() else { return };
        let organization = self.organizations.iter().position(|one| one.id == organization_id);
        let user = self.users.iter().position(|one| one.id == user_id);
        if let (Some(organization), Some(user)) = (organization, user)
            && !self.is_member(&organization_id, &user_id)
        {
            self.join(organization, user);
        }
    }

    /// Makes up to three changes within one millisecond.
    fn change_user_in_a_burst(&mut self, at: usize) {
        for _ in 0..=self.rng.usize(..8).saturating_sub(5) {
            self.change_user(at);
        }
    }

    fn change_user(&mut self, at: usize) {
        let what = self.rng.u32(..10);
        let address = (what == 2 && self.users[at].emails.len() < EMAILS_MAX).then(|| self.address());
        let (rng, now, user) = (&mut self.rng, self.now, &mut self.users[at]);
        if let Some(address) = address {
            user.add_email(address, rng, now);
        }
        match what {
            0 => user.first_name = names::first(rng),
            1 => user.last_name = names::last(rng),
            2 => {}
            3 if user.phones.is_empty() => user.add_phone(rng, now),
            4 => user.banned = !user.banned,
            5 => user.locked = !user.locked,
            6 => {
                user.last_sign_in_at = Some(now);
                user.last_active_at = Some(day_of(now));
            }
            7 if user.account_ids.is_empty() => user.account_ids.push(id("eac_", rng, now)),
            8 => user.private_metadata = names::metadata(rng),
            9 => user.unsafe_metadata = names::metadata(rng),
            _ => user.public_metadata = names::metadata(rng),
        }
        user.times.touch(now, rng);
        self.announce_user("user.updated", at);
    }

    /// Toggles `deprovisioned`, as a directory (SCIM) does.
    fn deprovision(&mut self, at: usize) {
        let user = &mut self.users[at];
        user.deprovisioned = !user.deprovisioned;
        user.times.touch(self.now, &mut self.rng);
        self.announce_user("user.updated", at);
    }

    fn change_organization(&mut self, at: usize) {
        let (rng, organization) = (&mut self.rng, &mut self.organizations[at]);
        match rng.u32(..4) {
            0 | 1 => {
                organization.name = names::organization(rng);
                organization.slug = slug(&organization.name, rng);
            }
            2 => organization.private_metadata = names::metadata(rng),
            _ => organization.public_metadata = names::metadata(rng),
        }
        organization.times.touch(self.now, rng);
        self.announce_organization("organization.updated", at);
    }

    fn change_membership(&mut self, at: usize) {
        let (rng, membership) = (&mut self.rng, &mut self.memberships[at]);
        if rng.bool() {
            membership.is_admin = !membership.is_admin;
        } else {
            membership.public_metadata = names::metadata(rng);
        }
        membership.times.touch(self.now, rng);
        self.announce_membership("organizationMembership.updated", at);
    }

    fn leave(&mut self, at: usize) {
        self.announce_membership("organizationMembership.deleted", at);
        self.remove_membership(at);
    }

    /// Removes a membership without an event.
    fn remove_membership(&mut self, at: usize) {
        let gone = self.memberships.swap_remove(at);
        if let Some(organization) = self.organizations.iter_mut().find(|one| one.id == gone.organization_id) {
            organization.members = organization.members.saturating_sub(1);
        }
        self.former_members.push((gone.organization_id, gone.user_id));
    }

    /// Removes the memberships that match. Clerk's documents do not say whether it emits delete events for
    /// them: at random all have one, or none has and the rows are deleted with their parent only.
    fn remove_memberships(&mut self, of: impl Fn(&Membership) -> bool) {
        let with_events = self.rng.bool();
        while let Some(at) = self.memberships.iter().position(&of) {
            if with_events {
                self.leave(at);
            } else {
                self.remove_membership(at);
            }
        }
    }

    fn delete_user(&mut self, at: usize) {
        let id = self.users[at].id.clone();
        self.remove_memberships(|membership| membership.user_id == id);
        let user = self.users.swap_remove(at);
        // The sessions change no more, and emit no events.
        self.others.sessions.retain(|session| session.user_id != id);
        self.announce_deleted_user(&user);
        self.free_addresses.extend(user.emails.into_iter().map(|email| email.value));
    }

    fn delete_organization(&mut self, at: usize) {
        let id = self.organizations[at].id.clone();
        self.remove_memberships(|membership| membership.organization_id == id);
        let organization = self.organizations.swap_remove(at);
        self.others.invitations.retain(|invitation| invitation.organization_id != id);
        self.others.domains.retain(|domain| domain.organization_id != id);
        self.announce_deleted_organization(&organization);
    }
}

/// Returns the start of the day: Clerk gives the day of the last activity, not the time.
fn day_of(at: Timestamp) -> Timestamp {
    Timestamp::from_millis(at.as_millis() - at.as_millis().rem_euclid(DAY_MILLIS))
}

fn image_url(rng: &mut Rng) -> String {
    format!("https://img.clerk.com/{:032x}{:028x}", rng.u128(..), rng.u64(..))
}

fn slug(name: &str, rng: &mut Rng) -> Option<String> {
    let plain = |letter: char| if letter.is_ascii_alphanumeric() { letter.to_ascii_lowercase() } else { '-' };
    (rng.u32(..8) > 0).then(|| name.chars().map(plain).collect())
}
