//! Histories, each compared with a text in `tests/histories`. Run with UPDATE=1 to write the texts again, and read them.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rollbook_core::catalog::USERS;
use rollbook_core::delivery::{Delivery, MessageId};
use rollbook_core::event::parse;
use rollbook_core::merge::DeletedRows;
use rollbook_core::queue::{Consumer as _, Producer as _, Settlement};
use rollbook_core::retry::{Failure, Reason};
use rollbook_core::store::{Erasure as _, RetentionChoices, Store as _, StoreError};
use rollbook_core::time::{Clock, Timestamp};
use rollbook_core::trace::Traceparent;
use rollbook_testkit::clock::ManualClock;
use rollbook_testkit::events::{START, deleted, delivery_of, event, membership, organization, user};
use rollbook_testkit::faults::{Fault, FaultyStore};
use rollbook_testkit::memory::queue::MemoryQueue;
use rollbook_testkit::memory::store::MemoryStore;
use serde_json::{Value, json};

use rollbook_operator::explain::{History, Ledger, Question, explain};

use super::{check, text};
use rollbook_testkit::queues::{all_of, request};

const SECOND: i64 = 1_000;
const MINUTE: i64 = 60 * SECOND;
const HOUR: i64 = 60 * MINUTE;
const DAY: i64 = 24 * HOUR;
/// Deliveries with a trace context, and that context.
const TRACED: [&str; 2] = ["msg_parked", "msg_retry"];
const TRACE: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
/// Personal data of the events, which no history may contain.
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

    /// Applies a delivery that was received `came_after` milliseconds after its event, 12 ms after its receipt.
    async fn applied(&self, id: &str, event: &Value, came_after: i64, attempt: u32) {
        let made_at = event["timestamp"].as_i64().expect("a time");
        let received_at = Timestamp::from_millis(made_at + came_after);
        let mut lease = delivery_of(id, event);
        (lease.received_at, lease.attempt) = (received_at, attempt);
        let change = parse(&lease.body, None).expect("the event can be read").into_change(&lease);
        self.clock.set(received_at.plus(Duration::from_millis(12)));
        self.store.apply_many(&[change]).await.expect("it is applied");
    }

    /// Puts a delivery into the queue.
    async fn queued(&self, id: &str, body: &str) {
        let body = Bytes::copy_from_slice(body.as_bytes());
        let traceparent =
            TRACED.contains(&id).then(|| Traceparent::parse(TRACE.as_bytes()).expect("a trace"));
        let delivery = Delivery { id: MessageId::new(id), received_at: self.clock.now(), traceparent, body };
        all_of(self.queue.enqueue_many(&[delivery]).await).expect("it is taken");
    }

    /// Leases the oldest message and settles it.
    async fn settled(&self, settlement: Option<Settlement>) {
        let lease_for = Duration::from_secs(60);
        let request = request(1, lease_for, Duration::ZERO);
        let lease = self.queue.lease(request).await.expect("it is leased").pop().expect("a message");
        if let Some(settlement) = settlement {
            all_of(self.queue.settle_many(&[(lease, settlement)]).await).expect("it is settled");
        }
    }

    async fn history(&self, id: &str) -> History {
        let ledger = Ledger { is_on: true, kept_for: Some(Duration::from_secs(7 * 86_400)) };
        self.answer(&Question { id, limit: 50, scan: 1_000, ledger }).await
    }

    async fn answer(&self, question: &Question<'_>) -> History {
        explain(&self.store, Ok(&*self.queue), &*self.clock, question).await
    }

    fn text(&self, history: &History) -> String {
        text::history(history, self.clock.now())
    }
}

fn json_of(history: &History) -> Value {
    serde_json::to_value(history).expect("it has a JSON form")
}

/// Compares a history with its file.
#[track_caller]
fn reads(stage: &Stage, name: &str, history: &History) {
    let shown = stage.text(history);
    for personal in PERSONAL {
        assert!(!shown.contains(personal) && !json_of(history).to_string().contains(personal), "{personal}");
    }
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/histories").join(format!("{name}.txt"));
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(&file, &shown).expect("it is written");
    }
    let expected = std::fs::read_to_string(&file).unwrap_or_default();
    assert_eq!(shown, expected, "not as {} says (UPDATE=1 writes it again):\n{shown}", file.display());
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
async fn a_sign_up_that_was_changed() {
    let stage = Stage::new();
    signed_up(&stage).await;
    let made = event("organization.created", START + MINUTE, &organization("org_1", START + MINUTE));
    stage.applied("msg_2", &made, 380, 1).await;
    let joined = membership("orgmem_1", "org_1", "user_1", START + MINUTE);
    stage.applied("msg_3", &event("organizationMembership.created", START + MINUTE, &joined), 420, 1).await;
    stage.applied("msg_4", &updated(START + 41 * MINUTE), 31 * SECOND, 3).await;
    reads(&stage, "a_sign_up_that_was_changed", &stage.history("user_1").await);
    reads(&stage, "an_organization_with_a_member", &stage.history("org_1").await);
    reads(&stage, "a_membership", &stage.history("orgmem_1").await);
}

#[tokio::test]
async fn a_user_with_values_that_do_not_fit() {
    let stage = Stage::new();
    let mut data = user("user_1", START);
    data["first_name"] = json!(["Ines"]);
    data["external_id"] = json!("ines@".repeat(500));
    data["banned"] = json!("Okafor");
    data["last_sign_in_at"] = json!(1e300);
    stage.applied("msg_1", &event("user.created", START, &data), 400, 1).await;
    let history = stage.history("user_1").await;
    reads(&stage, "a_user_with_values_that_do_not_fit", &history);
    let unfit = &json_of(&history)["subject"]["row"]["unfit"];
    assert_eq!(unfit[1], json!({ "column": "first_name", "why": "a list in place of a text" }), "{unfit}");
    assert_eq!(unfit.as_array().map(Vec::len), Some(4), "{unfit}");
    stage.applied("msg_2", &updated(START + MINUTE), 400, 1).await;
    assert!(json_of(&stage.history("user_1").await)["subject"]["row"].get("unfit").is_none());
}

#[tokio::test]
async fn an_update_that_came_late_and_a_duplicate() {
    let stage = Stage::new();
    signed_up(&stage).await;
    stage.applied("msg_3", &updated(START + 5 * MINUTE), 390, 1).await;
    stage.applied("msg_4", &updated(START + 5 * MINUTE), 2 * MINUTE, 1).await;
    stage.applied("msg_2", &updated(START + MINUTE), 27 * HOUR + 35 * MINUTE, 1).await;
    reads(&stage, "a_late_update_and_a_duplicate", &stage.history("user_1").await);
}

#[tokio::test]
async fn a_deleted_user_with_an_old_update_that_came_after() {
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
    reads(&stage, "a_deleted_user_with_old_updates_that_came_after", &stage.history("user_1").await);
}

#[tokio::test]
async fn a_deletion_without_content_says_that_none_is_stored() {
    let stage = Stage::new();
    let gone = event("user.deleted", START + DAY, &deleted("user", "user_1"));
    stage.applied("msg_gone", &gone, 350, 1).await;
    let shown = stage.text(&stage.history("user_1").await);
    assert!(shown.contains(". No content is stored: it never arrived, or it was erased.\n"), "{shown}");
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
    reads(&stage, "a_parked_delivery_and_one_that_waits", &stage.history("user_1").await);
    reads(&stage, "a_delivery_that_is_parked", &stage.history("msg_parked").await);
    reads(&stage, "a_delivery_that_waits", &stage.history("msg_retry").await);
    for (id, place, traceparent) in [
        ("msg_parked", "dead_letters", json!(TRACE)),
        ("msg_retry", "messages", json!(TRACE)),
        ("msg_new", "messages", Value::Null),
    ] {
        let shown = json_of(&stage.history(id).await);
        assert_eq!(shown["queue"][place][0]["svix_id"], id);
        assert_eq!(shown["queue"][place][0]["traceparent"], traceparent, "{id}");
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
    reads(&stage, "an_erased_user", &stage.history("user_1").await);
    let replay = 3 * DAY;
    stage.applied("msg_1", &event("user.created", START, &user("user_1", START)), replay, 1).await;
    stage.applied("msg_2", &joined, replay, 1).await;
    stage.applied("msg_5", &updated(START + 4 * DAY), 500, 1).await;
    reads(&stage, "an_erased_user_with_later_replays", &stage.history("user_1").await);
    reads(&stage, "a_membership_of_an_erased_user", &stage.history("orgmem_1").await);
}

#[tokio::test]
async fn unknown_ids() {
    let stage = Stage::new();
    reads(&stage, "an_unknown_user", &stage.history("user_unknown").await);
    reads(&stage, "an_unknown_id", &stage.history("unknown").await);
    reads(&stage, "an_unknown_delivery", &stage.history("msg_unknown").await);
    assert_eq!(json_of(&stage.history("msg_unknown").await)["is_known"], false);
}

#[tokio::test]
async fn deliveries_by_their_ids() {
    let stage = Stage::new();
    signed_up(&stage).await;
    stage.applied("msg_2", &updated(START + 5 * MINUTE), 390, 1).await;
    stage.applied("msg_3", &updated(START + MINUTE), 10 * MINUTE, 1).await;
    reads(&stage, "a_delivery_that_came_too_late", &stage.history("msg_3").await);
    let code = json!({ "id": "ema_1", "to_email_address": "ines@work.example", "body": "123456" });
    stage.applied("msg_4", &event("email.created", START, &code), 300, 1).await;
    reads(&stage, "a_delivery_that_is_never_kept", &stage.history("msg_4").await);
    stage.applied("evt-5", &event("user.frobnicated", START, &json!({ "id": "user_1" })), 300, 1).await;
    reads(&stage, "a_delivery_of_an_unknown_type", &stage.history("evt-5").await);
}

#[tokio::test]
async fn without_a_ledger_nothing_is_called_missing() {
    let stage = Stage::new();
    stage.store.keep(RetentionChoices { ledger: false, deleted_rows: DeletedRows::Keep });
    signed_up(&stage).await;
    let ledger = Ledger { is_on: false, kept_for: None };
    for (id, name) in [("user_1", "a_user_without_a_ledger"), ("msg_1", "a_delivery_without_a_ledger")] {
        let question = Question { id, limit: 50, scan: 1_000, ledger };
        reads(&stage, name, &stage.answer(&question).await);
    }
}

#[tokio::test]
async fn limits_are_shown() {
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
    let question = Question { id: "user_1", limit: 2, scan: 3, ledger };
    reads(&stage, "a_history_that_is_cut_short", &stage.answer(&question).await);
}

#[tokio::test]
async fn an_unreachable_queue_leaves_the_rest_of_the_history() {
    let stage = Stage::new();
    signed_up(&stage).await;
    let ledger = Ledger { is_on: true, kept_for: None };
    let question = Question { id: "user_1", limit: 2, scan: 3, ledger };
    let error = "127.0.0.1:1 refuses the connection".to_owned();
    let history = explain(&stage.store, Err(error.clone()), &*stage.clock, &question).await;
    reads(&stage, "a_history_without_its_queue", &history);
    assert_eq!(json_of(&history)["queue"]["error"], error);
    assert!(check(&history).expect_err("a part is missing").to_string().contains("only the store is shown"));
}

/// Explains with a store that is unreachable.
async fn without_store(stage: &Stage, id: &str) -> History {
    let store = FaultyStore::new(Arc::new(MemoryStore::new(stage.clock.clone())), |_| {
        Fault::Fail(StoreError::Unavailable("127.0.0.1:2 refuses the connection".to_owned()))
    });
    let ledger = Ledger { is_on: true, kept_for: Some(Duration::from_secs(86_400)) };
    let question = Question { id, limit: 50, scan: 1_000, ledger };
    explain(&store, Ok(&*stage.queue), &*stage.clock, &question).await
}

#[tokio::test]
async fn an_unreachable_store_leaves_what_the_queue_knows_and_the_command_fails() {
    let stage = Stage::new();
    stage.queued("msg_new", &updated(START + MINUTE).to_string()).await;
    let history = without_store(&stage, "user_1").await;
    reads(&stage, "a_history_without_its_store", &history);
    let json = json_of(&history);
    assert_eq!(json["queue"]["messages"][0]["svix_id"], "msg_new");
    assert!(json["store"]["error"].as_str().is_some_and(|why| why.contains("127.0.0.1:2")), "{json}");
    let why = check(&history).expect_err("a part is missing").to_string();
    assert!(why.starts_with("the store could not be read, only the queue is shown: "), "{why}");
    reads(&stage, "a_delivery_without_its_store", &without_store(&stage, "msg_new").await);
    // Without the store nothing is known to be unknown.
    let unknown = json_of(&without_store(&stage, "user_unknown").await);
    assert_eq!((&unknown["is_known"], &unknown["can_mean"]), (&json!(false), &Value::Null));
}

#[tokio::test]
async fn an_unknown_id_fails_the_command_and_a_known_one_does_not() {
    let stage = Stage::new();
    signed_up(&stage).await;
    check(&stage.history("user_1").await).expect("it is known");
    let why = check(&stage.history("user_unknown").await).expect_err("it is unknown").to_string();
    assert!(why.starts_with("user_unknown is not known here: no row"), "{why}");
    let mut history = stage.history("user_unknown").await;
    history.queue.as_mut().expect("it was read").is_cut_short = true;
    let why = check(&history).expect_err("it is unknown").to_string();
    assert!(why.contains("as far as the queue was read"), "{why}");
}

#[tokio::test]
async fn the_json_has_the_same_facts() {
    let stage = Stage::new();
    signed_up(&stage).await;
    stage.applied("msg_2", &updated(START + 5 * MINUTE), 390, 1).await;
    stage.applied("msg_3", &updated(START + MINUTE), 10 * MINUTE, 2).await;
    let shown = json_of(&stage.history("user_1").await);
    assert_eq!(shown["subject"]["table"], "users");
    assert_eq!(shown["subject"]["row"]["state"], "alive");
    assert_eq!(shown["subject"]["row"]["columns"]["synced_by"], "msg_2");
    let late = &shown["deliveries"][2];
    assert_eq!(
        (&late["svix_id"], &late["outcome"], &late["attempts"]),
        (&json!("msg_3"), &json!("stale"), &json!(2))
    );
    assert_eq!((&late["received_after_ms"], &late["applied_after_ms"]), (&json!(10 * MINUTE), &json!(12)));
    assert_eq!(late["reason"]["code"], "older");
    assert_eq!(late["reason"]["other_svix_id"], "msg_2");
    assert_eq!(late["reason"]["other_made_later_by_ms"], 4 * MINUTE);
}
