//! Stories, each held against a text in `tests/stories`, read and found true line by line: run with UPDATE=1 to
//! write them anew.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::anyhow;
use bytes::Bytes;
use rollbook_core::catalog::USERS;
use rollbook_core::delivery::{Delivery, MessageId};
use rollbook_core::event::parse;
use rollbook_core::merge::DeletedRows;
use rollbook_core::queue::{Consumer as _, Producer as _, QueueAdmin, Settlement};
use rollbook_core::retry::{Failure, Reason};
use rollbook_core::store::{RetentionChoices, Store as _};
use rollbook_core::time::{Clock, Timestamp};
use rollbook_core::trace::Traceparent;
use rollbook_testkit::clock::ManualClock;
use rollbook_testkit::events::{START, deleted, delivery_of, event, membership, organization, user};
use rollbook_testkit::memory::queue::MemoryQueue;
use rollbook_testkit::memory::store::MemoryStore;
use serde_json::{Value, json};

use super::story::{Ask, Ledger, Story, gather};
use super::{json, text};
use rollbook_testkit::queues::{all_of, request};

const SECOND: i64 = 1_000;
const MINUTE: i64 = 60 * SECOND;
const HOUR: i64 = 60 * MINUTE;
const DAY: i64 = 24 * HOUR;
/// The deliveries that came in a trace, and which it is.
const TRACED: [&str; 2] = ["msg_parked", "msg_retry"];
const TRACE: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
/// What the events hold and no story may.
const PERSONAL: [&str; 6] = ["Ines", "ines@", "Okafor", "example", "Kilnworks", "5550100"];

struct Stage {
    clock: Arc<ManualClock>,
    store: MemoryStore,
    queue: Arc<MemoryQueue>,
}

impl Stage {
    fn new() -> Self {
        let clock = Arc::new(ManualClock::new(Timestamp::from_millis(START)));
        let for_port = || -> Arc<dyn Clock> { clock.clone() };
        let (store, queue) = (MemoryStore::new(for_port()), Arc::new(MemoryQueue::new(100, for_port())));
        Self { clock, store, queue }
    }

    /// A delivery that came so much later than Clerk made it, and was applied 12 ms after that.
    async fn applied(&self, id: &str, event: &Value, came_after: i64, attempt: u32) {
        let made_at = event["timestamp"].as_i64().expect("a time");
        let received_at = Timestamp::from_millis(made_at + came_after);
        let mut lease = delivery_of(id, event);
        (lease.received_at, lease.attempt) = (received_at, attempt);
        let change = parse(&lease, None).expect("the event can be read").change;
        self.clock.set(received_at.plus(Duration::from_millis(12)));
        self.store.apply_many(&[change]).await.expect("it is applied");
    }

    /// A delivery that lies in the queue.
    async fn queued(&self, id: &str, body: &str) {
        let body = Bytes::copy_from_slice(body.as_bytes());
        let traceparent =
            TRACED.contains(&id).then(|| Traceparent::parse(TRACE.as_bytes()).expect("a trace"));
        let delivery = Delivery { id: MessageId::new(id), received_at: self.clock.now(), traceparent, body };
        all_of(self.queue.enqueue_many(&[delivery]).await).expect("it is taken");
    }

    /// A worker takes the oldest message, and ends so with it.
    async fn settled(&self, settlement: Option<Settlement>) {
        let lease_for = Duration::from_secs(60);
        let request = request(1, lease_for, Duration::ZERO);
        let lease = self.queue.lease(request).await.expect("it is leased").pop().expect("a message");
        if let Some(settlement) = settlement {
            all_of(self.queue.settle_many(&[(lease, settlement)]).await).expect("it is settled");
        }
    }

    async fn story(&self, id: &str) -> Story {
        let ledger = Ledger { is_on: true, kept_for: Some(Duration::from_secs(7 * 86_400)) };
        let ask = Ask { id, limit: 50, scan: 1_000, ledger, now: self.clock.now() };
        self.told(&ask).await
    }

    async fn told(&self, ask: &Ask<'_>) -> Story {
        let queue: Arc<dyn QueueAdmin> = self.queue.clone();
        gather(&self.store, Ok(queue), ask).await.expect("the store answers")
    }
}

/// Holds a story against its file.
#[track_caller]
fn reads(name: &str, story: &Story) {
    let told = text::tell(story);
    for personal in PERSONAL {
        assert!(!told.contains(personal) && !json::tell(story).to_string().contains(personal), "{personal}");
    }
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/stories").join(format!("{name}.txt"));
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(&file, &told).expect("it is written");
    }
    let expected = std::fs::read_to_string(&file).unwrap_or_default();
    assert_eq!(told, expected, "not as {} says (UPDATE=1 writes it anew):\n{told}", file.display());
}

fn refused() -> Failure {
    Failure {
        reason: Reason::StoreRefused,
        detail: "the store refuses the values: a trigger of users raised P0001".to_owned(),
        event_type: Some("user.updated".to_owned()),
    }
}

fn updated(at: i64) -> Value {
    event("user.updated", at, &user("user_1", at))
}

async fn signed_up(stage: &Stage) {
    stage.applied("msg_1", &event("user.created", START, &user("user_1", START)), 400, 1).await;
}

#[tokio::test]
async fn a_sign_up_that_went_well_and_was_changed() {
    let stage = Stage::new();
    signed_up(&stage).await;
    let made = event("organization.created", START + MINUTE, &organization("org_1", START + MINUTE));
    stage.applied("msg_2", &made, 380, 1).await;
    let joined = membership("orgmem_1", "org_1", "user_1", START + MINUTE);
    stage.applied("msg_3", &event("organizationMembership.created", START + MINUTE, &joined), 420, 1).await;
    stage.applied("msg_4", &updated(START + 41 * MINUTE), 31 * SECOND, 3).await;
    reads("a_sign_up_that_was_changed", &stage.story("user_1").await);
    reads("an_organization_with_a_member", &stage.story("org_1").await);
    reads("a_membership", &stage.story("orgmem_1").await);
}

#[tokio::test]
async fn an_update_that_came_late_and_a_duplicate() {
    let stage = Stage::new();
    signed_up(&stage).await;
    stage.applied("msg_3", &updated(START + 5 * MINUTE), 390, 1).await;
    stage.applied("msg_4", &updated(START + 5 * MINUTE), 2 * MINUTE, 1).await;
    stage.applied("msg_2", &updated(START + MINUTE), 27 * HOUR + 35 * MINUTE, 1).await;
    reads("a_late_update_and_a_duplicate", &stage.story("user_1").await);
}

#[tokio::test]
async fn a_deleted_user_whose_old_update_came_after() {
    let stage = Stage::new();
    signed_up(&stage).await;
    for number in [1, 2] {
        let (membership_id, organization_id) = (format!("orgmem_{number}"), format!("org_{number}"));
        let joined = membership(&membership_id, &organization_id, "user_1", START + MINUTE);
        let joined = event("organizationMembership.created", START + MINUTE, &joined);
        stage.applied(&format!("msg_join_{number}"), &joined, 300, 1).await;
    }
    let left = membership("orgmem_1", "org_1", "user_1", START + MINUTE);
    let left = event("organizationMembership.deleted", START + HOUR, &left);
    stage.applied("msg_left", &left, 300, 1).await;
    let gone = event("user.deleted", START + DAY, &deleted("user", "user_1"));
    stage.applied("msg_gone", &gone, 350, 1).await;
    stage.applied("msg_late", &updated(START + 20 * HOUR), 5 * HOUR, 1).await;
    stage.applied("msg_later", &updated(START + 10 * HOUR), 16 * HOUR, 1).await;
    reads("a_deleted_user_whose_old_updates_came_after", &stage.story("user_1").await);
}

#[tokio::test]
async fn a_deletion_without_content_says_that_none_is_stored() {
    let stage = Stage::new();
    let gone = event("user.deleted", START + DAY, &deleted("user", "user_1"));
    stage.applied("msg_gone", &gone, 350, 1).await;
    let told = text::tell(&stage.story("user_1").await);
    assert!(told.contains(". No content is stored: it never arrived, or it was erased.\n"), "{told}");
}

#[tokio::test]
async fn a_parked_delivery_and_one_that_waits_for_its_retry() {
    let stage = Stage::new();
    signed_up(&stage).await;
    stage.queued("msg_parked", &updated(START + MINUTE).to_string()).await;
    stage.settled(Some(Settlement::DeadLetter { failure: refused() })).await;
    stage
        .queued("msg_torn", "{\"type\":\"user.updated\",\"data\":{\"id\":\"user_1\",\"first_name\":\"In")
        .await;
    let torn = Failure {
        reason: Reason::InvalidJson,
        detail: "not valid JSON, at line 1 column 63".to_owned(),
        event_type: None,
    };
    stage.settled(Some(Settlement::DeadLetter { failure: torn })).await;
    stage.clock.advance(Duration::from_secs(1));
    stage.queued("msg_retry", &updated(START + 2 * MINUTE).to_string()).await;
    let after = Duration::from_secs(245);
    stage.settled(Some(Settlement::Retry { after, failure: refused() })).await;
    stage.queued("msg_leased", &updated(START + 3 * MINUTE).to_string()).await;
    stage.settled(None).await;
    stage.clock.advance(Duration::from_secs(1));
    stage.queued("msg_new", &updated(START + 4 * MINUTE).to_string()).await;
    let joined = membership("orgmem_1", "org_1", "user_1", START + MINUTE);
    stage.queued("msg_joined", &event("organizationMembership.created", START, &joined).to_string()).await;
    stage.queued("msg_other", &event("user.created", START, &user("user_2", START)).to_string()).await;
    reads("a_parked_delivery_and_one_that_waits", &stage.story("user_1").await);
    reads("a_delivery_that_is_parked", &stage.story("msg_parked").await);
    reads("a_delivery_that_waits", &stage.story("msg_retry").await);
    for (id, place, traceparent) in [
        ("msg_parked", "dead_letters", json!(TRACE)),
        ("msg_retry", "messages", json!(TRACE)),
        ("msg_new", "messages", Value::Null),
    ] {
        let told = json::tell(&stage.story(id).await);
        assert_eq!(told["queue"][place][0]["svix_id"], id);
        assert_eq!(told["queue"][place][0]["traceparent"], traceparent, "{id}");
    }
}

#[tokio::test]
async fn an_erased_user_with_later_replays() {
    let stage = Stage::new();
    signed_up(&stage).await;
    let joined = membership("orgmem_1", "org_1", "user_1", START + MINUTE);
    let joined = event("organizationMembership.created", START + MINUTE, &joined);
    stage.applied("msg_2", &joined, 300, 1).await;
    stage.clock.set(Timestamp::from_millis(START + 2 * DAY));
    let subjects = [(&USERS, "user_1".to_owned())];
    stage.store.erase(&subjects, stage.clock.now()).await.expect("it is erased");
    reads("an_erased_user", &stage.story("user_1").await);
    let replay = 3 * DAY;
    stage.applied("msg_1", &event("user.created", START, &user("user_1", START)), replay, 1).await;
    stage.applied("msg_2", &joined, replay, 1).await;
    stage.applied("msg_5", &updated(START + 4 * DAY), 500, 1).await;
    reads("an_erased_user_with_later_replays", &stage.story("user_1").await);
    reads("a_membership_of_an_erased_user", &stage.story("orgmem_1").await);
}

#[tokio::test]
async fn what_nobody_has_heard_of() {
    let stage = Stage::new();
    reads("an_unknown_user", &stage.story("user_unknown").await);
    reads("an_unknown_id", &stage.story("unknown").await);
    reads("an_unknown_delivery", &stage.story("msg_unknown").await);
    assert_eq!(json::tell(&stage.story("msg_unknown").await)["is_known"], false);
}

#[tokio::test]
async fn deliveries_by_their_ids() {
    let stage = Stage::new();
    signed_up(&stage).await;
    stage.applied("msg_2", &updated(START + 5 * MINUTE), 390, 1).await;
    stage.applied("msg_3", &updated(START + MINUTE), 10 * MINUTE, 1).await;
    reads("a_delivery_that_came_too_late", &stage.story("msg_3").await);
    let code = json!({ "id": "ema_1", "to_email_address": "ines@work.example", "body": "123456" });
    stage.applied("msg_4", &event("email.created", START, &code), 300, 1).await;
    reads("a_delivery_that_is_never_kept", &stage.story("msg_4").await);
    stage.applied("evt-5", &event("user.frobnicated", START, &json!({ "id": "user_1" })), 300, 1).await;
    reads("a_delivery_of_an_unknown_type", &stage.story("evt-5").await);
}

#[tokio::test]
async fn without_a_ledger_nothing_is_called_missing() {
    let stage = Stage::new();
    stage.store.keep(RetentionChoices { ledger: false, deleted_rows: DeletedRows::Keep });
    signed_up(&stage).await;
    let ledger = Ledger { is_on: false, kept_for: None };
    for (id, name) in [("user_1", "a_user_without_a_ledger"), ("msg_1", "a_delivery_without_a_ledger")] {
        let ask = Ask { id, limit: 50, scan: 1_000, ledger, now: stage.clock.now() };
        reads(name, &stage.told(&ask).await);
    }
}

#[tokio::test]
async fn limits_are_told() {
    let stage = Stage::new();
    signed_up(&stage).await;
    for number in 2..6 {
        let joined = membership(&format!("orgmem_{number}"), "org_1", "user_1", START + number);
        let joined = event("organizationMembership.created", START + number * MINUTE, &joined);
        stage.applied(&format!("msg_m{number}"), &joined, 1, 1).await;
        stage.applied(&format!("msg_{number}"), &updated(START + number * MINUTE), 300, 1).await;
        stage.queued(&format!("msg_q{number}"), &updated(START + number * HOUR).to_string()).await;
    }
    let ledger = Ledger { is_on: true, kept_for: None };
    let ask = Ask { id: "user_1", limit: 2, scan: 3, ledger, now: stage.clock.now() };
    reads("a_story_that_is_cut_short", &stage.told(&ask).await);
}

#[tokio::test]
async fn a_queue_that_does_not_answer_leaves_the_rest_of_the_story() {
    let stage = Stage::new();
    signed_up(&stage).await;
    let ledger = Ledger { is_on: true, kept_for: None };
    let ask = Ask { id: "user_1", limit: 2, scan: 3, ledger, now: stage.clock.now() };
    let story = gather(&stage.store, Err(anyhow!("127.0.0.1:1 refuses the connection")), &ask).await;
    let story = story.expect("the store answers");
    reads("a_story_without_its_queue", &story);
    assert_eq!(json::tell(&story)["queue"]["error"], "127.0.0.1:1 refuses the connection");
}

#[tokio::test]
async fn programs_get_the_same_facts() {
    let stage = Stage::new();
    signed_up(&stage).await;
    stage.applied("msg_2", &updated(START + 5 * MINUTE), 390, 1).await;
    stage.applied("msg_3", &updated(START + MINUTE), 10 * MINUTE, 2).await;
    let told = json::tell(&stage.story("user_1").await);
    assert_eq!(told["subject"]["table"], "users");
    assert_eq!(told["subject"]["row"]["state"], "alive");
    assert_eq!(told["subject"]["row"]["columns"]["synced_by"], "msg_2");
    let late = &told["deliveries"][2];
    assert_eq!(
        (&late["svix_id"], &late["outcome"], &late["attempts"]),
        (&json!("msg_3"), &json!("stale"), &json!(2))
    );
    assert_eq!((&late["received_after_ms"], &late["applied_after_ms"]), (&json!(10 * MINUTE), &json!(12)));
    assert_eq!(late["reason"]["code"], "older");
    assert_eq!(late["reason"]["other_svix_id"], "msg_2");
    assert_eq!(late["reason"]["other_made_later_by_ms"], 4 * MINUTE);
}
