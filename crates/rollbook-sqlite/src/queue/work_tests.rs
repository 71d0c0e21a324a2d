//! Work of the queue's calls, counted in steps of SQLite's programs: it must not grow with the number of other messages.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use rollbook_core::delivery::{Delivery, MessageId};
use rollbook_core::queue::{DISCARDS_KEPT, DeadLetterFilter, LeaseRequest, LeaseRequestId, Settlement};
use rollbook_core::retry::{Failure, Reason};
use rollbook_core::time::Timestamp;
use rusqlite::Connection;

use super::{Counters, admin, enqueue, lease, messages, settle};
use crate::migrations::{Schema, apply_migrations};

const NOW: Timestamp = Timestamp::from_millis(1_785_312_000_000);
const LEASE_FOR: Duration = Duration::from_secs(60);
const DUE_WITHIN: Duration = Duration::from_secs(600);
const FEW: usize = 200;
const MANY: usize = 2_000;

/// Queue that counts SQLite's steps.
struct Counting {
    connection: Connection,
    now: Timestamp,
    _folder: tempfile::TempDir,
}

impl Counting {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("queue.db");
        apply_migrations(&path, Schema::Queue).expect("tables");
        let connection = crate::connection::open(&path).expect("a file");
        connection.execute_batch("PRAGMA synchronous = OFF").expect("a test need not wait for the disk");
        Self { connection, now: NOW, _folder: folder }
    }

    fn enqueue(&self, name: &str, count: usize) {
        let delivery = |number| Delivery {
            id: MessageId::new(format!("msg_{name}_{number}")),
            received_at: self.now,
            traceparent: None,
            body: Bytes::from_static(b"{}"),
        };
        let deliveries: Vec<Delivery> = (0..count).map(delivery).collect();
        let answers = enqueue::insert(&self.connection, &deliveries, self.now, u64::MAX).expect("an insert");
        assert!(answers.iter().all(Result::is_ok));
    }

    fn lease(&self, max: usize) -> Vec<rollbook_core::queue::Lease> {
        let id = LeaseRequestId::default();
        let request =
            LeaseRequest { id, max, bytes_max: usize::MAX, lease_for: LEASE_FOR, wait: Duration::ZERO };
        lease::take(&self.connection, &request, self.now, DUE_WITHIN).expect("a lease").leases
    }

    fn settle(&self, count: usize, settlement: &Settlement) {
        let leases = self.lease(count);
        assert_eq!(leases.len(), count);
        let ended: Vec<_> = leases.into_iter().map(|lease| (lease, settlement.clone())).collect();
        settle::settle(&self.connection, &ended, self.now).expect("a settlement");
    }

    fn dead(&self, count: usize) {
        self.enqueue("dead", count);
        let failure = Failure { reason: Reason::StoreRefused, detail: "x".into(), event_type: None };
        self.settle(count, &Settlement::DeadLetter { failure });
    }

    /// Puts this many messages into a state, in one transaction.
    fn filled(state: &str, count: usize) -> Self {
        let mut queue = Self::new();
        queue.connection.execute_batch("BEGIN").expect("a transaction");
        queue.fill(state, count);
        queue.connection.execute_batch("COMMIT").expect("a commit");
        queue
    }

    fn fill(&mut self, state: &str, count: usize) {
        let failure = Failure { reason: Reason::StoreRefused, detail: "x".into(), event_type: None };
        let again = |after| Settlement::Retry { after, failure: failure.clone() };
        match state {
            "new" => self.enqueue("other", count),
            "dead" => self.dead(count),
            "leased" => {
                self.enqueue("other", count);
                assert_eq!(self.lease(count).len(), count);
            }
            "expired" => {
                self.fill("leased", count);
                self.now = self.now.plus(LEASE_FOR);
            }
            "delayed" => {
                self.enqueue("other", count);
                self.settle(count, &again(DUE_WITHIN));
            }
            "due again" => {
                self.enqueue("other", count);
                self.settle(count, &again(Duration::ZERO));
            }
            "released" => {
                self.enqueue("other", count);
                self.settle(count, &Settlement::Release);
            }
            "redriven" | "redriven and delayed" | "redriven by an earlier build" => {
                self.dead(count);
                let all = DeadLetterFilter::default();
                let step = admin::redrive(&self.connection, &all.page(None, count), self.now, u64::MAX);
                assert_eq!(step.expect("a redrive").expect("room").changed, count);
                if state == "redriven and delayed" {
                    self.settle(count, &again(DUE_WITHIN));
                }
                if state == "redriven by an earlier build" {
                    self.number_as_before(count);
                }
            }
            _ => panic!("{state}"),
        }
    }

    /// Gives redriven messages the numbers of an earlier build: after the leased ones.
    fn number_as_before(&self, count: usize) {
        let mut counters = Counters::read(&self.connection).expect("counters");
        let base = counters.seq + 1 + (1 << 62);
        for table in ["messages", "leases"] {
            let sql = format!("UPDATE {table} SET seq = seq + {base} WHERE seq < 0");
            assert_eq!(self.connection.execute(&sql, ()), Ok(count));
        }
        let sql = "SELECT max(seq) FROM messages";
        counters.seq = self.connection.query_row(sql, (), |row| row.get(0)).expect("a number");
        counters.write(&self.connection).expect("counters");
    }

    /// Returns the steps of this work.
    fn steps(&mut self, work: impl FnOnce(&Self)) -> u64 {
        let steps = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&steps);
        let count = move || {
            counted.fetch_add(1, Ordering::Relaxed);
            false
        };
        self.connection.progress_handler(1, Some(count)).expect("a handler");
        work(self);
        self.connection.progress_handler(0, None::<fn() -> bool>).expect("no handler");
        steps.load(Ordering::Relaxed)
    }
}

/// Returns the steps of some work with a few messages in a state, and with many.
fn few_and_many(state: &str, work: impl Fn(&Counting)) -> (u64, u64) {
    let [few, many] = [FEW, MANY].map(|count| {
        let mut queue = Counting::filled(state, count);
        // The first lease skips what an earlier build has redriven, once; and statements are prepared.
        queue.enqueue("first", 10);
        queue.lease(10);
        queue.enqueue("more", 50);
        queue.steps(&work)
    });
    (few, many)
}

const STATES: [&str; 9] = [
    "new",
    "leased",
    "expired",
    "delayed",
    "due again",
    "released",
    "redriven",
    "redriven and delayed",
    "redriven by an earlier build",
];

#[track_caller]
fn assert_same(state: &str, what: &str, (few, many): (u64, u64)) {
    assert!(
        many <= few + few / 10,
        "{what} with {FEW} messages that are {state} takes {few} steps, with {MANY} {many}"
    );
}

#[test]
fn the_work_of_a_lease_does_not_grow_with_the_messages_in_any_state() {
    for state in STATES {
        let steps = few_and_many(state, |queue| assert_eq!(queue.lease(10).len(), 10));
        assert!(steps.0 > 10, "steps are counted: {steps:?}");
        assert_same(state, "a lease", steps);
    }
}

#[test]
fn the_work_of_a_settlement_and_of_a_delivery_does_not_grow_with_the_messages_in_any_state() {
    for state in STATES {
        assert_same(state, "a settlement", few_and_many(state, |queue| queue.settle(10, &Settlement::Ack)));
        assert_same(state, "a delivery", few_and_many(state, |queue| queue.enqueue("new", 10)));
    }
}

#[test]
fn the_work_of_counting_does_not_grow_with_the_due_messages() {
    for state in STATES.into_iter().filter(|state| !state.contains("delayed") && *state != "leased") {
        let steps = few_and_many(state, |queue| {
            admin::stats(&queue.connection, queue.now).expect("counts");
        });
        assert_same(state, "counting", steps);
    }
}

#[test]
fn the_work_of_a_page_does_not_grow_with_the_messages_in_any_state() {
    for state in STATES {
        let page = |queue: &Counting| messages::list(&queue.connection, None, 10, queue.now).expect("a page");
        assert_same(state, "a page", few_and_many(state, |queue| assert_eq!(page(queue).messages.len(), 10)));
    }
}

#[test]
fn the_work_of_a_bulk_step_does_not_grow_with_the_dead_letters_whether_they_match_or_not() {
    let all = DeadLetterFilter::default();
    let none = DeadLetterFilter { event_type: Some("no such type".to_owned()), ..all.clone() };
    for filter in [&all, &none] {
        let steps_of = |work: &dyn Fn(&Counting)| {
            let [few, many] = [FEW, MANY].map(|count| {
                let mut queue = Counting::filled("dead", count);
                queue.steps(work)
            });
            (few, many)
        };
        let counted = steps_of(&|queue| {
            admin::count_matching(&queue.connection, &filter.page(None, 50)).expect("a count");
        });
        assert_same("dead", "counting", counted);
        let redriven = steps_of(&|queue| {
            let step = admin::redrive(&queue.connection, &filter.page(None, 50), queue.now, u64::MAX);
            step.expect("a redrive").expect("room");
        });
        assert_same("dead", "a redrive", redriven);
        let discarded = steps_of(&|queue| {
            admin::discard(&queue.connection, &filter.page(None, 50), queue.now).expect("a discard");
        });
        assert_same("dead", "a discard", discarded);
    }
}

#[test]
fn a_lease_skips_messages_that_an_earlier_build_redrove_only_once() {
    let mut queue = Counting::filled("redriven by an earlier build", MANY);
    let first = queue.steps(|queue| assert_eq!(queue.lease(1).len(), 1));
    let second = queue.steps(|queue| assert_eq!(queue.lease(1).len(), 1));
    assert!(second * 10 < first, "{first} steps and then {second}");
}

#[test]
fn the_last_ten_thousand_records_of_discards_are_kept() {
    let queue = Counting::new();
    queue.dead(1);
    let fill = format!(
        "WITH RECURSIVE numbers (number) AS (SELECT 1 UNION ALL SELECT number + 1 FROM numbers WHERE number < {DISCARDS_KEPT})
         INSERT INTO discarded (id, discarded_at, died_at, attempts, reason, detail, event_type)
         SELECT 'msg_' || number, number, 1, 1, 'too_deep', 'x', NULL FROM numbers"
    );
    queue.connection.execute_batch(&fill).expect("records");
    let records = |id: &str| admin::discards(&queue.connection, &MessageId::new(id)).expect("records").len();
    assert_eq!((records("msg_1"), records("msg_10000")), (1, 1));
    let all = DeadLetterFilter::default();
    admin::discard(&queue.connection, &all.page(None, 10), queue.now).expect("a discard");
    assert_eq!((records("msg_1"), records("msg_2"), records("msg_dead_0")), (0, 1, 1));
}
