//! Ledger entries of deliveries.

use rollbook_core::catalog::RESOURCES;
use rollbook_core::change::Applied::{self, Deleted, Ignored, Inserted, Stale, Unchanged, Updated};
use rollbook_core::event::parse;
use serde_json::{Value, json};

use super::{Mirror, StoreHarness};
use crate::events::{START, deleted, delivery_of, event, user};

fn user_event(event_type: &str, at: i64) -> Value {
    event(event_type, START + at, &user("user_1", START + at))
}

/// Fields of a ledger entry: type, subject, outcome and attempts.
type Entry = (String, Option<String>, Applied, u32);

fn entry(event_type: &str, subject_id: Option<&str>, outcome: Applied) -> Entry {
    (event_type.into(), subject_id.map(str::to_owned), outcome, 1)
}

async fn said_of<H: StoreHarness>(mirror: &Mirror<H>, id: &str) -> Option<Entry> {
    let entry = mirror.ledger(id).await?;
    assert_eq!(entry.message_id.as_str(), id);
    Some((entry.event_type, entry.subject_id, entry.outcome, entry.attempts))
}

pub async fn the_ledger_has_the_outcome_of_each_delivery(mut mirror: Mirror<impl StoreHarness>) {
    let gone = event("user.deleted", START + 3, &deleted("user", "user_1"));
    let deliveries = [
        ("msg_1", user_event("user.created", 1), Inserted),
        ("msg_2", user_event("user.updated", 2), Updated),
        ("msg_0", user_event("user.updated", 0), Stale),
        ("msg_2b", user_event("user.updated", 2), Unchanged),
        ("msg_3", gone, Deleted),
    ];
    for (id, event, outcome) in &deliveries {
        assert_eq!(mirror.apply_one(id, event.clone()).await, *outcome);
        let expected = entry(event["type"].as_str().expect("a type"), Some("user_1"), *outcome);
        assert_eq!(said_of(&mirror, id).await, Some(expected), "as soon as the call has returned");
    }
    assert_eq!(mirror.ledger("msg_4").await, None);
    mirror.harness.reopen().await;
    for (id, _, outcome) in &deliveries {
        assert_eq!(mirror.ledger(id).await.map(|entry| entry.outcome), Some(*outcome));
    }
}

pub async fn a_redelivery_keeps_the_first_ledger_entry(mirror: Mirror<impl StoreHarness>) {
    mirror.apply_one("msg_1", user_event("user.created", 1)).await;
    mirror.apply_one("msg_2", user_event("user.updated", 2)).await;
    let again = [("msg_2", "user.updated", 2, Unchanged), ("msg_1", "user.created", 1, Stale)];
    for (id, event_type, at, outcome) in again {
        let mut delivery = delivery_of(id, &user_event(event_type, at));
        delivery.attempt = 4;
        let change = parse(&delivery.body, None).expect("the event can be read").into_change(&delivery);
        assert_eq!(mirror.apply_changes(&[change]).await, [outcome]);
    }
    assert_eq!(said_of(&mirror, "msg_1").await, Some(entry("user.created", Some("user_1"), Inserted)));
    assert_eq!(said_of(&mirror, "msg_2").await, Some(entry("user.updated", Some("user_1"), Updated)));
}

pub async fn a_delivery_twice_in_one_batch_has_one_entry(mirror: Mirror<impl StoreHarness>) {
    let created = user_event("user.created", 1);
    let outcomes = mirror.apply(&[("msg_1", created.clone()), ("msg_1", created)]).await;
    assert_eq!(outcomes, [Inserted, Unchanged]);
    assert_eq!(said_of(&mirror, "msg_1").await, Some(entry("user.created", Some("user_1"), Inserted)));
}

pub async fn ignored_events_are_in_the_ledger_and_nowhere_else(mirror: Mirror<impl StoreHarness>) {
    let password = json!({ "id": "ema_1", "otp_code": "424242", "to_email_address": "ines@work.example" });
    let batch = [
        ("msg_1", event("user.frobnicated", START, &user("user_1", START))),
        ("msg_2", event("email.created", START, &password)),
        ("msg_3", event("something.new", START, &json!({}))),
    ];
    assert_eq!(mirror.apply(&batch).await, [Ignored; 3]);
    assert_eq!(said_of(&mirror, "msg_1").await, Some(entry("user.frobnicated", Some("user_1"), Ignored)));
    assert_eq!(said_of(&mirror, "msg_2").await, Some(entry("email.created", None, Ignored)));
    assert_eq!(said_of(&mirror, "msg_3").await, Some(entry("something.new", None, Ignored)));
    for resource in RESOURCES {
        assert_eq!(mirror.rows(resource, None, 10).await, []);
    }
}

pub async fn an_empty_batch_is_fine(mirror: Mirror<impl StoreHarness>) {
    assert_eq!(mirror.apply(&[]).await, []);
}

pub async fn a_store_that_is_there_answers_a_ping(mut mirror: Mirror<impl StoreHarness>) {
    assert_eq!(mirror.harness.store().ping().await, Ok(()));
    mirror.harness.reopen().await;
    assert_eq!(mirror.harness.store().ping().await, Ok(()));
}
