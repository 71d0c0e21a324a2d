//! Lookups in a store in memory.

use std::sync::Arc;

use rollbook_core::catalog::{ORGANIZATION_INVITATIONS, WAITLIST_ENTRIES};
use rollbook_core::store::Store as _;
use rollbook_core::time::Timestamp;
use rollbook_testkit::clock::ManualClock;
use rollbook_testkit::events::{START, change_of, event, user};
use rollbook_testkit::memory::store::MemoryStore;
use serde_json::json;

use super::*;

async fn store_with(events: &[Value]) -> MemoryStore {
    let store = MemoryStore::new(Arc::new(ManualClock::new(Timestamp::from_millis(START))));
    for (number, event) in events.iter().enumerate() {
        store.apply_many(&[change_of(&format!("msg_{number}"), event)]).await.expect("it is applied");
    }
    store
}

fn person(id: &str, addresses: &[(&str, bool)]) -> Value {
    let mut object = user(id, START);
    let list: Vec<Value> = addresses
        .iter()
        .enumerate()
        .map(|(number, (address, is_verified))| {
            let status = if *is_verified { "verified" } else { "unverified" };
            json!({ "id": format!("idn_{number}"), "email_address": address, "verification": { "status": status } })
        })
        .collect();
    object["email_addresses"] = Value::Array(list);
    object["phone_numbers"] = json!([]);
    object["primary_email_address_id"] = json!("idn_0");
    object["username"] = json!(format!("Name-{id}"));
    object["external_id"] = json!(format!("Ext-{id}"));
    event("user.created", START, &object)
}

fn organization(id: &str, slug: &str) -> Value {
    event(
        "organization.created",
        START,
        &json!({ "id": id, "name": "One", "slug": slug, "updated_at": START }),
    )
}

fn invitation(id: &str, address: &str) -> Value {
    let object =
        json!({ "id": id, "organization_id": "org_1", "email_address": address, "status": "pending" });
    event("organizationInvitation.created", START, &object)
}

async fn found(store: &MemoryStore, text: &str) -> Lookup {
    find(store, text, Some(SEARCH_FOR)).await.expect("the store answers")
}

fn short(lookup: &Lookup) -> Vec<(&str, NamedBy)> {
    lookup.matches.iter().map(|found| (found.id.as_str(), found.by)).collect()
}

#[tokio::test]
async fn a_slug_a_username_and_an_external_id_name_their_row_and_only_the_external_id_has_a_case() {
    let store =
        store_with(&[person("user_1", &[("a@x.example", true)]), organization("org_1", "acme")]).await;
    for (text, expected) in [
        ("acme", Some(("org_1", NamedBy::Slug))),
        ("ACME", Some(("org_1", NamedBy::Slug))),
        ("acm", None),
        ("name-user_1", Some(("user_1", NamedBy::Username))),
        ("Ext-user_1", Some(("user_1", NamedBy::ExternalId))),
        ("ext-user_1", None),
        ("One", None),
    ] {
        let lookup = found(&store, text).await;
        assert_eq!(short(&lookup).first().copied(), expected, "{text}");
        assert_eq!(lookup.only().map(|one| one.id.as_str()), expected.map(|(id, _)| id), "{text}");
    }
}

#[tokio::test]
async fn a_primary_and_a_verified_address_name_their_user_in_any_case_and_a_listed_one_is_never_enough() {
    let store = store_with(&[
        person("user_1", &[("ann@x.example", true), ("second@x.example", true), ("victim@x.example", false)]),
        invitation("orginv_1", "Ann@x.example"),
    ])
    .await;
    let lookup = found(&store, " ANN@X.example ").await;
    assert_eq!(short(&lookup), [("user_1", NamedBy::PrimaryAddress), ("orginv_1", NamedBy::InvitedAddress)]);
    assert_eq!(
        lookup.only().map(|one| one.resource),
        Some(&USERS),
        "the invitation is about the same person"
    );
    let lookup = found(&store, "second@x.example").await;
    assert_eq!(short(&lookup), [("user_1", NamedBy::VerifiedAddress)]);
    let lookup = found(&store, "victim@x.example").await;
    assert_eq!(short(&lookup), [("user_1", NamedBy::UnverifiedAddress)]);
    assert_eq!(lookup.only(), None, "anyone can list an address");
}

#[tokio::test]
async fn two_users_and_two_invitations_are_several_subjects() {
    let store = store_with(&[
        person("user_1", &[("a@x.example", true)]),
        person("user_2", &[("other@x.example", true), ("a@x.example", true)]),
        invitation("orginv_1", "b@x.example"),
        invitation("orginv_2", "b@x.example"),
        invitation("orginv_3", "c@x.example"),
    ])
    .await;
    let users = found(&store, "a@x.example").await;
    assert_eq!((users.matches.len(), users.only()), (2, None));
    let invitations = found(&store, "b@x.example").await;
    assert_eq!((invitations.matches.len(), invitations.only()), (2, None));
    let one = found(&store, "c@x.example").await;
    assert_eq!(one.only().map(|one| one.resource), Some(&ORGANIZATION_INVITATIONS));
}

#[tokio::test]
async fn a_search_that_ended_early_names_no_subject_for_certain() {
    let mut lookup = found(&store_with(&[organization("org_1", "acme")]).await, "acme").await;
    assert!(lookup.only().is_some());
    lookup.is_cut_short = true;
    assert_eq!(lookup.only(), None);
}

#[tokio::test]
async fn more_rows_than_are_read_make_a_search_end_early() {
    let entry = |number: usize| {
        let object =
            json!({ "id": format!("wle_{number:04}"), "email_address": "a@x.example", "status": "pending" });
        event("waitlistEntry.created", START, &object)
    };
    let entries: Vec<Value> = (0..CANDIDATES_MAX - 1).map(entry).collect();
    let store = store_with(&entries).await;
    let lookup = found(&store, "a@x.example").await;
    assert_eq!((lookup.matches.len(), lookup.is_cut_short), (CANDIDATES_MAX - 1, false));
    assert!(lookup.matches.iter().all(|found| *found.resource == WAITLIST_ENTRIES));
    store.apply_many(&[change_of("msg_last", &entry(9_999))]).await.expect("it is applied");
    assert!(found(&store, "a@x.example").await.is_cut_short);
}

#[test]
fn an_address_has_an_at_sign_or_is_a_phone_number_with_its_country_code() {
    for text in ["ann@x.example", "+447700900113", "+1234567"] {
        assert!(is_address(text), "{text}");
    }
    for text in ["acme", "+123456", "+1234567890123456", "447700900113", "+44x7700900", "user_1", ""] {
        assert!(!is_address(text), "{text}");
    }
}
