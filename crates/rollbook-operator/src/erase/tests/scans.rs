//! Number of scans of the queue per erasure.

use async_trait::async_trait;
use rollbook_core::queue::{
    BulkStep, DeadLetter, DeadLetterPage, Discard, Durability, MessagesCursor, MessagesPage, QueueStats,
    QueuedMessage,
};

use super::*;

/// Passes calls on, counts scans of the queue, and adds a message before each scan.
struct CountingQueue {
    inner: Arc<MemoryQueue>,
    arriving: fn(usize) -> Option<String>,
    scans: AtomicUsize,
}

#[async_trait]
impl QueueAdmin for CountingQueue {
    async fn messages(
        &self,
        after: Option<&MessagesCursor>,
        limit: usize,
    ) -> Result<MessagesPage, QueueError> {
        if after.is_none() {
            let scan = self.scans.fetch_add(1, Ordering::SeqCst);
            if let Some(body) = (self.arriving)(scan) {
                put(&self.inner, &format!("arriving_{scan}"), &body, Timestamp::from_millis(START)).await;
            }
        }
        self.inner.messages(after, limit).await
    }

    async fn stats(&self) -> Result<QueueStats, QueueError> {
        self.inner.stats().await
    }

    async fn durability(&self) -> Result<Durability, QueueError> {
        self.inner.durability().await
    }

    async fn dead_letters(&self, page: &DeadLetterPage) -> Result<Vec<DeadLetter>, QueueError> {
        self.inner.dead_letters(page).await
    }

    async fn newest_dead_letters(&self, page: &DeadLetterPage) -> Result<Vec<DeadLetter>, QueueError> {
        self.inner.newest_dead_letters(page).await
    }

    async fn discards(&self, id: &MessageId) -> Result<Vec<Discard>, QueueError> {
        self.inner.discards(id).await
    }

    async fn redrive(&self, page: &DeadLetterPage) -> Result<BulkStep, QueueError> {
        self.inner.redrive(page).await
    }

    async fn discard(&self, page: &DeadLetterPage) -> Result<BulkStep, QueueError> {
        self.inner.discard(page).await
    }

    async fn message(&self, id: &MessageId) -> Result<Option<QueuedMessage>, QueueError> {
        self.inner.message(id).await
    }

    async fn remove_many(&self, ids: &[MessageId]) -> Result<usize, QueueError> {
        self.inner.remove_many(ids).await
    }
}

/// Erases `user_1` while such messages arrive before each scan. Returns the number of scans, and what is left.
async fn scans(arriving: fn(usize) -> Option<String>) -> (usize, Vec<String>) {
    let stage = Stage::new();
    stage.applied("msg_1", &of_user()).await;
    stage.queued("msg_2", &of_user().to_string()).await;
    let queue = CountingQueue { inner: stage.queue.clone(), arriving, scans: AtomicUsize::new(0) };
    let erasure = plan(stage.ports(&*stage.store, &queue), &[]).await;
    erasure.run().await.expect("both do it");
    (queue.scans.into_inner(), stage.left())
}

#[tokio::test]
async fn an_erasure_scans_the_queue_three_times_if_nothing_arrives() {
    assert_eq!(scans(|_| None).await, (3, Vec::new()));
}

/// Each message proves a new address, and a waitlist entry with that address is there.
#[tokio::test]
async fn the_number_of_scans_has_a_limit_also_if_every_scan_finds_a_new_address() {
    let (scanned, left) = scans(|scan| {
        let mut event = of_user();
        let address = format!("new_{scan}@x.example");
        let listed = json!({ "email_address": address, "verification": { "status": "verified" } });
        event["data"]["email_addresses"].as_array_mut().expect("a list").push(listed);
        Some(event.to_string())
    })
    .await;
    assert_eq!(scanned, SCANS_MAX);
    // The last message waits for a worker, which stores nothing of it.
    assert_eq!(left, [format!("arriving_{}", SCANS_MAX - 1)]);
}

#[tokio::test]
async fn an_address_in_any_message_of_the_person_is_known_before_other_messages_are_searched() {
    let stage = Stage::new();
    // The entry is before the message that proves the address.
    stage.queued("msg_1", &entry("wle_1", "ines@work.example").to_string()).await;
    stage.queued("msg_2", &of_user().to_string()).await;
    let erasure = plan(stage.ports(&*stage.store, &*stage.queue), &[]).await;
    assert_eq!(erasure.preview().await.expect("the store answers").queue.waiting, 2);
}

#[tokio::test]
async fn the_search_for_addresses_reports_the_table_and_the_rows_read() {
    let stage = Stage::new();
    stage.applied("msg_1", &of_user()).await;
    stage.applied("msg_2", &entry("wle_1", "ines@work.example")).await;
    let reported = Mutex::new(Vec::new());
    let progress = |progress: Progress| reported.lock().expect("no panic").push(progress);
    let ports = Ports { progress: &progress, ..stage.ports(&*stage.store, &*stage.queue) };
    plan(ports, &[]).await.run().await.expect("both do it");
    let reported = reported.lock().expect("no panic").clone();
    for table in ["users", "waitlist_entries"] {
        assert!(reported.contains(&Progress::Searching { table, rows: 1 }), "{table}: {reported:?}");
    }
    assert_eq!(reported[0].to_string(), "searching users for addresses: 1 row read");
    let erasing = Progress::Erasing(ErasedCounts { rows: 2, ledger: 1 });
    assert_eq!(erasing.to_string(), "erased so far: 2 rows, 1 entry of the ledger");
}
