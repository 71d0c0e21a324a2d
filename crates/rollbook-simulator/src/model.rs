//! Objects of the simulated instance, with their payload (an event's `data`) and their row.
//!
//! Payload and row are both written by hand, each from the object itself, because the rows are the
//! expectation for the real parser and merge. Payloads start from the built-in samples, so their shape and
//! size are realistic.

pub(crate) mod access;
pub(crate) mod billing;

use fastrand::Rng;
use rollbook_core::time::Timestamp;
use serde_json::{Map, Value, json};

use crate::{ids, names, samples};

/// A JSON object.
pub(crate) type Object = Map<String, Value>;

pub(crate) const USERS: &str = "users";
pub(crate) const ORGANIZATIONS: &str = "organizations";
pub(crate) const MEMBERSHIPS: &str = "organization_memberships";

/// Timestamps of one object.
#[derive(Clone, Copy)]
#[expect(clippy::struct_field_names, reason = "timestamps end in _at")]
pub(crate) struct Times {
    pub(crate) created_at: Timestamp,
    pub(crate) updated_at: Timestamp,
    /// Envelope `timestamp` of the object's last event. It increases strictly with every event.
    pub(crate) event_at: Timestamp,
}

/// An object with one kind of payload and one table.
pub(crate) trait Entity {
    /// Name of the object's table.
    const TABLE: &'static str;

    fn id(&self) -> &str;

    fn times(&mut self) -> &mut Times;

    /// Payload of an event about the object.
    fn data(&self, templates: &Templates) -> Object;

    /// The table's own columns of the object's row. Takes what must not be stored out of the row's `data`.
    fn columns(&self, data: &mut Object) -> Value;
}

/// The methods of [`Entity`] that return the fields `id` and `times`.
macro_rules! id_and_times {
    () => {
        fn id(&self) -> &str {
            &self.id
        }

        fn times(&mut self) -> &mut Times {
            &mut self.times
        }
    };
}
use id_and_times;

impl Times {
    pub(crate) fn created(at: Timestamp) -> Self {
        Self { created_at: at, updated_at: at, event_at: at }
    }
}

pub(crate) struct User {
    pub(crate) id: String,
    pub(crate) times: Times,
    pub(crate) external_id: Option<String>,
    pub(crate) username: Option<String>,
    pub(crate) first_name: Option<String>,
    pub(crate) last_name: Option<String>,
    pub(crate) emails: Vec<Identification>,
    pub(crate) primary_email_id: Option<String>,
    pub(crate) phones: Vec<Identification>,
    pub(crate) primary_phone_id: Option<String>,
    /// Ids of external accounts and passkeys. They are content without a column.
    pub(crate) account_ids: Vec<String>,
    pub(crate) image_url: String,
    pub(crate) banned: bool,
    pub(crate) locked: bool,
    /// Deprovisioned by a directory (SCIM), which does not delete the user.
    pub(crate) deprovisioned: bool,
    pub(crate) last_sign_in_at: Option<Timestamp>,
    pub(crate) last_active_at: Option<Timestamp>,
    pub(crate) public_metadata: Value,
    pub(crate) private_metadata: Value,
    pub(crate) unsafe_metadata: Value,
}

/// Email address or phone number.
pub(crate) struct Identification {
    pub(crate) id: String,
    pub(crate) value: String,
    pub(crate) created_at: Timestamp,
}

pub(crate) struct Organization {
    pub(crate) id: String,
    pub(crate) times: Times,
    pub(crate) name: String,
    /// Slug; `None` as in Clerk's newer applications, which have no slugs.
    pub(crate) slug: Option<String>,
    pub(crate) image_url: String,
    pub(crate) created_by: String,
    pub(crate) members: u32,
    /// Whether payload and row have the member count. `organization.created` does not contain it.
    pub(crate) has_member_count: bool,
    pub(crate) max_allowed_memberships: u32,
    pub(crate) public_metadata: Value,
    pub(crate) private_metadata: Value,
}

pub(crate) struct Membership {
    pub(crate) id: String,
    pub(crate) times: Times,
    pub(crate) organization_id: String,
    pub(crate) user_id: String,
    pub(crate) is_admin: bool,
    pub(crate) public_metadata: Value,
    /// Private metadata; `None` leaves the key out, because not every payload has it.
    pub(crate) private_metadata: Option<Value>,
}

/// `data` of the samples that payloads start from.
pub(crate) struct Templates {
    user: Object,
    email: Object,
    phone: Object,
    account: Object,
    passkey: Object,
    organization: Object,
    membership: Object,
    member: Object,
    member_permissions: Value,
    admin_permissions: Value,
    access: access::Templates,
    billing: billing::Templates,
}

impl Templates {
    pub(crate) fn read() -> Self {
        let user = object(&data_of("user.updated"));
        let [member, admin] =
            ["organizationMembership.created", "organizationMembership.updated"].map(data_of);
        Self {
            email: object(&user["email_addresses"][0]),
            phone: object(&user["phone_numbers"][0]),
            account: object(&user["external_accounts"][0]),
            passkey: object(&user["passkeys"][0]),
            user,
            organization: object(&data_of("organization.updated")),
            member: object(&member["public_user_data"]),
            member_permissions: member["permissions"].clone(),
            admin_permissions: admin["permissions"].clone(),
            membership: object(&member),
            access: access::Templates::read(),
            billing: billing::Templates::read(),
        }
    }
}

fn data_of(event_type: &str) -> Value {
    let event: Value =
        samples::sample(event_type).and_then(|json| serde_json::from_str(json).ok()).unwrap_or_default();
    event["data"].clone()
}

fn object(value: &Value) -> Object {
    value.as_object().cloned().unwrap_or_default()
}

/// Returns `template` with the keys of `changes` replaced.
fn with(template: &Object, changes: Value) -> Object {
    extended(template.clone(), changes)
}

fn extended(mut object: Object, changes: Value) -> Object {
    if let Value::Object(changes) = changes {
        object.extend(changes);
    }
    object
}

fn iso(at: Timestamp) -> String {
    at.to_string()
}

/// Returns the payload of a subject: its template with id, times, and these changes.
fn payload(template: &Object, id: &str, times: Times, changes: Value) -> Object {
    let common = json!({
        "id": id,
        "created_at": times.created_at.as_millis(),
        "updated_at": times.updated_at.as_millis(),
    });
    extended(with(template, common), changes)
}

/// Returns the common columns of a row that is not deleted, followed by the table's `own` columns.
pub(crate) fn row(id: &str, times: Times, data: &Object, own: Value) -> Object {
    let common = json!({
        "id": id,
        "data": data,
        "created_at": iso(times.created_at),
        "updated_at": iso(times.updated_at),
        "deleted_at": null,
    });
    extended(extended(Object::new(), common), own)
}

impl User {
    /// Adds an email address at the end of the list. It often, but not always, becomes the primary one.
    pub(crate) fn add_email(&mut self, value: String, rng: &mut Rng, now: Timestamp) {
        let id = ids::id("idn_", rng, now);
        if self.primary_email_id.is_none() || rng.u32(..4) > 0 {
            self.primary_email_id = Some(id.clone());
        }
        self.emails.push(Identification { id, value, created_at: now });
    }

    pub(crate) fn add_phone(&mut self, rng: &mut Rng, now: Timestamp) {
        let (id, value) = (ids::id("idn_", rng, now), names::phone(rng));
        self.primary_phone_id = Some(id.clone());
        self.phones.push(Identification { id, value, created_at: now });
    }

    pub(crate) fn data(&self, templates: &Templates) -> Object {
        let identifications = |template: &Object, key: &str, all: &[Identification]| -> Vec<Object> {
            all.iter().map(|one| with(template, one.data(key))).collect()
        };
        let accounts = |template: &Object| -> Vec<Object> {
            self.account_ids.iter().map(|id| with(template, json!({ "id": id }))).collect()
        };
        let changes = json!({
            "external_id": self.external_id,
            "primary_email_address_id": self.primary_email_id,
            "primary_phone_number_id": self.primary_phone_id,
            "username": self.username,
            "first_name": self.first_name,
            "last_name": self.last_name,
            "image_url": self.image_url,
            "public_metadata": self.public_metadata,
            "private_metadata": self.private_metadata,
            "unsafe_metadata": self.unsafe_metadata,
            "email_addresses": identifications(&templates.email, "email_address", &self.emails),
            "phone_numbers": identifications(&templates.phone, "phone_number", &self.phones),
            "external_accounts": accounts(&templates.account),
            "passkeys": accounts(&templates.passkey),
            "two_factor_enabled": false,
            "mfa_enabled_at": null,
            "last_sign_in_at": self.last_sign_in_at.map(Timestamp::as_millis),
            "last_active_at": self.last_active_at.map(Timestamp::as_millis),
            "banned": self.banned,
            "locked": self.locked,
            "deprovisioned": self.deprovisioned,
        });
        payload(&templates.user, &self.id, self.times, changes)
    }

    pub(crate) fn columns(&self, data: &Object) -> Object {
        let own = json!({
            "external_id": self.external_id,
            "username": self.username,
            "first_name": self.first_name,
            "last_name": self.last_name,
            "primary_email_address": self.primary_email(),
            "primary_phone_number": primary(&self.phones, self.primary_phone_id.as_ref()),
            "image_url": self.image_url,
            "banned": self.banned,
            "locked": self.locked,
            "deprovisioned": self.deprovisioned,
            "last_sign_in_at": self.last_sign_in_at.map(iso),
            "last_active_at": self.last_active_at.map(iso),
            "public_metadata": self.public_metadata,
            "private_metadata": self.private_metadata,
            "unsafe_metadata": self.unsafe_metadata,
        });
        row(&self.id, self.times, data, own)
    }

    fn primary_email(&self) -> Option<&str> {
        primary(&self.emails, self.primary_email_id.as_ref())
    }

    /// Copy of the user inside a membership.
    fn as_member(&self, templates: &Templates) -> Object {
        let changes = json!({
            "user_id": self.id,
            "first_name": self.first_name,
            "last_name": self.last_name,
            "image_url": self.image_url,
            "identifier": self.primary_email(),
            "username": self.username,
            "banned": self.banned,
        });
        with(&templates.member, changes)
    }
}

fn primary<'a>(all: &'a [Identification], id: Option<&String>) -> Option<&'a str> {
    all.iter().find(|one| Some(&one.id) == id).map(|one| one.value.as_str())
}

impl Identification {
    fn data(&self, key: &str) -> Value {
        let created_at = self.created_at.as_millis();
        json!({
            "id": self.id,
            key: self.value,
            "linked_to": [],
            "default_second_factor": false,
            "created_at": created_at,
            "updated_at": created_at,
        })
    }
}

impl Organization {
    pub(crate) fn data(&self, templates: &Templates) -> Object {
        let changes = json!({
            "name": self.name,
            "slug": self.slug,
            "image_url": self.image_url,
            "created_by": self.created_by,
            "members_count": self.members,
            "max_allowed_memberships": self.max_allowed_memberships,
            "public_metadata": self.public_metadata,
            "private_metadata": self.private_metadata,
        });
        let mut data = payload(&templates.organization, &self.id, self.times, changes);
        if !self.has_member_count {
            data.remove("members_count");
        }
        data
    }

    pub(crate) fn columns(&self, data: &Object) -> Object {
        let own = json!({
            "name": self.name,
            "slug": self.slug,
            "image_url": self.image_url,
            "created_by": self.created_by,
            "members_count": self.has_member_count.then_some(self.members),
            "max_allowed_memberships": self.max_allowed_memberships,
            "public_metadata": self.public_metadata,
            "private_metadata": self.private_metadata,
        });
        row(&self.id, self.times, data, own)
    }

    /// Copy of the organization inside a membership. It lacks some of the fields that the organization has.
    fn as_nested(&self, templates: &Templates) -> Object {
        let mut data = self.data(templates);
        data.insert("members_count".into(), self.members.into());
        data.remove("private_metadata");
        data
    }
}

impl Membership {
    pub(crate) fn data(&self, organization: &Organization, user: &User, templates: &Templates) -> Object {
        let changes = json!({
            "role": self.role(),
            "role_name": if self.is_admin { "Admin" } else { "Member" },
            "permissions": self.permissions(templates),
            "public_metadata": self.public_metadata,
            "private_metadata": self.private_metadata,
            "organization": organization.as_nested(templates),
            "public_user_data": user.as_member(templates),
        });
        let mut data = payload(&templates.membership, &self.id, self.times, changes);
        if self.private_metadata.is_none() {
            data.remove("private_metadata");
        }
        data
    }

    pub(crate) fn columns(&self, data: &Object, templates: &Templates) -> Object {
        let own = json!({
            "organization_id": self.organization_id,
            "user_id": self.user_id,
            "role": self.role(),
            "permissions": self.permissions(templates),
            "public_metadata": self.public_metadata,
            "private_metadata": self.private_metadata,
        });
        row(&self.id, self.times, data, own)
    }

    fn role(&self) -> &'static str {
        if self.is_admin { "org:admin" } else { "org:member" }
    }

    fn permissions<'a>(&self, templates: &'a Templates) -> &'a Value {
        if self.is_admin { &templates.admin_permissions } else { &templates.member_permissions }
    }
}
