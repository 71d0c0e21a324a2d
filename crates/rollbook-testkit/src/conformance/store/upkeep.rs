//! Retention, erasure by an operator, and finding the rows of a person.

use std::sync::Mutex;
use std::time::Duration;

use rollbook_core::catalog::{
    ORGANIZATION_INVITATIONS, ORGANIZATION_MEMBERSHIPS, ORGANIZATIONS, SUBSCRIPTIONS, USERS, WAITLIST_ENTRIES,
};
use rollbook_core::change::Applied::{Deleted, Ignored, Inserted, Stale};
use rollbook_core::store::{ErasedCounts, LedgerEntry, RetentionChoices, RetentionLimits, RetentionStep};
use rollbook_core::time::{Clock as _, Timestamp};
use serde_json::{Value, json};

use super::deleting::assert_bare;
use super::{Mirror, StoreHarness};
use crate::events::{START, deleted, event, membership, organization, user};

fn created(id: &str, at: i64) -> Value {
    event("user.created", START + at, &user(id, START + at))
}

fn user_deleted(at: i64) -> Value {
    event("user.deleted", START + at, &deleted("user", "user_1"))
}

fn joined(id: &str) -> Value {
    event("organizationMembership.created", START, &membership(id, "org_1", "user_1", START))
}

fn subscribed(id: &str) -> Value {
    let payer = json!({ "user_id": "user_1", "email": "ines@work.example" });
    let data = json!({ "id": id, "payer": payer, "status": "active", "updated_at": START });
    event("subscription.created", START, &data)
}

async fn story<H: StoreHarness>(mirror: &Mirror<H>, id: &str, limit: usize) -> Vec<String> {
    let entries = mirror.harness.store().deliveries(id, limit).await.expect("the store reads its ledger");
    entries.into_iter().map(|entry| entry.message_id.as_str().to_owned()).collect()
}

async fn retain<H: StoreHarness>(mirror: &Mirror<H>, due: RetentionLimits) -> RetentionStep {
    mirror.harness.store().retain(&due).await.expect("the store tidies")
}

/// Limits with which retention removes nothing.
const NOTHING: RetentionLimits =
    RetentionLimits { ledger_before: None, deleted_before: None, changes_before: None, limit: 100 };

pub async fn the_ledger_returns_all_fields_of_an_entry(mirror: Mirror<impl StoreHarness>) {
    mirror.apply_one("msg_1", created("user_1", 5)).await;
    let now = mirror.harness.clock().now();
    let LedgerEntry { event_at, received_at, applied_at, .. } =
        mirror.ledger("msg_1").await.expect("there is an entry");
    assert_eq!((event_at, applied_at), (Timestamp::from_millis(START + 5), now));
    assert_eq!(received_at, crate::events::delivery_of("msg_1", &json!({})).received_at);
}

pub async fn the_history_of_a_subject_is_in_order_and_ends_with_the_latest_entry(
    mirror: Mirror<impl StoreHarness>,
) {
    for (id, event) in
        [("msg_c", created("user_1", 0)), ("msg_b", created("user_1", 5)), ("msg_a", user_deleted(9))]
    {
        mirror.apply_one(id, event).await;
        mirror.harness.clock().advance(Duration::from_millis(1));
    }
    mirror.apply_one("msg_x", created("user_2", 0)).await;
    assert_eq!(story(&mirror, "user_1", 10).await, ["msg_c", "msg_b", "msg_a"]);
    assert_eq!(story(&mirror, "user_1", 2).await, ["msg_b", "msg_a"]);
    assert_eq!(story(&mirror, "user_3", 2).await, Vec::<String>::new());
}

pub async fn rows_are_found_by_the_ids_of_their_parents(mirror: Mirror<impl StoreHarness>) {
    let other =
        event("organizationMembership.created", START, &membership("orgmem_3", "org_1", "user_2", START));
    mirror.apply(&[("msg_1", joined("orgmem_1")), ("msg_2", joined("orgmem_2")), ("msg_3", other)]).await;
    let find = async |value: &str, limit| {
        let store = mirror.harness.store();
        let found = store.rows_where(&ORGANIZATION_MEMBERSHIPS, "user_id", value, limit).await;
        found.expect("the store finds rows").into_iter().map(|row| row.id).collect::<Vec<_>>()
    };
    let mut found = find("user_1", 10).await;
    found.sort_unstable();
    assert_eq!(found, ["orgmem_1", "orgmem_2"]);
    assert_eq!(find("user_1", 1).await.len(), 1);
    assert_eq!(find("user_4", 1).await.len(), 0);
}

pub async fn rows_are_found_by_a_text_of_their_content_in_any_case_and_through_many_pages(
    mirror: Mirror<impl StoreHarness>,
) {
    let entry = |id: &str, address: &str| {
        event(
            "waitlistEntry.created",
            START,
            &json!({ "id": id, "email_address": address, "status": "pending" }),
        )
    };
    // More than a page of either engine, and those that are looked for at its ends and its middle.
    let many: Vec<String> = (0..450).map(|number| format!("wle_m{number:04}")).collect();
    let mut events: Vec<(&str, Value)> =
        many.iter().map(|id| (id.as_str(), entry(id, "other@x.example"))).collect();
    for (id, address) in [
        ("wle_a", "Ann.O_Neil@X.example"),
        ("wle_m0200x", "ANN.O_NEIL@X.EXAMPLE"),
        ("wle_n", "annxo1neil@x.example"),
        ("wle_u", "ÜNAL@x.example"),
        ("wle_z", "ann.o_neil@x.example"),
    ] {
        events.push((id, entry(id, address)));
    }
    mirror.apply(&events).await;
    let read = Mutex::new(Vec::new());
    let progress = |rows: u64| read.lock().expect("no panic").push(rows);
    let find = async |texts: &[&str], limit| {
        let texts: Vec<String> = texts.iter().map(|text| (*text).to_owned()).collect();
        read.lock().expect("no panic").clear();
        let found = mirror.harness.store().ids_holding(&WAITLIST_ENTRIES, &texts, limit, &progress).await;
        let mut found = found.expect("the store finds rows");
        found.sort_unstable();
        found
    };
    assert_eq!(find(&["ann.O_neil@x.example"], 10).await, ["wle_a", "wle_m0200x", "wle_z"]);
    assert_eq!(find(&["ann.o_neil@x.example", "ünal@x.example"], 10).await.len(), 4);
    assert_eq!(find(&["ann.o_neil@x.example"], 2).await.len(), 2);
    assert_eq!(find(&["nobody@x.example"], 10).await, [""; 0]);
    let steps = read.lock().expect("no panic").clone();
    assert!(steps.len() > 1 && steps.is_sorted() && steps.last() == Some(&455), "{steps:?}");
    assert_eq!(find(&[], 10).await, [""; 0]);
}

pub async fn a_ledger_that_is_switched_off_has_no_entries(mut mirror: Mirror<impl StoreHarness>) {
    mirror.harness.keep(RetentionChoices { ledger: false, ..RetentionChoices::default() }).await;
    assert_eq!(mirror.apply_one("msg_1", created("user_1", 0)).await, Inserted);
    assert_eq!(mirror.ledger("msg_1").await, None);
    assert!(mirror.find(&USERS, "user_1").await.is_some());
}

pub async fn old_ledger_entries_are_removed_in_small_steps(mirror: Mirror<impl StoreHarness>) {
    for id in ["msg_1", "msg_2", "msg_3"] {
        mirror.apply_one(id, created("user_1", 0)).await;
    }
    mirror.harness.clock().advance(Duration::from_secs(60));
    mirror.apply_one("msg_4", created("user_1", 0)).await;
    let now = mirror.harness.clock().now();
    assert_eq!(retain(&mirror, NOTHING).await, RetentionStep::default());
    let due = RetentionLimits { ledger_before: Some(now), limit: 2, ..NOTHING };
    assert_eq!(retain(&mirror, due).await, RetentionStep { ledger: 2, ..RetentionStep::default() });
    assert_eq!(retain(&mirror, due).await, RetentionStep { ledger: 1, ..RetentionStep::default() });
    assert_eq!(retain(&mirror, due).await, RetentionStep::default(), "an entry at exactly that time stays");
    assert!(mirror.ledger("msg_4").await.is_some());
    assert!(mirror.find(&USERS, "user_1").await.is_some(), "rows stay when their ledger entries are removed");
}

pub async fn the_content_of_old_deleted_rows_is_removed_and_never_restored(
    mirror: Mirror<impl StoreHarness>,
) {
    mirror
        .apply(&[("msg_1", created("user_1", 0)), ("msg_2", joined("orgmem_1")), ("msg_3", user_deleted(7))])
        .await;
    mirror.apply_one("msg_4", created("user_2", 0)).await;
    let due = |at| RetentionLimits { deleted_before: Some(Timestamp::from_millis(START + at)), ..NOTHING };
    assert_eq!(retain(&mirror, due(7)).await, RetentionStep::default());
    assert_eq!(mirror.row(&USERS, "user_1").await["first_name"], "Ines");
    assert_eq!(retain(&mirror, due(8)).await, RetentionStep { rows: 1, ..RetentionStep::default() });
    assert_eq!(retain(&mirror, due(8)).await, RetentionStep::default());
    assert_bare(&mirror, &USERS, "user_1", START + 7, &[]).await;
    let links = ["organization_id", "user_id"];
    assert_bare(&mirror, &ORGANIZATION_MEMBERSHIPS, "orgmem_1", START + 7, &links).await;
    assert_eq!(mirror.apply_one("msg_5", created("user_1", 99)).await, Stale);
    assert_bare(&mirror, &USERS, "user_1", START + 7, &[]).await;
    assert_eq!(mirror.row(&USERS, "user_2").await["first_name"], "Ines", "rows that are not deleted stay");
}

pub async fn a_subject_that_an_operator_erased_is_never_restored(mirror: Mirror<impl StoreHarness>) {
    mirror
        .apply(&[
            ("msg_1", created("user_1", 0)),
            ("msg_2", joined("orgmem_1")),
            ("msg_3", subscribed("csub_1")),
        ])
        .await;
    mirror.apply_one("msg_4", created("user_2", 0)).await;
    let at = Timestamp::from_millis(START + 100);
    let erase = async |at| {
        let erased = mirror.harness.store().erase(&[(&USERS, "user_1".into())], at).await;
        erased.expect("the store erases")
    };
    assert_eq!(erase(at).await, ErasedCounts { rows: 3, ledger: 3 });
    assert_bare(&mirror, &USERS, "user_1", START + 100, &[]).await;

    // Changes at or below the erasure floor are ignored. Newer ones find the subject erased. Child rows
    // arrive without content.
    let late = [
        ("msg_5", created("user_1", 100)),
        ("msg_6", created("user_1", 101)),
        ("msg_7", joined("orgmem_2")),
        ("msg_8", subscribed("csub_2")),
    ];
    assert_eq!(mirror.apply(&late).await, [Ignored, Stale, Inserted, Inserted]);
    assert_bare(&mirror, &USERS, "user_1", START + 100, &[]).await;
    for id in ["orgmem_1", "orgmem_2"] {
        let links = ["organization_id", "user_id"];
        assert_bare(&mirror, &ORGANIZATION_MEMBERSHIPS, id, START + 100, &links).await;
    }
    for id in ["csub_1", "csub_2"] {
        assert_bare(&mirror, &SUBSCRIPTIONS, id, START + 100, &["user_id"]).await;
    }
    assert!(mirror.ledger("msg_4").await.is_some() && mirror.ledger("msg_2").await.is_none());
    assert_eq!(mirror.row(&USERS, "user_2").await["first_name"], "Ines", "no other subject is erased");
}

pub async fn an_unknown_subject_can_be_erased_before_any_delivery(mirror: Mirror<impl StoreHarness>) {
    let subjects = [(&ORGANIZATIONS, "org_1".into()), (&WAITLIST_ENTRIES, "wle_1".into())];
    let at = Timestamp::from_millis(START + 100);
    let erased = mirror.harness.store().erase(&subjects, at).await;
    assert_eq!(erased, Ok(ErasedCounts { rows: 2, ledger: 0 }));
    let late = event("organization.created", START, &organization("org_1", START));
    assert_eq!(mirror.apply_one("msg_1", late).await, Ignored);
    assert_bare(&mirror, &ORGANIZATIONS, "org_1", START + 100, &[]).await;
    let gone = event("organization.deleted", START + 101, &deleted("organization", "org_1"));
    assert_eq!(mirror.apply_one("msg_2", gone).await, Deleted, "Clerk may say so later too");
    let invited = json!({ "id": "orginv_1", "organization_id": "org_1", "email_address": "a@b.example" });
    mirror.apply_one("msg_3", event("organizationInvitation.created", START, &invited)).await;
    assert_bare(&mirror, &ORGANIZATION_INVITATIONS, "orginv_1", START + 101, &["organization_id"]).await;
}
