//! Emits events and records the expected row of each.

use std::time::Duration;

use fastrand::Rng;
use rollbook_core::time::Timestamp;
use serde_json::{Value, json};

use super::Instance;
use crate::event::{Event, INSTANCE_ID};
use crate::ids::id;
use crate::model::access::{Domain, Invitation, Session};
use crate::model::{Entity as _, MEMBERSHIPS, ORGANIZATIONS, Object, Organization, Times, USERS, User};
use crate::samples;
use crate::state::Step;
use crate::truth::Expected;

/// Client IP and user agent of an event's cause: a browser, a backend, and Clerk itself (both empty).
const CAUSES: [(&str, &str); 3] = [
    (
        "203.0.113.24",
        "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/141.0.0.0 Safari/537.36",
    ),
    ("198.51.100.7", "@clerk/backend@3.16.10"),
    ("", ""),
];

/// Child tables of the cascade, with the column of the parent's id.
const CHILD_TABLES: [(&str, &str); 5] = [
    (MEMBERSHIPS, "organization_id"),
    (MEMBERSHIPS, "user_id"),
    (Invitation::TABLE, "organization_id"),
    (Domain::TABLE, "organization_id"),
    (Session::TABLE, "user_id"),
];

impl Instance {
    pub(super) fn announce_user(&mut self, event_type: &str, at: usize) {
        let user = &mut self.users[at];
        let event_at = user.times.next_event(self.now, &mut self.rng);
        let data = user.data(&self.templates);
        let (id, columns) = (user.id.clone(), user.columns(&data));
        self.note(USERS, &id, columns);
        self.emit(event_type, event_at, data);
    }

    pub(super) fn announce_organization(&mut self, event_type: &str, at: usize) {
        let organization = &mut self.organizations[at];
        let event_at = organization.times.next_event(self.now, &mut self.rng);
        let data = organization.data(&self.templates);
        let (id, columns) = (organization.id.clone(), organization.columns(&data));
        self.note(ORGANIZATIONS, &id, columns);
        self.emit(event_type, event_at, data);
    }

    /// `organizationMembership.deleted` carries the complete membership too.
    pub(super) fn announce_membership(&mut self, event_type: &str, at: usize) {
        let membership = &mut self.memberships[at];
        let organization = self.organizations.iter().find(|one| one.id == membership.organization_id);
        let user = self.users.iter().find(|one| one.id == membership.user_id);
        let (Some(organization), Some(user)) = (organization, user) else { return };
        let event_at = membership.times.next_event(self.now, &mut self.rng);
        let data = membership.data(organization, user, &self.templates);
        let (id, columns) = (membership.id.clone(), membership.columns(&data, &self.templates));
        if event_type.ends_with(".deleted") {
            self.note_deletion(MEMBERSHIPS, &id, event_at);
        } else {
            self.note(MEMBERSHIPS, &id, columns);
        }
        self.emit(event_type, event_at, data);
    }

    pub(super) fn announce_deleted_user(&mut self, user: &User) {
        let mut data = deleted("user", &user.id);
        if let Some(external_id) = &user.external_id {
            data.insert("external_id".into(), external_id.as_str().into());
        }
        self.announce_deleted(USERS, "user.deleted", user.times, &user.id, data);
    }

    pub(super) fn announce_deleted_organization(&mut self, organization: &Organization) {
        let mut data = deleted("organization", &organization.id);
        if let Some(slug) = &organization.slug {
            data.insert("slug".into(), slug.as_str().into());
        }
        self.announce_deleted(
            ORGANIZATIONS,
            "organization.deleted",
            organization.times,
            &organization.id,
            data,
        );
    }

    pub(super) fn announce_deleted(
        &mut self,
        table: &'static str,
        event_type: &str,
        mut times: Times,
        id: &str,
        data: Object,
    ) {
        let event_at = times.next_event(self.now, &mut self.rng);
        self.note_deletion(table, id, event_at);
        for (table, id) in self.children.remove(id).unwrap_or_default() {
            self.note_deletion_with_parent(table, &id, event_at);
        }
        self.emit(event_type, event_at, data);
    }

    /// Records the row of a subject that is not deleted. Its event must be the next that is emitted.
    pub(super) fn note(&mut self, table: &'static str, id: &str, columns: Object) {
        let key = (table, id.to_owned());
        if !self.truth.rows.contains_key(&key) {
            for parent in
                CHILD_TABLES.iter().filter(|(of, _)| *of == table).map(|(_, column)| &columns[*column])
            {
                if let Some(parent) = parent.as_str() {
                    self.children.entry(parent.to_owned()).or_default().push(key.clone());
                }
            }
        }
        self.steps.push(Step { event: self.events.len(), table, id: id.to_owned(), exists: true });
        self.truth.rows.insert(key, Expected::Live(columns));
    }

    /// Records the deletion of a subject. The row keeps its content. The event must be the next that is emitted.
    fn note_deletion(&mut self, table: &'static str, id: &str, at: Timestamp) {
        let known = self.truth.rows.get_mut(&(table, id.to_owned()));
        let Some(known) = known else { return };
        *known = Expected::Deleted { at, columns: known.columns().clone() };
        self.steps.push(Step { event: self.events.len(), table, id: id.to_owned(), exists: false });
    }

    /// Records a deletion with a parent. A child with a delete event of its own keeps the time of that event.
    fn note_deletion_with_parent(&mut self, table: &'static str, id: &str, at: Timestamp) {
        let key = (table, id.to_owned());
        match self.truth.rows.get(&key) {
            Some(Expected::Live(_)) => {
                self.note_deletion(table, id, at);
                self.deleted_with_parents.insert(key);
            }
            // The earlier of two deleted parents gives the time. The child's own delete event overrides
            // both.
            Some(Expected::Deleted { at: earlier, .. })
                if self.deleted_with_parents.contains(&key) && at < *earlier =>
            {
                self.note_deletion(table, id, at);
            }
            _ => {}
        }
    }

    /// Emits the built-in sample of a type at the current time, about a new subject. It must leave no row.
    pub(crate) fn emit_sample(&mut self, event_type: &str) {
        let sample = samples::sample(event_type).and_then(|json| serde_json::from_str::<Value>(json).ok());
        let Some(Value::Object(mut data)) = sample.map(|mut event| event["data"].take()) else { return };
        if let Some((prefix, _)) = data.get("id").and_then(Value::as_str).and_then(|id| id.rsplit_once('_')) {
            let fresh = id(&format!("{prefix}_"), &mut self.rng, self.now);
            data.insert("id".into(), fresh.into());
        }
        if let Some(updated_at) = data.get_mut("updated_at") {
            *updated_at = self.now.as_millis().into();
        }
        self.emit(event_type, self.now, data);
    }

    pub(super) fn emit(&mut self, event_type: &str, at: Timestamp, data: Object) {
        let (client_ip, user_agent) = CAUSES[self.rng.usize(..CAUSES.len())];
        let mut body = json!({
            "event_attributes": { "http_request": { "client_ip": client_ip, "user_agent": user_agent } },
            "instance_id": INSTANCE_ID,
            "object": "event",
            "timestamp": at.as_millis(),
            "type": event_type,
        });
        body["data"] = data.into();
        self.events.push(Event::new(event_type, at, body.to_string().into(), &mut self.rng));
    }
}

impl Times {
    /// Records a change. One in eight leaves `updated_at` as it was, which Clerk does not rule out.
    pub(super) fn touch(&mut self, now: Timestamp, rng: &mut Rng) {
        if rng.u32(..8) > 0 {
            self.updated_at = self.updated_at.max(now);
        }
    }

    /// Returns the timestamp of the next event: 1 to 18 ms after the action, and later than the last event.
    pub(super) fn next_event(&mut self, now: Timestamp, rng: &mut Rng) -> Timestamp {
        let at = now.plus(Duration::from_millis(rng.u64(1..=18)));
        self.event_at = at.max(self.event_at.plus(Duration::from_millis(1)));
        self.event_at
    }
}

pub(super) fn deleted(object: &str, id: &str) -> Object {
    Object::from_iter([
        ("object".into(), object.into()),
        ("id".into(), id.into()),
        ("deleted".into(), true.into()),
    ])
}
