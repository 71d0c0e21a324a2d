//! Erasure from a queue and a store in memory, and failures of them.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use rollbook_core::catalog::{ORGANIZATION_MEMBERSHIPS, SUBSCRIPTIONS, WAITLIST_ENTRIES};
use rollbook_core::delivery::{Delivery, MessageId};
use rollbook_core::queue::{Consumer as _, Producer as _, Settled, Settlement};
use rollbook_core::retry::{Failure, Reason};
use rollbook_core::store::Store as _;
use rollbook_core::time::Timestamp;
use rollbook_testkit::clock::ManualClock;
use rollbook_testkit::events::{START, change_of, deleted, event, membership, user};
use rollbook_testkit::faults::{Fault, FaultyAdmin, FaultyStore, StoreCall};
use rollbook_testkit::memory::queue::MemoryQueue;
use rollbook_testkit::memory::store::MemoryStore;
use serde_json::{Value, json};

use super::*;
use rollbook_testkit::queues::{all_of, request};

/// Last call to the queue by an erasure that finds nothing there: three scans of two calls each.
const LAST: usize = 5;

async fn put(queue: &MemoryQueue, id: &str, body: &str, received_at: Timestamp) {
    let body = Bytes::copy_from_slice(body.as_bytes());
    let delivery = Delivery { id: MessageId::new(id), received_at, traceparent: None, body };
    all_of(queue.enqueue_many(&[delivery]).await).expect("it is taken");
}

struct Stage {
    clock: Arc<ManualClock>,
    store: Arc<MemoryStore>,
    queue: Arc<MemoryQueue>,
}

impl Stage {
    fn new() -> Self {
        let clock = Arc::new(ManualClock::new(Timestamp::from_millis(START)));
        let for_port = || -> Arc<dyn Clock> { clock.clone() };
        let (store, queue) = (MemoryStore::new(for_port()), MemoryQueue::new(100, for_port()));
        Self { clock, store: Arc::new(store), queue: Arc::new(queue) }
    }

    async fn applied(&self, id: &str, event: &Value) {
        self.store.apply_many(&[change_of(id, event)]).await.expect("it is applied");
    }

    async fn queued(&self, id: &str, body: &str) {
        put(&self.queue, id, body, self.clock.now()).await;
    }

    fn ports<'a>(&'a self, store: &'a dyn FullStore, queue: &'a dyn QueueAdmin) -> Ports<'a> {
        Ports { store, queue, clock: &*self.clock, progress: &|_| () }
    }

    /// Erases `user_1`, who has these addresses too.
    async fn erased(&self, addresses: &[&str]) -> Report {
        let erasure = plan(self.ports(&*self.store, &*self.queue), addresses).await;
        erasure.run().await.expect("both do it")
    }

    fn left(&self) -> Vec<String> {
        let dead = self.queue.dead().into_iter().map(|letter| letter.id);
        self.queue.message_ids().into_iter().chain(dead).map(|id| id.to_string()).collect()
    }
}

fn of_user() -> Value {
    event("user.created", START, &user("user_1", START))
}

fn entry(id: &str, address: &str) -> Value {
    event("waitlistEntry.created", START, &json!({ "id": id, "email_address": address, "status": "pending" }))
}

async fn plan<'a>(ports: Ports<'a>, addresses: &[&str]) -> Erasure<'a> {
    let addresses: Vec<String> = addresses.iter().map(|&address| address.to_owned()).collect();
    Erasure::plan(ports, &USERS, "user_1", &addresses).await.expect("both answer")
}

/// Counts of removed rows, ledger entries and messages.
fn removed(report: &Report) -> (u64, u64, u64) {
    let removed = report.removed.as_ref().expect("it is done");
    (removed.rows, removed.ledger, removed.messages)
}

fn json_of(report: &Report) -> Value {
    serde_json::to_value(report).expect("it has a JSON form")
}

#[tokio::test]
async fn messages_of_the_person_are_removed_in_every_state_and_those_of_others_stay() {
    let stage = Stage::new();
    stage.applied("msg_1", &of_user()).await;
    stage.applied("msg_2", &entry("wle_row", "ines@home.example")).await;
    stage.applied("msg_3", &entry("wle_other", "other@home.example")).await;
    let lease = async |max| {
        let request = request(max, Duration::from_secs(60), Duration::ZERO);
        stage.queue.lease(request).await.expect("it is leased")
    };
    let failure = || Failure { reason: Reason::StoreRefused, detail: String::new(), event_type: None };
    stage.queued("delayed", &of_user().to_string()).await;
    stage.queued("dead", &of_user().to_string()).await;
    stage.queued("torn", "{\"data\":{\"id\":\"user_1\"").await;
    let mut leases = lease(3).await;
    for settlement in
        [Settlement::DeadLetter { failure: failure() }, Settlement::DeadLetter { failure: failure() }]
    {
        all_of(stage.queue.settle_many(&[(leases.pop().expect("a lease"), settlement)]).await)
            .expect("settled");
    }
    let retry = Settlement::Retry { after: Duration::from_secs(60), failure: failure() };
    all_of(stage.queue.settle_many(&[(leases.pop().expect("a lease"), retry)]).await).expect("settled");
    let joined = membership("orgmem_1", "org_1", "user_1", START);
    stage.queued("leased", &event("organizationMembership.deleted", START, &joined).to_string()).await;
    let held = lease(1).await.pop().expect("a lease");
    stage.queued("waiting", &entry("wle_queued", "Ines@Work.example").to_string()).await;
    let made = json!({ "id": "org_1", "created_by": "user_1" });
    stage.queued("mention", &event("organization.created", START, &made).to_string()).await;
    stage
        .queued(
            "other",
            &event("user.created", START, &user("user_2", START))
                .to_string()
                .replace("ines@", "x@")
                .replace("5550100", "5550101"),
        )
        .await;

    let done = stage.erased(&[]).await;
    let Found { waiting, delayed, leased, dead_letters, unreadable, mentions, .. } = done.queue;
    assert_eq!((waiting, delayed, leased, dead_letters, unreadable, mentions), (1, 1, 1, 2, 1, 1));
    assert_eq!(removed(&done).2, 5);
    assert_eq!(stage.left(), ["mention", "other"]);
    let settled = stage.queue.settle_many(&[(held, Settlement::Ack)]).await;
    assert_eq!(settled, [Ok(Settled::LeaseLost)]);
    // The entry that only the queue knew can't come later either.
    stage.applied("msg_4", &entry("wle_queued", "ines@work.example")).await;
    for row in stage.store.rows_of(&WAITLIST_ENTRIES) {
        assert_eq!(row.columns["data"].is_null(), row.id != "wle_other", "{}", row.id);
    }
}

fn subscription(id: &str, organization_id: &str, user_id: &str, email: &str) -> Value {
    let payer = json!({ "organization_id": organization_id, "user_id": user_id, "email": email });
    event("subscription.created", START, &json!({ "id": id, "status": "active", "payer": payer }))
}

#[tokio::test]
async fn billing_rows_of_their_organizations_with_an_address_are_reported_before_and_after_and_stay() {
    let stage = Stage::new();
    stage.applied("msg_1", &of_user()).await;
    let joined = membership("orgmem_1", "org_1", "user_1", START);
    stage.applied("msg_2", &event("organizationMembership.created", START, &joined)).await;
    let made = json!({ "id": "org_made", "created_by": "user_1" });
    stage.applied("msg_3", &event("organization.created", START, &made)).await;
    for (id, organization_id, user_id, email) in [
        ("csub_joined", "org_1", "", "Ines@Work.example"),
        ("csub_made", "org_made", "", "ines@work.example"),
        ("csub_of_another", "org_1", "", "jines@work.example"),
        ("csub_elsewhere", "org_2", "", "ines@work.example"),
        ("csub_own", "org_1", "user_1", "ines@work.example"),
    ] {
        stage.applied(id, &subscription(id, organization_id, user_id, email)).await;
    }
    let named = ["csub_joined", "csub_made"];
    let erasure = plan(stage.ports(&*stage.store, &*stage.queue), &[]).await;
    let before = erasure.preview().await.expect("the store answers");
    assert_eq!((before.addresses, before.had_row, before.complete), (3, true, None));
    assert_eq!(json_of(&before)["stays"]["billing_naming_them"], json!(named));
    let after = erasure.run().await.expect("both do it");
    assert_eq!(after.mentions.billing, named);
    for row in stage.store.rows_of(&SUBSCRIPTIONS) {
        assert_eq!(row.columns["data"].is_null(), row.id == "csub_own", "{}", row.id);
    }
}

#[tokio::test]
async fn the_row_alone_proves_addresses() {
    let stage = Stage::new();
    stage.applied("msg_1", &of_user()).await;
    stage.applied("msg_2", &entry("wle_1", "ines@home.example")).await;
    stage.queued("msg_3", &entry("wle_2", "ines@work.example").to_string()).await;
    stage.erased(&[]).await;
    assert_eq!(stage.left(), [""; 0]);
    assert!(stage.store.rows_of(&WAITLIST_ENTRIES).iter().all(|row| row.columns["data"].is_null()));
}

#[tokio::test]
async fn a_second_erasure_finds_nothing_and_is_complete() {
    let stage = Stage::new();
    stage.applied("msg_1", &of_user()).await;
    let joined = membership("orgmem_1", "org_1", "user_1", START);
    stage.applied("msg_2", &event("organizationMembership.created", START, &joined)).await;
    assert_eq!(removed(&stage.erased(&[]).await).0, 2);
    stage.clock.advance(Duration::from_secs(5));
    let again = stage.erased(&[]).await;
    assert_eq!((removed(&again).1, removed(&again).2), (0, 0));
    assert!(stage.store.rows_of(&ORGANIZATION_MEMBERSHIPS)[0].columns["data"].is_null());
}

#[tokio::test]
async fn a_person_without_a_row_is_erased_before_the_first_delivery() {
    let stage = Stage::new();
    stage.queued("msg_1", &of_user().to_string()).await;
    assert_eq!(removed(&stage.erased(&[]).await).2, 1);
    stage.applied("msg_1", &of_user()).await;
    assert!(stage.store.rows_of(&USERS)[0].columns["data"].is_null());
}

#[tokio::test]
async fn a_message_that_a_worker_applies_during_the_search_is_found() {
    let stage = Stage::new();
    stage.applied("msg_1", &of_user()).await;
    let (store, searches) = (Arc::clone(&stage.store), AtomicUsize::new(0));
    // The message is applied between the last read of the rows and the last scan: the queue never shows it.
    let admin = FaultyAdmin::new(stage.queue.clone(), move |_| {
        if searches.fetch_add(1, Ordering::SeqCst) == LAST {
            let change = change_of("msg_2", &entry("wle_1", "ines@work.example"));
            futures_util::FutureExt::now_or_never(async { store.apply_many(&[change]).await })
                .expect("the memory answers at once")
                .expect("it is applied");
        }
        Fault::None
    });
    let parts = stage.ports(&*stage.store, &admin);
    let erasure = plan(parts, &[]).await;
    erasure.run().await.expect("both do it");
    assert!(stage.store.rows_of(&WAITLIST_ENTRIES)[0].columns["data"].is_null());
}

#[tokio::test]
async fn a_failing_store_erases_nothing_and_the_error_says_so() {
    let stage = Stage::new();
    stage.applied("msg_1", &of_user()).await;
    let store = FaultyStore::new(stage.store.clone(), |call| match call {
        StoreCall::Erase => Fault::Fail(StoreError::Unavailable("unreachable".into())),
        _ => Fault::None,
    });
    stage.queued("msg_2", &of_user().to_string()).await;
    let parts = stage.ports(&store, &*stage.queue);
    let erasure = plan(parts, &[]).await;
    let why = erasure.run().await.expect_err("the store fails");
    assert_eq!(why.to_string(), "nothing was erased: the store failed; run it again");
    let source = std::error::Error::source(&why).expect("it has a cause");
    assert_eq!(source.to_string(), "the store can't answer now: unreachable");
    assert_eq!(stage.left(), ["msg_2"]);
}

/// Some rows are refused by a trigger, for as long as it is there: the queue does not wait for that.
#[tokio::test]
async fn refused_rows_keep_nothing_in_the_queue_and_the_reason_is_left_to_do() {
    let stage = Stage::new();
    stage.applied("msg_1", &of_user()).await;
    let store = FaultyStore::new(stage.store.clone(), |call| match call {
        StoreCall::Erase => Fault::Fail(StoreError::Event("1 row keeps its content".into())),
        _ => Fault::None,
    });
    stage.queued("msg_2", &of_user().to_string()).await;
    let parts = stage.ports(&store, &*stage.queue);
    let erasure = plan(parts, &[]).await;
    let done = erasure.run().await.expect("the rest is done");
    let left = done.left.as_deref().expect("it is done");
    assert_eq!((removed(&done).2, left.len()), (1, 1));
    assert!(left[0].ends_with("1 row keeps its content"), "{left:?}");
    assert_eq!(stage.left(), [""; 0]);
    let json = json_of(&done);
    assert_eq!((&json["complete"], &json["removed"]["messages"]), (&json!(false), &json!(1)));
}

#[tokio::test]
async fn a_failure_after_rows_were_refused_does_not_say_that_all_rows_are_erased() {
    let stage = Stage::new();
    stage.applied("msg_1", &of_user()).await;
    stage.queued("msg_2", &of_user().to_string()).await;
    let store = FaultyStore::new(stage.store.clone(), |call| match call {
        StoreCall::Erase => Fault::Fail(StoreError::Event("1 row keeps its content".into())),
        _ => Fault::None,
    });
    let calls = AtomicUsize::new(0);
    // Two scans of three calls, the removal, then the search for more.
    let admin = FaultyAdmin::new(stage.queue.clone(), move |_| match calls.fetch_add(1, Ordering::SeqCst) {
        call if call >= 7 => Fault::Fail(QueueError::Unavailable("unreachable".into())),
        _ => Fault::None,
    });
    let erasure = plan(stage.ports(&store, &admin), &[]).await;
    let why = erasure.run().await.expect_err("the queue fails").to_string();
    assert_eq!(
        why,
        "0 rows and 0 ledger entries are erased, the store refused the others, and 1 message removed: the search for more \
         failed; run it again"
    );
}

#[test]
fn tables_with_policies_that_may_hide_rows_are_left_to_do() {
    assert_eq!(hiding(&[]), None);
    let left = hiding(&["users".to_owned()]).expect("something is left");
    assert!(left.contains("policies on users apply") && left.contains("run it again"), "{left}");
}

#[tokio::test]
async fn an_unknown_id_is_reported_as_unknown_and_its_tombstone_blocks_later_deliveries() {
    let stage = Stage::new();
    let ports = stage.ports(&*stage.store, &*stage.queue);
    let erasure = Erasure::plan(ports, &USERS, "user_nosuch", &[]).await.expect("both answer");
    assert!(!erasure.preview().await.expect("the store answers").was_known);
    let json = json_of(&erasure.run().await.expect("both do it"));
    assert_eq!((&json["was_known"], &json["complete"]), (&json!(false), &json!(true)));
    stage.applied("msg_1", &event("user.created", START, &user("user_nosuch", START))).await;
    assert!(stage.store.rows_of(&USERS)[0].columns["data"].is_null());
}

#[tokio::test]
async fn an_id_with_a_row_or_a_message_is_known() {
    for case in ["row", "message"] {
        let stage = Stage::new();
        match case {
            "row" => stage.applied("msg_1", &of_user()).await,
            _ => stage.queued("msg_1", &of_user().to_string()).await,
        }
        let done = stage.erased(&[]).await;
        assert_eq!((done.was_known, done.complete), (true, Some(true)), "{case}");
    }
}

#[tokio::test]
async fn a_queue_that_fails_after_the_store_says_what_is_done_and_what_the_next_run_needs() {
    let stage = Stage::new();
    stage.applied("msg_1", &of_user()).await;
    stage.queued("msg_2", &entry("wle_1", "ines@work.example").to_string()).await;
    let removes = AtomicUsize::new(0);
    let admin = FaultyAdmin::new(stage.queue.clone(), move |_| {
        // Two scans, each of two pages of messages and one of dead letters, then the removal.
        match removes.fetch_add(1, Ordering::SeqCst) {
            call if call >= 6 => Fault::Fail(QueueError::Unavailable("unreachable".into())),
            _ => Fault::None,
        }
    });
    let parts = stage.ports(&*stage.store, &admin);
    let erasure = plan(parts, &[]).await;
    let why = erasure.run().await.expect_err("the queue fails").to_string();
    assert!(why.starts_with("rows and ledger are erased, and 0 messages removed: the queue failed"), "{why}");
    assert!(why.contains("--also") && !why.contains('@'), "{why}");
    assert_eq!(stage.left(), ["msg_2"]);
    // The row contains no address any more.
    assert_eq!(removed(&stage.erased(&["ines@work.example"]).await).2, 1);
    assert_eq!(stage.left(), [""; 0]);
}

#[tokio::test]
async fn dead_letters_after_a_page_that_large_bodies_shortened_are_found() {
    let stage = Stage::new();
    let mut large = of_user();
    large["data"]["public_metadata"] = json!({ "x": "x".repeat(1 << 20) });
    let ids: Vec<String> = (0..20).map(|number| format!("msg_{number}")).collect();
    for id in &ids {
        stage.queued(id, &large.to_string()).await;
    }
    let leases =
        stage.queue.lease(request(20, Duration::from_secs(60), Duration::ZERO)).await.expect("leases");
    let failure = Failure { reason: Reason::StoreRefused, detail: String::new(), event_type: None };
    let dead = |lease| (lease, Settlement::DeadLetter { failure: failure.clone() });
    let settled = stage.queue.settle_many(&leases.into_iter().map(dead).collect::<Vec<_>>()).await;
    assert_eq!(all_of(settled).expect("they are settled").len(), 20);
    stage.erased(&[]).await;
    assert_eq!(stage.left(), [""; 0]);
}

mod ownership;
mod scans;
