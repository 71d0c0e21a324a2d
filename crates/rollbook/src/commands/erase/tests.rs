//! Texts of plans and results, from erasures of a queue and a store in memory.

use bytes::Bytes;
use rollbook_core::catalog::USERS;
use rollbook_core::delivery::{Delivery, MessageId};
use rollbook_core::queue::Producer as _;
use rollbook_core::store::{FullStore, Store as _, StoreError};
use rollbook_core::time::Timestamp;
use rollbook_testkit::clock::ManualClock;
use rollbook_testkit::events::{START, change_of, event, membership, user};
use rollbook_testkit::faults::{Fault, FaultyStore, StoreCall};
use rollbook_testkit::memory::queue::MemoryQueue;
use rollbook_testkit::memory::store::MemoryStore;
use rollbook_testkit::queues::all_of;
use serde_json::{Value, json};

use super::*;

struct Stage {
    clock: Arc<ManualClock>,
    store: Arc<MemoryStore>,
    queue: MemoryQueue,
}

impl Stage {
    /// Applies these events, and queues these bodies.
    async fn new(applied: &[Value], queued: &[&str]) -> Self {
        let clock = Arc::new(ManualClock::new(Timestamp::from_millis(START)));
        let store = Arc::new(MemoryStore::new(clock.clone()));
        let queue = MemoryQueue::new(100, clock.clone());
        for (number, event) in applied.iter().enumerate() {
            let change = change_of(&format!("msg_{number}"), event);
            store.apply_many(&[change]).await.expect("it is applied");
        }
        for (number, body) in queued.iter().enumerate() {
            let id = MessageId::new(format!("msg_queued_{number}"));
            let body = Bytes::copy_from_slice(body.as_bytes());
            let delivery = Delivery { id, received_at: clock.now(), traceparent: None, body };
            all_of(queue.enqueue_many(&[delivery]).await).expect("it is taken");
        }
        Self { clock, store, queue }
    }

    /// Texts of the plan and of the result.
    async fn texts(&self, store: &dyn FullStore, id: &str) -> [String; 2] {
        let ports = Ports { store, queue: &self.queue, clock: &*self.clock, progress: &|_| () };
        let erasure = Erasure::plan(ports, &USERS, id, &[]).await.expect("both answer");
        let plan = erasure.preview().await.expect("the store answers");
        let mut done = erasure.run().await.expect("both do it");
        let kind = BackendKind::Sqlite { is_rewritten: false };
        done.not_reached = remaining_copies(id, &[Backend { place: "SQLite store.db".to_owned(), kind }]);
        [report::plan(&plan), report::done(&done)]
    }
}

#[track_caller]
fn contains(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "{part}\n{text}");
    }
}

fn of_user() -> Value {
    event("user.created", START, &user("user_1", START))
}

fn listing(address: &str) -> Value {
    let mut object = user("user_1", START);
    object["email_addresses"].as_array_mut().expect("a list").push(json!({ "email_address": address }));
    event("user.created", START, &object)
}

#[tokio::test]
async fn a_plan_and_a_result_list_what_is_removed_what_stays_and_what_is_not_reached() {
    let joined = membership("orgmem_1", "org_1", "user_1", START);
    let payer = json!({ "organization_id": "org_1", "email": "ines@work.example" });
    let billing = json!({ "id": "csub_1", "status": "active", "payer": payer });
    let applied = [
        of_user(),
        event("organizationMembership.created", START, &joined),
        event("subscription.created", START, &billing),
    ];
    let stage = Stage::new(&applied, &[&of_user().to_string(), "{\"data\":{\"email_address\":\""]).await;
    let [plan, done] = stage.texts(&*stage.store, "user_1").await;
    let stays = "stays, since it belongs to others:\n  - 1 billing row of organizations";
    contains(&plan, &["user_1: a user\n", "(3 known)", "to remove", "1 message\n", stays, "such as csub_1"]);
    contains(
        &done,
        &["user_1 is erased. No delivery restores anything.", "2 rows without content now", stays],
    );
    contains(
        &done,
        &["not recognized: 1 message", "SQLite store.db\n", "sooner: rollbook erase user_1 --vacuum"],
    );
}

#[tokio::test]
async fn an_address_that_is_not_proved_is_listed_with_its_rows_and_the_way_to_include_it() {
    let entry = json!({ "id": "wle_1", "email_address": "victim@x.example", "status": "pending" });
    let applied = [listing("victim@x.example"), event("waitlistEntry.created", START, &entry)];
    let stage = Stage::new(&applied, &[]).await;
    for text in stage.texts(&*stage.store, "user_1").await {
        contains(
            &text,
            &["victim@x.example: listed, but not verified", "rollbook erase user_1 --also ADDRESS"],
        );
        contains(&text, &["rows with these addresses (1 row) stay: waitlist_entries wle_1"]);
    }
}

#[tokio::test]
async fn an_unknown_id_is_not_called_erased() {
    let stage = Stage::new(&[], &[]).await;
    let [plan, done] = stage.texts(&*stage.store, "user_unknown").await;
    contains(&plan, &["this id is not known here"]);
    contains(
        &done,
        &["this id is not known here", "A tombstone blocks every later delivery", "one tombstone was"],
    );
    assert!(!done.contains("is erased"), "{done}");
}

#[tokio::test]
async fn an_incomplete_erasure_starts_with_what_is_left_to_do() {
    let stage = Stage::new(&[of_user()], &[&of_user().to_string()]).await;
    let store = FaultyStore::new(stage.store.clone(), |call| match call {
        StoreCall::Erase => Fault::Fail(StoreError::Event("1 row keeps its content".into())),
        _ => Fault::None,
    });
    let [_, done] = stage.texts(&store, "user_1").await;
    assert!(
        done.starts_with("user_1 is not erased completely. Left to do:\n  - not all rows are erased: 1 row"),
        "{done}"
    );
    contains(&done, &["Done so far", "1 message\n"]);
}

#[test]
fn only_a_yes_confirms() {
    for (answer, is_yes) in [("yes\n", true), (" yes \r\n", true), ("y\n", false), ("\n", false), ("", false)]
    {
        assert_eq!(agreed(&mut answer.as_bytes()), is_yes, "{answer:?}");
    }
}
