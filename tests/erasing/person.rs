//! A person in every kind of Clerk's events that contains personal data, in Clerk's own shapes.

use rollbook_simulator::samples;
use serde_json::{Value, json};

/// The person.
pub(super) const ID: &str = "user_3HSunnivaQ7mQm4yVbq0c9XnT2L";
const EMAIL: &str = "sunniva@holtgaard.example";
const OTHER_EMAIL: &str = "sunniva.private@holtgaard.example";
/// Texts that must be found nowhere after the erasure: names, addresses, phone number, username.
pub(super) const PERSONAL: [&str; 6] =
    ["Sunniva Marit", "Holtgaard", EMAIL, OTHER_EMAIL, "+4670555013", "sunniva_h"];

/// Other persons in the samples.
const INES: &str = "user_3HAXlsF2HZt1LTFMSTEzouK5iZ8";
const RAFAEL: &str = "user_3HAtf2fCAI6vwgS7ZUNF2TbP8mA";

/// Events about the person, one for each kind of object.
pub(super) fn events() -> Vec<Value> {
    let mut events: Vec<Value> =
        ["user.created", "user.updated", "session.created", "session.ended"].map(as_ines).into();
    events.extend(
        [
            "organizationMembership.created",
            "organizationMembership.updated",
            "organizationInvitation.created",
        ]
        .map(as_rafael),
    );
    events
        .extend(["subscription.created", "subscriptionItem.active", "paymentAttempt.created"].map(as_payer));
    events.extend(["waitlistEntry.created", "waitlistEntry.updated"].map(waiting));
    events
}

/// Further events that wait in the queue: also with a one-time password, and of an unknown type.
pub(super) fn queued() -> [Value; 4] {
    let mut unknown = as_ines("user.updated");
    unknown["type"] = json!("user.frobnicated");
    // A deletion event that contains the whole membership.
    [
        as_ines("email.created"),
        unknown,
        as_rafael("organizationMembership.deleted"),
        waiting("waitlistEntry.updated"),
    ]
}

/// Returns the events with the current time.
pub(super) fn newer(mut event: Value, at: i64) -> Value {
    event["timestamp"] = json!(at);
    event["data"]["updated_at"] = json!(at);
    event
}

fn sample(event_type: &str) -> String {
    samples::sample(event_type).expect("a sample").to_owned()
}

/// Rewrites a sample about Ines for this person.
fn as_ines(event_type: &str) -> Value {
    let text = sample(event_type)
        .replace(INES, ID)
        .replace("Okafor-Lind", "Holtgaard")
        .replace("Okafor", "Holtgaard")
        .replace("\"Ines\"", "\"Sunniva Marit\"")
        .replace("ines_ok", "sunniva_h")
        .replace("ines.okafor@kilnworks.example", EMAIL)
        .replace("+447700900113", "+4670555013");
    let mut event: Value = serde_json::from_str(&text).expect("JSON");
    if event["type"] == "user.updated"
        && let Some(addresses) = event["data"]["email_addresses"].as_array_mut()
    {
        let verified = json!({ "status": "verified", "strategy": "email_code" });
        addresses
            .push(json!({ "id": "idn_private", "email_address": OTHER_EMAIL, "verification": verified }));
    }
    event
}

/// Rewrites a sample about Rafael for this person; other persons in it stay others.
fn as_rafael(event_type: &str) -> Value {
    let text = sample(event_type)
        .replace(RAFAEL, ID)
        .replace("Rafael", "Sunniva Marit")
        .replace("Dimitrov", "Holtgaard")
        .replace("rafael.dimitrov@kilnworks.example", OTHER_EMAIL);
    let mut event: Value = serde_json::from_str(&text).expect("JSON");
    if event["type"] == "organizationMembership.created" {
        event["data"]["public_user_data"]["user_id"] = json!(ID);
    }
    event
}

/// Rewrites a sample so that this person is the payer.
fn as_payer(event_type: &str) -> Value {
    let mut event = as_ines(event_type);
    let payer = &mut event["data"]["payer"];
    payer["user_id"] = json!(ID);
    payer["organization_id"] = json!("");
    payer["first_name"] = json!("Sunniva Marit");
    event
}

/// Waitlist entry with an address of the person in another case.
fn waiting(event_type: &str) -> Value {
    let text = sample(event_type).replace("sunniva@holt.example", EMAIL);
    serde_json::from_str(&text).expect("JSON")
}
