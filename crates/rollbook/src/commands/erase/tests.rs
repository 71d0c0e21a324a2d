//! Erasing, between a queue and a store in memory, and what happens when one of them fails.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use rollbook_core::catalog::{ORGANIZATION_MEMBERSHIPS, SUBSCRIPTIONS, WAITLIST_ENTRIES};
use rollbook_core::delivery::{Delivery, MessageId};
use rollbook_core::queue::{Consumer as _, Producer as _, QueueError, Settled, Settlement};
use rollbook_core::retry::{Failure, Reason};
use rollbook_core::time::Timestamp;
use rollbook_testkit::clock::ManualClock;
use rollbook_testkit::events::{START, change_of, deleted, event, membership, user};
use rollbook_testkit::faults::{Fault, FaultyAdmin, FaultyStore, StoreCall};
use rollbook_testkit::memory::queue::MemoryQueue;
use rollbook_testkit::memory::store::MemoryStore;
use serde_json::{Value, json};

use super::*;
use rollbook_testkit::queues::{all_of, request};

/// The last call to the queue by an erasure that finds nothing there: two looks of two calls each.
const LAST: usize = 3;

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
        let body = Bytes::copy_from_slice(body.as_bytes());
        let delivery =
            Delivery { id: MessageId::new(id), received_at: self.clock.now(), traceparent: None, body };
        all_of(self.queue.enqueue_many(&[delivery]).await).expect("it is taken");
    }

    fn parts<'a>(&'a self, store: &'a dyn Store, queue: &'a dyn QueueAdmin) -> Parts<'a> {
        Parts { store, queue, clock: &*self.clock }
    }

    async fn erased(&self, person: &mut Person) -> Done {
        let parts = self.parts(&*self.store, &*self.queue);
        let found = parts.find(person).await.expect("both answer");
        parts.erase(person, found).await.expect("both do it")
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

fn ines() -> Person {
    Person::new(&USERS, "user_1", &[])
}

#[tokio::test]
async fn what_is_theirs_goes_from_every_state_and_what_is_anothers_stays() {
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

    let done = stage.erased(&mut ines()).await;
    let Found { waiting, delayed, leased, dead, unreadable, mentions, .. } = done.found;
    assert_eq!((waiting, delayed, leased, dead, unreadable, mentions), (1, 1, 1, 2, 1, 1));
    assert_eq!(done.removed, 5);
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
async fn billing_of_their_organizations_that_holds_an_address_of_theirs_is_told_before_and_after_and_stays() {
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
    let mut person = ines();
    let parts = stage.parts(&*stage.store, &*stage.queue);
    let found = parts.find(&mut person).await.expect("both answer");
    let before = mentions(&*stage.store, &person).await.expect("the store answers");
    assert_eq!(before.billing, named);
    let plan = report::plan(&person, &found, &before);
    let told = "also removed: whatever names their verified addresses or phone numbers (3 known)\n";
    assert!(plan.contains(told), "{plan}");
    let told = "would stay, since it is another's:\n  - 2 billing rows of organizations in which";
    assert!(plan.contains(told) && plan.contains("csub_joined; each goes by rollbook erase"), "{plan}");
    let json = report::json(&person, &found, None, &before, &[]);
    assert_eq!(json["stays"]["billing_naming_them"], json!(named));

    let done = parts.erase(&mut person, found).await.expect("both do it");
    let after = mentions(&*stage.store, &person).await.expect("the store answers");
    assert_eq!(after.billing, named);
    assert!(report::done(&person, &done, &after, &[]).contains("\nstays, since it is another's:\n"));
    for row in stage.store.rows_of(&SUBSCRIPTIONS) {
        assert_eq!(row.columns["data"].is_null(), row.id == "csub_own", "{}", row.id);
    }
}

#[tokio::test]
async fn the_row_alone_tells_which_addresses_are_theirs() {
    let stage = Stage::new();
    stage.applied("msg_1", &of_user()).await;
    stage.applied("msg_2", &entry("wle_1", "ines@home.example")).await;
    stage.queued("msg_3", &entry("wle_2", "ines@work.example").to_string()).await;
    stage.erased(&mut ines()).await;
    assert_eq!(stage.left(), [""; 0]);
    assert!(stage.store.rows_of(&WAITLIST_ENTRIES).iter().all(|row| row.columns["data"].is_null()));
}

#[tokio::test]
async fn erasing_again_finds_nothing_and_is_right() {
    let stage = Stage::new();
    stage.applied("msg_1", &of_user()).await;
    let joined = membership("orgmem_1", "org_1", "user_1", START);
    stage.applied("msg_2", &event("organizationMembership.created", START, &joined)).await;
    assert_eq!(stage.erased(&mut ines()).await.rows, 2);
    stage.clock.advance(Duration::from_secs(5));
    let again = stage.erased(&mut ines()).await;
    assert_eq!((again.ledger, again.removed), (0, 0));
    assert!(stage.store.rows_of(&ORGANIZATION_MEMBERSHIPS)[0].columns["data"].is_null());
}

#[tokio::test]
async fn someone_without_a_row_is_erased_before_they_come() {
    let stage = Stage::new();
    stage.queued("msg_1", &of_user().to_string()).await;
    assert_eq!(stage.erased(&mut ines()).await.removed, 1);
    stage.applied("msg_1", &of_user()).await;
    assert!(stage.store.rows_of(&USERS)[0].columns["data"].is_null());
}

#[tokio::test]
async fn what_a_worker_applies_during_the_search_is_found_too() {
    let stage = Stage::new();
    stage.applied("msg_1", &of_user()).await;
    let (store, searches) = (Arc::clone(&stage.store), AtomicUsize::new(0));
    // Between the last look at the rows and the last at the queue the message is applied: the queue never shows it.
    let admin = FaultyAdmin::new(stage.queue.clone(), move |_| {
        if searches.fetch_add(1, Ordering::SeqCst) == LAST {
            let change = change_of("msg_2", &entry("wle_1", "ines@work.example"));
            futures_util::FutureExt::now_or_never(async { store.apply_many(&[change]).await })
                .expect("the memory answers at once")
                .expect("it is applied");
        }
        Fault::None
    });
    let parts = stage.parts(&*stage.store, &admin);
    let mut person = ines();
    let found = parts.find(&mut person).await.expect("both answer");
    parts.erase(&mut person, found).await.expect("both do it");
    assert!(stage.store.rows_of(&WAITLIST_ENTRIES)[0].columns["data"].is_null());
}

#[tokio::test]
async fn a_store_that_fails_has_erased_nothing_and_says_so() {
    let stage = Stage::new();
    stage.applied("msg_1", &of_user()).await;
    let store = FaultyStore::new(stage.store.clone(), |call| match call {
        StoreCall::Erase => Fault::Fail(StoreError::Dependency("away".into())),
        _ => Fault::None,
    });
    stage.queued("msg_2", &of_user().to_string()).await;
    let parts = stage.parts(&store, &*stage.queue);
    let mut person = ines();
    let found = parts.find(&mut person).await.expect("both answer");
    let told = format!("{:#}", parts.erase(&mut person, found).await.err().expect("the store fails"));
    assert!(told.starts_with("nothing was erased: the store failed; run it again: "), "{told}");
    assert_eq!(stage.left(), ["msg_2"]);
}

/// Some rows are refused by a trigger, for as long as it is there: the queue does not wait for that.
#[tokio::test]
async fn rows_that_refuse_keep_nothing_in_the_queue_and_the_command_fails_with_the_reason() {
    let stage = Stage::new();
    stage.applied("msg_1", &of_user()).await;
    let store = FaultyStore::new(stage.store.clone(), |call| match call {
        StoreCall::Erase => Fault::Fail(StoreError::Event("1 rows of theirs keep their content".into())),
        _ => Fault::None,
    });
    stage.queued("msg_2", &of_user().to_string()).await;
    let parts = stage.parts(&store, &*stage.queue);
    let mut person = ines();
    let found = parts.find(&mut person).await.expect("both answer");
    let done = parts.erase(&mut person, found).await.expect("the rest is done");
    assert_eq!((done.removed, done.left.len()), (1, 1));
    assert!(done.left[0].ends_with("1 rows of theirs keep their content"), "{:?}", done.left);
    assert_eq!(stage.left(), [""; 0]);
    let report = report::done(&person, &done, &Mentions::default(), &[]);
    for told in [
        "user_1 is not erased completely. Left to do:\n  - not all rows are erased: ",
        "1 rows of theirs keep their content",
        "Done so far",
        "1 message\n",
    ] {
        assert!(report.contains(told), "{told}\n{report}");
    }
    let json = report::json(&person, &Found::default(), Some(&done), &Mentions::default(), &[]);
    assert_eq!((&json["complete"], &json["removed"]["messages"]), (&json!(false), &json!(1)));
}

#[test]
fn tables_whose_policies_may_hide_rows_are_left_to_do() {
    assert_eq!(hiding(&[]), None);
    let left = hiding(&["users".to_owned()]).expect("something is left");
    assert!(left.contains("policies on users apply") && left.contains("run it again"), "{left}");
}

#[tokio::test]
async fn an_id_that_nothing_is_known_of_is_not_called_erased_and_kept_out_all_the_same() {
    let stage = Stage::new();
    let mut person = Person::new(&USERS, "user_nosuch", &[]);
    let parts = stage.parts(&*stage.store, &*stage.queue);
    let found = parts.find(&mut person).await.expect("both answer");
    let plan = report::plan(&person, &found, &Mentions::default());
    assert!(plan.contains("nothing is known of this id here"), "{plan}");
    let done = parts.erase(&mut person, found).await.expect("both do it");
    let report = report::done(&person, &done, &Mentions::default(), &[]);
    assert!(report.starts_with("user_nosuch: nothing is known of this id here"), "{report}");
    assert!(report.contains("A tombstone keeps out every later delivery"), "{report}");
    assert!(report.contains("none; one tombstone was written"), "{report}");
    assert!(!report.contains("is erased"), "{report}");
    let json = report::json(&person, &Found::default(), Some(&done), &Mentions::default(), &[]);
    assert_eq!((&json["was_known"], &json["complete"]), (&json!(false), &json!(true)));
    stage.applied("msg_1", &event("user.created", START, &user("user_nosuch", START))).await;
    assert!(stage.store.rows_of(&USERS)[0].columns["data"].is_null());
}

#[tokio::test]
async fn whoever_has_a_row_or_a_line_or_a_message_is_known() {
    for case in ["row", "message"] {
        let stage = Stage::new();
        match case {
            "row" => stage.applied("msg_1", &of_user()).await,
            _ => stage.queued("msg_1", &of_user().to_string()).await,
        }
        let mut person = ines();
        let done = stage.erased(&mut person).await;
        let report = report::done(&person, &done, &Mentions::default(), &[]);
        assert!(report.starts_with("user_1 is erased."), "{case}: {report}");
    }
}

#[tokio::test]
async fn a_queue_that_fails_after_the_store_says_what_is_done_and_what_the_next_run_needs() {
    let stage = Stage::new();
    stage.applied("msg_1", &of_user()).await;
    stage.queued("msg_2", &entry("wle_1", "ines@work.example").to_string()).await;
    let removes = AtomicUsize::new(0);
    let admin = FaultyAdmin::new(stage.queue.clone(), move |_| {
        // Two pages of messages and one of dead letters, then the removal.
        match removes.fetch_add(1, Ordering::SeqCst) {
            call if call >= 3 => Fault::Fail(QueueError::Unavailable("away".into())),
            _ => Fault::None,
        }
    });
    let parts = stage.parts(&*stage.store, &admin);
    let mut person = ines();
    let found = parts.find(&mut person).await.expect("both answer");
    let told = format!("{:#}", parts.erase(&mut person, found).await.err().expect("the queue fails"));
    assert!(
        told.starts_with("rows and ledger are erased, and 0 messages removed: the queue failed"),
        "{told}"
    );
    assert!(told.contains("--also") && !told.contains('@'), "{told}");
    assert_eq!(stage.left(), ["msg_2"]);
    // Their row tells no address any more.
    let mut again = Person::new(&USERS, "user_1", &["ines@work.example".to_owned()]);
    assert_eq!(stage.erased(&mut again).await.removed, 1);
    assert_eq!(stage.left(), [""; 0]);
}

#[test]
fn only_a_yes_is_a_yes() {
    for (answer, is_yes) in [("yes\n", true), (" yes \r\n", true), ("y\n", false), ("\n", false), ("", false)]
    {
        assert_eq!(agreed(&mut answer.as_bytes()), is_yes, "{answer:?}");
    }
}

#[tokio::test]
async fn dead_letters_behind_a_page_that_large_bodies_cut_short_are_found() {
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
    stage.erased(&mut ines()).await;
    assert_eq!(stage.left(), [""; 0]);
}

mod ownership;
