//! Built-in payloads in Clerk's shapes: one of every event type, edge cases, and unconfirmed event types. All
//! data is invented.
//!
//! The 45 types are those of Clerk's published webhook description. A type that is missing there but was seen
//! elsewhere is among [`unconfirmed`].

use bytes::Bytes;
use rollbook_core::time::Timestamp;
use serde_json::Value;

/// Expands to pairs of a file name without its extension and the content of the file in `samples/`.
macro_rules! embedded {
    ($folder:literal: $($name:literal),+ $(,)?) => {
        &[$(($name, include_str!(concat!("../samples/", $folder, $name, ".json")))),+]
    };
}

/// Samples, sorted by event type.
static SAMPLES: &[(&str, &str)] = embedded! {
    "":
    "email.created",
    "organization.created",
    "organization.deleted",
    "organization.updated",
    "organizationDomain.created",
    "organizationDomain.deleted",
    "organizationDomain.updated",
    "organizationInvitation.accepted",
    "organizationInvitation.created",
    "organizationInvitation.revoked",
    "organizationMembership.created",
    "organizationMembership.deleted",
    "organizationMembership.updated",
    "paymentAttempt.created",
    "paymentAttempt.updated",
    "permission.created",
    "permission.deleted",
    "permission.updated",
    "role.created",
    "role.deleted",
    "role.updated",
    "session.created",
    "session.ended",
    "session.pending",
    "session.removed",
    "session.revoked",
    "sms.created",
    "subscription.active",
    "subscription.created",
    "subscription.pastDue",
    "subscription.updated",
    "subscriptionItem.abandoned",
    "subscriptionItem.active",
    "subscriptionItem.canceled",
    "subscriptionItem.ended",
    "subscriptionItem.freeTrialEnding",
    "subscriptionItem.incomplete",
    "subscriptionItem.pastDue",
    "subscriptionItem.upcoming",
    "subscriptionItem.updated",
    "user.created",
    "user.deleted",
    "user.updated",
    "waitlistEntry.created",
    "waitlistEntry.updated",
};

static VARIANTS: &[(&str, &str)] = embedded! {
    "variants/":
    "envelope.no-event-attributes",
    "envelope.no-instance-id-dashboard-test",
    "envelope.timestamp-in-seconds",
    "organization.created.slug-null",
    "organization.deleted.no-slug",
    "organization.updated.unknown-extra-fields",
    "organizationMembership.created.before-user",
    "organizationMembership.created.dashboard-sample-legacy-role",
    "role.deleted.slug-null",
    "sms.created.created_at-instead-of-created_at_ms",
    "unknown.future-event-type",
    "user.created.after-membership",
    "user.created.null-names",
    "user.created.phone-only",
    "user.created.wire-shape-verification-without-object",
    "user.deleted.no-external-id",
    "user.updated.arrives-after-delete",
    "user.updated.banned-and-locked",
    "user.updated.large-public-metadata",
    "user.updated.metadata-null",
    "user.updated.primary-is-second-email",
    "user.updated.scim-deprovisioned",
    "user.updated.stale-older-than-user.updated",
    "user.updated.unicode-and-nul",
    "user.updated.unknown-extra-fields",
    "user.updated.unsafe-metadata-depth-200",
    "waitlistEntry.created.object-alias",
};

static UNCONFIRMED: &[(&str, &str)] = embedded! {
    "unconfirmed/":
    "invitation.accepted",
    "invitation.created",
    "invitation.revoked",
    "subscriptionItem.created",
};

/// Every event type of Clerk, sorted.
pub fn event_types() -> impl Iterator<Item = &'static str> {
    SAMPLES.iter().map(|(event_type, _)| *event_type)
}

/// Returns a complete event of this type as JSON, or `None` if Clerk has no such type.
pub fn sample(event_type: &str) -> Option<&'static str> {
    let at = SAMPLES.binary_search_by_key(&event_type, |(name, _)| name).ok()?;
    Some(SAMPLES[at].1)
}

/// Edge cases: name and JSON. A name begins with the event's type, or with `envelope` or `unknown`.
pub fn variants() -> &'static [(&'static str, &'static str)] {
    VARIANTS
}

/// Events of types that Clerk's description does not list: type and JSON.
pub fn unconfirmed() -> &'static [(&'static str, &'static str)] {
    UNCONFIRMED
}

/// Reason why a text cannot be sent as a new event. The text itself is never repeated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RestampError {
    /// The text is not valid JSON.
    #[error("not valid JSON: syntax error at line {line}, column {column}")]
    NotJson {
        /// Line of the error, counted from one.
        line: usize,
        /// Column of the error, counted from one.
        column: usize,
    },
    /// The text is valid JSON, but not an object.
    #[error("not an event: an event must be a JSON object")]
    NotAnObject,
}

/// Returns the event as if it had happened at `now`, so that sending a sample twice gives two events. The
/// envelope `timestamp` becomes `now`, and so does `data.updated_at` unless the event is a delete. All other
/// values stay. Keys are sorted and white space is removed, as on the wire. Two calls with the same `now`
/// give the same event.
///
/// # Errors
/// `json` is not a JSON object.
pub fn restamp(json: &str, now: Timestamp) -> Result<Bytes, RestampError> {
    let parsed = serde_json::from_str(json)
        .map_err(|error| RestampError::NotJson { line: error.line(), column: error.column() })?;
    let Value::Object(mut event) = parsed else {
        return Err(RestampError::NotAnObject);
    };
    let is_delete = event.get("type").and_then(Value::as_str).is_some_and(|name| name.ends_with(".deleted"));
    if !is_delete && let Some(updated_at) = event.get_mut("data").and_then(|data| data.get_mut("updated_at"))
    {
        *updated_at = now.as_millis().into();
    }
    event.insert("timestamp".into(), now.as_millis().into());
    Ok(Value::Object(event).to_string().into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(bytes: &[u8]) -> Value {
        serde_json::from_slice(bytes).expect("JSON")
    }

    #[test]
    fn restamping_changes_only_the_timestamps() {
        let json = sample("user.updated").expect("there is one");
        let fresh = read(&restamp(json, Timestamp::from_millis(1_790_000_000_123)).expect("an event"));
        let mut expected = read(json.as_bytes());
        expected["timestamp"] = 1_790_000_000_123_i64.into();
        expected["data"]["updated_at"] = 1_790_000_000_123_i64.into();
        assert_eq!(fresh, expected);
    }

    #[test]
    fn restamping_a_delete_keeps_updated_at_and_does_not_add_one() {
        let now = Timestamp::from_millis(1_790_000_000_123);
        for (event_type, updated_at) in
            [("user.deleted", Value::Null), ("organizationMembership.deleted", 1_785_337_205_005_i64.into())]
        {
            let fresh = read(&restamp(sample(event_type).expect("there is one"), now).expect("an event"));
            assert_eq!(fresh["timestamp"], 1_790_000_000_123_i64);
            assert_eq!(fresh["data"]["updated_at"], updated_at, "{event_type}");
        }
    }

    #[test]
    fn an_invalid_event_is_refused_with_its_position_and_without_its_text() {
        let now = Timestamp::from_millis(0);
        assert_eq!(restamp("[]", now), Err(RestampError::NotAnObject));
        let error = restamp("{\n  secret", now).expect_err("not JSON");
        assert_eq!(error.to_string(), "not valid JSON: syntax error at line 2, column 3");
    }
}
