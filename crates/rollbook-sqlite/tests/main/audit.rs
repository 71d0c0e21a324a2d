//! Audits repair indexes and counters from the bodies.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rollbook_core::delivery::{Delivery, MessageId};
use rollbook_core::queue::{
    Audit, Consumer as _, DeadLetterFilter, Producer as _, QueueAdmin as _, QueueStats, Settled, Settlement,
};
use rollbook_core::retry::{Failure, Reason};
use rollbook_core::time::{Clock as _, Timestamp};
use rollbook_sqlite::{QueueSettings, Schema, SqliteQueue, apply_migrations};
use rollbook_testkit::clock::ManualClock;
use rollbook_testkit::queues::{all_of, request};

const LEASE_FOR: Duration = Duration::from_secs(60);
/// More than one step of an audit.
const MANY: usize = 2_500;

struct Damaged {
    queue: SqliteQueue,
    clock: Arc<ManualClock>,
    path: PathBuf,
    _folder: tempfile::TempDir,
}

impl Damaged {
    /// Five new messages, five leased, two dead.
    async fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("queue.db");
        apply_migrations(&path, Schema::Queue).expect("the migrations apply");
        let clock = Arc::new(ManualClock::new(Timestamp::from_millis(1_785_312_000_000)));
        let settings = QueueSettings { depth_max: 1_000_000, due_ahead_max: Duration::from_secs(600) };
        let queue = SqliteQueue::open(&path, settings, clock.clone()).expect("the queue opens");
        let damaged = Self { queue, clock, path, _folder: folder };
        damaged.enqueue("dead", 2).await;
        let failure = Failure { reason: Reason::StoreRefused, detail: String::new(), event_type: None };
        for lease in damaged.lease(2).await {
            let ended = [(lease, Settlement::DeadLetter { failure: failure.clone() })];
            assert_eq!(all_of(damaged.queue.settle_many(&ended).await), Ok(vec![Settled::Done]));
        }
        damaged.enqueue("a", 10).await;
        assert_eq!(damaged.lease(5).await.len(), 5);
        damaged
    }

    async fn enqueue(&self, name: &str, count: usize) {
        let delivery = |number| Delivery {
            id: MessageId::new(format!("msg_{name}_{number}")),
            received_at: self.clock.now(),
            traceparent: None,
            body: Bytes::from_static(b"{}"),
        };
        let deliveries: Vec<Delivery> = (0..count).map(delivery).collect();
        all_of(self.queue.enqueue_many(&deliveries).await).expect("the queue takes deliveries");
    }

    async fn lease(&self, max: usize) -> Vec<rollbook_core::queue::Lease> {
        self.queue.lease(request(max, LEASE_FOR, Duration::ZERO)).await.expect("the queue gives leases")
    }

    fn damage(&self, sql: &str) {
        let other = rusqlite::Connection::open(&self.path).expect("a second connection");
        other.execute_batch(sql).expect("the damage");
    }

    /// Asserts that an audit without repairs finds this and changes nothing, and that nothing is wrong after
    /// one with repairs.
    async fn repaired(&self) -> Audit {
        let seen = self.queue.audit(false).await.expect("an audit");
        assert!(!seen.is_clean());
        assert_eq!(self.queue.audit(false).await.as_ref(), Ok(&seen), "looking changes nothing");
        assert_eq!(self.queue.audit(true).await.as_ref(), Ok(&seen), "what is repaired is what was seen");
        let after = self.queue.audit(true).await.expect("an audit");
        assert!(after.is_clean(), "{after:?}");
        seen
    }

    /// Asserts that all ten messages and both dead letters exist and are counted, and that each message can
    /// be leased once.
    async fn assert_whole(&self) {
        self.clock.advance(LEASE_FOR);
        let stats = self.queue.stats().await.expect("counts");
        let oldest_received_at = Some(Timestamp::from_millis(1_785_312_000_000));
        assert_eq!(stats, QueueStats { ready: 10, dead: 2, oldest_received_at, ..QueueStats::default() });
        let mut given: Vec<String> = self.lease(100).await.iter().map(|lease| lease.id.to_string()).collect();
        given.sort_unstable();
        assert_eq!(given, (0..10).map(|number| format!("msg_a_{number}")).collect::<Vec<_>>());
        self.enqueue("later", 1).await;
        assert_eq!(self.lease(100).await.len(), 1, "and what comes later too");
        let all = DeadLetterFilter::default();
        assert_eq!(self.queue.redrive(&all.page(None, 10)).await.expect("a redrive").changed, 2);
        assert_eq!(self.lease(100).await.len(), 2);
    }
}

#[tokio::test]
async fn messages_with_lost_lease_rows_are_due_again() {
    let damaged = Damaged::new().await;
    damaged.damage("DELETE FROM leases");
    damaged.clock.advance(LEASE_FOR);
    assert_eq!(damaged.lease(100).await.len(), 5, "the control: the others are stranded");
    assert_eq!(damaged.repaired().await, Audit { messages: 10, stranded: 5, ..Audit::default() });
    damaged.assert_whole().await;
}

#[tokio::test]
async fn lease_rows_of_lost_messages_are_removed() {
    let damaged = Damaged::new().await;
    damaged.damage(
        "INSERT INTO leases (seq, due_at, token, attempts, unsettled, received_at) VALUES (900, 1, NULL, 1, 0, 1)",
    );
    assert_eq!(damaged.repaired().await, Audit { messages: 10, dangling: 1, ..Audit::default() });
    damaged.assert_whole().await;
}

#[tokio::test]
async fn counters_that_disagree_with_the_tables_are_corrected() {
    for (damage, said) in [
        ("UPDATE counters SET depth = 0", "said 0 messages and there are 10"),
        ("UPDATE counters SET depth = 2000000", "said 2000000 messages and there are 10"),
        ("UPDATE counters SET dead = 0", "said 0 dead letters and there are 2"),
        ("UPDATE counters SET dead = 7", "said 7 dead letters and there are 2"),
        ("UPDATE counters SET seq = 1", "the last number given was 1 and there is a message 12"),
        ("UPDATE counters SET token = 0", "the last token given was 0"),
        ("DELETE FROM counters", "the row of counters was missing"),
    ] {
        let damaged = Damaged::new().await;
        damaged.damage(damage);
        let seen = damaged.repaired().await;
        assert_eq!((seen.messages, seen.stranded, seen.dangling), (10, 0, 0), "{damage}");
        assert!(seen.notes.iter().any(|note| note.contains(said)), "{damage}: {:?}", seen.notes);
        damaged.assert_whole().await;
    }
}

#[tokio::test]
async fn new_messages_that_count_as_leased_are_due_again() {
    let damaged = Damaged::new().await;
    damaged.damage("UPDATE counters SET leased_to = 1000");
    assert_eq!(damaged.lease(100).await.len(), 0, "the control: they are stranded");
    let seen = damaged.repaired().await;
    assert_eq!((seen.messages, seen.stranded, seen.dangling, seen.notes.len()), (10, 5, 0, 1), "{seen:?}");
    damaged.assert_whole().await;
}

#[tokio::test]
async fn an_audit_of_more_than_a_step_repairs_all_of_it() {
    let damaged = Damaged::new().await;
    damaged.enqueue("many", MANY).await;
    assert_eq!(damaged.lease(MANY + 5).await.len(), MANY + 5);
    damaged.damage("DELETE FROM leases");
    let seen = damaged.repaired().await;
    assert_eq!((seen.messages, seen.stranded), (MANY as u64 + 10, MANY as u64 + 10));
    assert_eq!(damaged.lease(MANY + 100).await.len(), MANY + 10);
}

#[tokio::test]
async fn counters_that_are_too_small_refuse_no_settlement() {
    let damaged = Damaged::new().await;
    let lease = damaged.lease(1).await.remove(0);
    damaged.damage("UPDATE counters SET depth = 0, dead = 0");
    assert_eq!(all_of(damaged.queue.settle_many(&[(lease, Settlement::Ack)]).await), Ok(vec![Settled::Done]));
    assert_eq!(damaged.queue.remove_many(&[MessageId::new("msg_dead_0")]).await, Ok(1));
}
