//! Memory is bounded in bytes. Each test runs in its own process: the kernel knows the process's peak.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rollbook_core::delivery::MessageId;
use rollbook_core::queue::{Consumer as _, DeadLetterFilter, LeaseRequest, PAGE_BYTES_MAX, QueueAdmin as _};
use rollbook_core::time::Timestamp;
use rollbook_sqlite::{QueueSettings, Schema, SqliteQueue, apply_migrations};
use rollbook_testkit::clock::ManualClock;
use rollbook_testkit::queues::request;

const MIB: usize = 1 << 20;
/// Memory that a read may use in addition to the bodies: caches of pages, one more message.
const OVERHEAD: usize = 6 * MIB;
const NOW: i64 = 1_785_312_000_000;

fn queue(path: &Path) -> SqliteQueue {
    let clock = Arc::new(ManualClock::new(Timestamp::from_millis(NOW)));
    let settings = QueueSettings { depth_max: 1_000_000, due_ahead_max: Duration::from_secs(600) };
    SqliteQueue::open(path, settings, clock).expect("the queue opens")
}

/// Creates messages of 1 MiB: this many new ones, this many that are due again, and this many dead letters.
fn filled(new: usize, again: usize, dead: usize) -> (tempfile::TempDir, SqliteQueue) {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("queue.db");
    apply_migrations(&path, Schema::Queue).expect("the migrations apply");
    let other = rusqlite::Connection::open(&path).expect("a second connection");
    other
        .execute_batch(&format!(
            "WITH RECURSIVE n(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n LIMIT {})
               INSERT INTO messages (seq, id, received_at, enqueued_at, body)
               SELECT n, 'msg_' || n, {NOW}, {NOW}, randomblob({MIB}) FROM n;
             INSERT INTO leases (seq, due_at, attempts, unsettled, received_at)
               SELECT seq, {NOW}, 1, 0, {NOW} FROM messages WHERE seq <= {again};
             UPDATE counters SET depth = {0}, seq = {0}, leased_to = {again};",
            new + again
        ))
        .expect("messages");
    for number in 0..dead {
        let sql =
            "INSERT INTO dead_letters (id, received_at, died_at, attempts, reason, detail, format, body)
                   VALUES ('dead_' || ?1, ?2, ?2, 1, 'store_refused', '', 1, randomblob(?3))";
        other.execute(sql, (number, NOW, MIB)).expect("a dead letter");
    }
    other.execute("UPDATE counters SET dead = ?1", (dead,)).expect("a count");
    (folder, queue(&path))
}

/// Returns the peak memory of this process, in bytes.
fn peak() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").expect("a process");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("a peak");
    line.trim().trim_end_matches(" kB").parse::<usize>().expect("a number") * 1024
}

#[tokio::test]
async fn a_lease_loads_no_more_than_its_limit_in_bytes() {
    let (_folder, queue) = filled(40, 40, 0);
    let before = peak();
    let request =
        LeaseRequest { bytes_max: 16 * MIB, ..request(100, Duration::from_secs(60), Duration::ZERO) };
    let leases = queue.lease(request).await.expect("leases");
    assert_eq!(leases.len(), 16);
    let grown = peak() - before;
    assert!(grown <= 16 * MIB + OVERHEAD, "{} MiB more", grown / MIB);
    assert!(grown >= 8 * MIB, "the test sees memory: {grown}");
}

#[tokio::test]
async fn pages_of_messages_and_dead_letters_are_bounded_in_bytes_and_show_all() {
    let (_folder, queue) = filled(30, 10, 40);
    let before = peak();
    let (mut seen, mut after) = (0, None);
    loop {
        let page = queue.messages(after.as_ref(), 500).await.expect("a page");
        assert!(page.messages.iter().map(|message| message.body.len()).sum::<usize>() <= PAGE_BYTES_MAX);
        seen += page.messages.len();
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    assert_eq!(seen, 40);
    let (mut seen, mut after) = (0, None);
    loop {
        let page = queue.dead_letters(&DeadLetterFilter::default().page(after, 500)).await.expect("a page");
        let Some(last) = page.last() else { break };
        assert!(page.iter().map(|letter| letter.body.len()).sum::<usize>() <= PAGE_BYTES_MAX);
        after = Some(last.position);
        seen += page.len();
    }
    assert_eq!(seen, 40);
    let grown = peak() - before;
    // A page is dropped after the next has been read.
    assert!(grown <= 2 * PAGE_BYTES_MAX + OVERHEAD, "{} MiB more", grown / MIB);
}

#[tokio::test]
async fn a_bulk_step_moves_no_more_than_a_page_of_bytes_and_counting_reads_none() {
    let (_folder, queue) = filled(0, 0, 40);
    let all = DeadLetterFilter::default();
    let before = peak();
    let counted = queue.count_dead_letters(&all.page(None, 500)).await.expect("a count");
    assert_eq!((counted.changed, counted.next), (40, None));
    assert!(peak() - before < OVERHEAD, "{} MiB more", (peak() - before) / MIB);
    let step = queue.redrive(&all.page(None, 500)).await.expect("a step");
    assert_eq!(step.changed, 8, "of one MiB each");
    let step = queue.discard(&all.page(step.next, 500)).await.expect("a step");
    assert_eq!(step.changed, 8);
    let only = DeadLetterFilter { id: Some(MessageId::new("dead_39")), ..all.clone() };
    assert_eq!(queue.redrive(&only.page(None, 500)).await.expect("a step").changed, 1);
    let (mut moved, mut after) = (0, step.next);
    while let Some(position) = after {
        let step = queue.redrive(&all.page(Some(position), 500)).await.expect("a step");
        (moved, after) = (moved + step.changed, step.next);
    }
    assert_eq!(moved, 23);
    assert_eq!(queue.stats().await.expect("counts").dead, 0);
}
