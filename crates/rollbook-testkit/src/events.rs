//! Events as Clerk sends them, for tests that depend on their content.

use bytes::Bytes;
use rollbook_core::change::Change;
use rollbook_core::delivery::MessageId;
use rollbook_core::event::parse;
use rollbook_core::queue::{Lease, LeaseToken};
use rollbook_core::time::Timestamp;
use serde_json::{Value, json};

/// Start of the tests' histories: a time in the summer of 2026, in milliseconds.
pub const START: i64 = 1_785_312_000_015;

/// Returns an event of this type with the payload `data`, sent at `at` (milliseconds, as Clerk writes it).
pub fn event(event_type: &str, at: i64, data: &Value) -> Value {
    json!({
        "object": "event",
        "type": event_type,
        "timestamp": at,
        "instance_id": "ins_2oWzDXRWo6YxXgJNj6bdIs0eFeG",
        "event_attributes": { "http_request": { "client_ip": "203.0.113.24", "user_agent": "tests" } },
        "data": data,
    })
}

/// Returns a user without a phone, and with a primary address that is not the first one.
pub fn user(id: &str, updated_at: i64) -> Value {
    let verified = json!({ "object": "verification_otp", "status": "verified", "strategy": "email_code" });
    json!({
        "object": "user",
        "id": id,
        "external_id": "crm-40077",
        "username": "ines",
        "first_name": "Ines",
        "last_name": "Okafor",
        "primary_email_address_id": "idn_work",
        "primary_phone_number_id": null,
        "email_addresses": [
            { "id": "idn_home", "email_address": "ines@home.example", "verification": verified },
            { "id": "idn_work", "email_address": "ines@work.example", "verification": verified },
        ],
        "phone_numbers": [{ "id": "idn_phone", "phone_number": "+15550100", "verification": verified }],
        "image_url": "https://img.clerk.com/8439c14a",
        "has_image": false,
        "banned": false,
        "locked": true,
        "deprovisioned": false,
        "last_sign_in_at": null,
        "last_active_at": 1_785_283_200_000_i64,
        "public_metadata": { "plan": "pro", "seats": [1, 2, { "deep": null }] },
        "private_metadata": null,
        "unsafe_metadata": {},
        "created_at": START - 86_400_000,
        "updated_at": updated_at,
    })
}

/// Returns an organization without a limit on its members.
pub fn organization(id: &str, updated_at: i64) -> Value {
    json!({
        "object": "organization",
        "id": id,
        "name": "Kilnworks Studio",
        "slug": "kilnworks-studio",
        "image_url": "https://img.clerk.com/84c161ec",
        "created_by": "user_1",
        "members_count": 3,
        "max_allowed_memberships": 0,
        "public_metadata": {},
        "private_metadata": { "billing": "manual" },
        "created_at": START - 86_400_000,
        "updated_at": updated_at,
    })
}

/// Returns a membership with the nested copies of its organization and user that Clerk includes.
pub fn membership(id: &str, organization_id: &str, user_id: &str, updated_at: i64) -> Value {
    let mut nested = organization(organization_id, updated_at);
    if let Some(nested) = nested.as_object_mut() {
        nested.remove("private_metadata");
    }
    json!({
        "object": "organization_membership",
        "id": id,
        "role": "org:admin",
        "role_name": "Admin",
        "permissions": ["org:sys_profile:manage", "org:invoices:read"],
        "public_metadata": {},
        "organization": nested,
        "public_user_data": { "user_id": user_id, "first_name": "Ines", "identifier": "ines@work.example" },
        "created_at": START - 3_600_000,
        "updated_at": updated_at,
    })
}

/// Returns the payload of a delete event of a user or an organization.
pub fn deleted(object: &str, id: &str) -> Value {
    json!({ "object": object, "id": id, "deleted": true })
}

/// Returns a lease of a message with this event, at its first attempt.
pub fn delivery_of(id: &str, event: &Value) -> Lease {
    Lease {
        token: LeaseToken(format!("lease of {id}")),
        id: MessageId::new(id),
        attempt: 1,
        unsettled: 0,
        received_at: Timestamp::from_millis(START + 86_400_000),
        traceparent: None,
        body: Bytes::from(event.to_string()),
        unreadable: None,
    }
}

/// Returns the change that this event makes if it is delivered with this `svix-id`.
///
/// # Panics
/// Panics if the core refuses the event.
pub fn change_of(id: &str, event: &Value) -> Change {
    let delivery = delivery_of(id, event);
    parse(&delivery.body, None).expect("the event can be read").into_change(&delivery)
}

/// Returns the change by a `organizationMembership.created`: the user `user_N` joins as `orgmem_N`.
pub fn joined(number: u32, organization: &str) -> Change {
    let (id, user) = (format!("orgmem_{number}"), format!("user_{number}"));
    let data = membership(&id, organization, &user, START);
    change_of(&format!("msg_{id}"), &event("organizationMembership.created", START, &data))
}

/// Returns the change by an `organization.deleted`, so many milliseconds after [`START`].
pub fn organization_deleted(id: &str, at: i64) -> Change {
    let gone = event("organization.deleted", START + at, &deleted("organization", id));
    change_of(&format!("msg_gone_{id}_{at}"), &gone)
}
