//! Each row of the table of drift, and the edges of the content comparison.

use serde_json::{Value, json};

use super::*;
use crate::catalog::{ORGANIZATION_MEMBERSHIPS, ORGANIZATIONS, SUBSCRIPTION_ITEMS, USERS};
use crate::event::observed;
use crate::json::Document;
use crate::time::Timestamp;

const READ_AT: i64 = 1_785_400_000_000;

/// Whether both contents are the same.
fn is_same(resource: &Resource, observed: &Value, stored: &Value) -> bool {
    let [observed, stored] = [observed, stored].map(Document::from);
    is_same_content(resource, observed.value(), stored.value())
}

fn reading(value: &Value) -> SubjectChange {
    observed(&USERS, value, Timestamp::from_millis(READ_AT)).expect("an object with an id").0
}

fn user(updated_at: i64, first_name: &str) -> SubjectChange {
    reading(&json!({"id": "user_1", "first_name": first_name, "updated_at": updated_at}))
}

/// State of a row that a webhook of this user wrote, sent at `event_at`.
fn row(change: &SubjectChange, event_at: i64) -> SubjectState {
    let version = Version { event_at, ..change.version };
    SubjectState { content: Content::At(version), ..SubjectState::default() }
}

#[test]
fn an_object_without_a_row_or_with_a_placeholder_is_missing() {
    let seen = user(1_785_300_000_000, "Ines");
    assert_eq!(judge(&seen, None), Verdict::Drifted(Drift::Missing));
    assert_eq!(judge(&seen, Some(&SubjectState::default())), Verdict::Drifted(Drift::Missing));
}

#[test]
fn a_later_updated_at_is_stale_and_an_earlier_one_is_the_same() {
    let (old, new) = (user(1_785_300_000_000, "Ines"), user(1_785_300_000_001, "Ada"));
    assert_eq!(judge(&new, Some(&row(&old, 1_785_300_000_010))), Verdict::Drifted(Drift::Stale));
    assert_eq!(judge(&old, Some(&row(&new, 1_785_300_000_010))), Verdict::Same);
}

#[test]
fn equal_content_is_the_same_and_other_content_at_an_equal_updated_at_must_be_compared() {
    let (one, other) = (user(1_785_300_000_000, "Ines"), user(1_785_300_000_000, "Ada"));
    assert_eq!(judge(&one, Some(&row(&one, 1_785_300_000_010))), Verdict::Same);
    assert_eq!(judge(&one, Some(&row(&other, 1_785_300_000_010))), Verdict::CompareContent);
}

#[test]
fn a_number_with_too_many_digits_is_the_same_content_in_a_reading_and_in_an_event() {
    let user = r#"{"id":"user_1","public_metadata":{"n":[1e9999,1.5]}}"#;
    let event = format!(r#"{{"type":"user.updated","timestamp":1785300000000,"data":{user}}}"#);
    let parsed = crate::event::parse(event.as_bytes(), None).expect("an event");
    let crate::change::Effect::Merge(written) = parsed.effect else { panic!("a user") };
    let seen = reading(&serde_json::from_str(user).expect("JSON"));
    assert_eq!(seen.row, written.row);
    assert_eq!(seen.version.hash, written.version.hash);
}

#[test]
fn a_webhook_sent_after_the_reading_wins_at_an_equal_updated_at() {
    let (page, webhook) = (user(1_785_300_000_000, "Ines"), user(1_785_300_000_000, "Ada"));
    assert_eq!(judge(&page, Some(&row(&webhook, READ_AT))), Verdict::Same);
    assert_eq!(judge(&page, Some(&row(&webhook, READ_AT - 1))), Verdict::CompareContent);
}

#[test]
fn a_deleted_row_of_a_living_object_is_held_unless_the_deletion_is_later_than_the_reading() {
    let seen = user(1_785_300_000_000, "Ines");
    let deleted = |at| SubjectState { deleted_at: Some(at), ..row(&seen, 1_785_300_000_010) };
    assert_eq!(judge(&seen, Some(&deleted(READ_AT - 1))), Verdict::Drifted(Drift::WronglyDeleted));
    assert_eq!(judge(&seen, Some(&deleted(READ_AT))), Verdict::Same);
    let erased = SubjectState { content: Content::Erased, ..deleted(5) };
    assert_eq!(judge(&seen, Some(&erased)), Verdict::Drifted(Drift::WronglyDeleted));
}

#[test]
fn a_row_that_an_operator_erased_is_the_same_whatever_clerk_shows() {
    let erased = SubjectState::default().erased_by_operator(Timestamp::from_millis(5));
    assert_eq!(judge(&user(1_785_300_000_000, "Ines"), Some(&erased)), Verdict::Same);
}

#[test]
fn an_object_without_updated_at_is_compared_by_content() {
    let seen = reading(&json!({"id": "user_1", "first_name": "Ines"}));
    let other = reading(&json!({"id": "user_1", "first_name": "Ada"}));
    assert_eq!(judge(&seen, Some(&row(&other, READ_AT - 1))), Verdict::CompareContent);
}

#[test]
fn contents_are_compared_on_the_keys_that_both_have() {
    let same = |observed, stored| is_same(&USERS, &observed, &stored);
    assert!(same(json!({"id": "a", "only_api": 1}), json!({"id": "a", "only_webhook": 2})));
    assert!(!same(json!({"banned": true}), json!({"banned": false})));
    assert!(!same(json!({"banned": true}), json!({"banned": null})));
    let metadata = |value| json!({"public_metadata": {"plan": value}, "email_addresses": [{"id": "idn_1"}]});
    assert!(same(metadata(json!("pro")), metadata(json!("pro"))));
    assert!(!same(metadata(json!("pro")), metadata(json!("free"))));
    assert!(!same(json!({"email_addresses": []}), metadata(json!("pro"))), "one address less");
    assert!(same(json!({"email_addresses": [{"id": "idn_1", "new": 1}]}), metadata(json!(1))));
    assert!(!same(json!({"public_metadata": {}}), metadata(json!("pro"))), "metadata is compared as a whole");
    assert!(!same(metadata(json!("pro")), json!({"public_metadata": {}})), "in both directions");
}

#[test]
fn metadata_that_gained_or_lost_a_key_is_other_content() {
    let same = |observed, stored| {
        let user = |metadata| json!({ "id": "a", "public_metadata": metadata });
        is_same(&USERS, &user(observed), &user(stored))
    };
    assert!(same(json!({"plan": "pro"}), json!({"plan": "pro"})));
    assert!(!same(json!({}), json!({"plan": "pro"})));
    assert!(!same(json!({"plan": "pro", "seats": 2}), json!({"plan": "pro"})));
    assert!(!same(json!({"theme": "dark"}), json!({"plan": "pro"})));
    assert!(!same(json!({"nested": {"a": 1}}), json!({"nested": {"b": 1}})));
}

#[test]
fn volatile_paths_and_secrets_are_not_compared() {
    let organizations = [json!({"name": "A", "members_count": 2}), json!({"name": "A", "members_count": 3})];
    assert!(is_same(&ORGANIZATIONS, &organizations[0], &organizations[1]));
    let membership = |name, role| json!({"role": role, "organization": {"id": "org_1", "name": name}});
    let resource = &ORGANIZATION_MEMBERSHIPS;
    assert!(is_same(resource, &membership("A", "admin"), &membership("B", "admin")));
    assert!(!is_same(resource, &membership("A", "admin"), &membership("A", "member")));
    let metadata = |count| json!({"public_metadata": {"members_count": count}});
    assert!(!is_same(&ORGANIZATIONS, &metadata(1), &metadata(2)), "a path is not a name");
    assert!(SUBSCRIPTION_ITEMS.volatile.is_empty());
}

#[test]
fn numbers_are_compared_by_value_as_an_engine_may_write_them_in_another_form() {
    let same = |one: &str, other: &str| {
        let user = |n: &str| {
            let text = format!(r#"{{"id":"a","public_metadata":{{"n":[{n},{{"deep":{n}}}]}},"seats":{n}}}"#);
            serde_json::from_str(&text).expect("JSON")
        };
        is_same(&USERS, &user(one), &user(other))
    };
    for (sent, stored) in [("1e5", "100000"), ("-0", "0"), ("1.0", "1.00"), ("1e-3", "0.001")] {
        assert!(same(sent, stored), "{sent} {stored}");
    }
    assert!(!same("123456789012345678901234567890", "123456789012345678901234567891"), "every digit counts");
    assert!(!same("1", "true"));
}
