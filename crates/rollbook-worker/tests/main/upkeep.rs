//! Retention while the worker works.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use rollbook_core::catalog::USERS;
use rollbook_core::delivery::MessageId;
use rollbook_core::store::{Ledger as _, Rows as _, StoreError};
use rollbook_testkit::events::{START, deleted, event, user};
use rollbook_testkit::faults::{Fault, FaultyStore, StoreCall};
use rollbook_worker::UpkeepSettings;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::support::Bench;

const HOUR: Duration = Duration::from_secs(60 * 60);

async fn bench(upkeep: UpkeepSettings) -> Bench {
    let mut bench = Bench::new();
    bench.settings.upkeep = upkeep;
    bench.enqueue("msg_1", event("user.created", START, &user("user_1", START)).to_string()).await;
    bench.enqueue("msg_2", event("user.deleted", START + 5, &deleted("user", "user_1")).to_string()).await;
    bench
}

async fn has_ledger_entry(bench: &Bench) -> bool {
    bench.store.delivery(&MessageId::new("msg_1")).await.expect("the model answers").is_some()
}

async fn name(bench: &Bench) -> Option<String> {
    let row = bench.store.get(&USERS, "user_1").await.expect("the model answers")?;
    row.columns["first_name"].as_str().map(str::to_owned)
}

#[tokio::test(start_paused = true)]
async fn old_ledger_entries_and_old_deleted_content_are_removed_when_due_and_not_before() {
    let bench = bench(UpkeepSettings {
        ledger_kept_for: Some(7 * HOUR),
        deleted_kept_for: Some(3 * HOUR),
        ..UpkeepSettings::default()
    })
    .await;
    let stop = CancellationToken::new();
    let watching = async {
        bench.drained().await;
        tokio::time::sleep(2 * HOUR).await;
        assert!(has_ledger_entry(&bench).await && name(&bench).await.is_some());
        tokio::time::sleep(2 * HOUR).await;
        assert!(has_ledger_entry(&bench).await);
        assert_eq!(name(&bench).await, None, "it was kept for three hours");
        tokio::time::sleep(4 * HOUR).await;
        assert!(!has_ledger_entry(&bench).await, "it was kept for seven hours");
        stop.cancel();
    };
    let (ended, ()) = tokio::join!(bench.worker().run(stop.clone()), watching);
    ended.expect("it stops in order");
    assert_eq!(bench.metric("rollbook_tidied_total{what=\"ledger_lines\"}").as_deref(), Some("2"));
    assert_eq!(bench.metric("rollbook_tidied_total{what=\"deleted_rows\"}").as_deref(), Some("1"));
}

#[tokio::test(start_paused = true)]
async fn without_retention_nothing_is_removed_and_the_store_is_not_asked() {
    let upkeep =
        UpkeepSettings { ledger_kept_for: None, changes_kept_for: None, ..UpkeepSettings::default() };
    let bench = bench(upkeep).await;
    let looks = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&looks);
    let store = FaultyStore::new(bench.store.clone(), move |call| {
        counted.fetch_add(usize::from(matches!(call, StoreCall::Tidy(_))), Ordering::Relaxed);
        Fault::None
    });
    let stop = CancellationToken::new();
    let watching = async {
        bench.drained().await;
        tokio::time::sleep(10 * HOUR).await;
        stop.cancel();
    };
    let (ended, ()) = tokio::join!(bench.worker_with_store(store).run(stop.clone()), watching);
    ended.expect("it stops in order");
    assert!(has_ledger_entry(&bench).await && name(&bench).await.is_some());
    assert_eq!(looks.load(Ordering::Relaxed), 0);
}

#[tokio::test(start_paused = true)]
async fn a_store_that_fails_in_retention_still_applies_and_retention_is_retried() {
    let bench = bench(UpkeepSettings { ledger_kept_for: Some(HOUR), ..UpkeepSettings::default() }).await;
    let refusals = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&refusals);
    let store = FaultyStore::new(bench.store.clone(), move |call| match call {
        StoreCall::Tidy(_) if counted.fetch_add(1, Ordering::Relaxed) < 150 => {
            Fault::Fail(StoreError::Deployment("no right to delete".into()))
        }
        _ => Fault::None,
    });
    let stop = CancellationToken::new();
    let watching = async {
        bench.drained().await;
        tokio::time::sleep(2 * HOUR).await;
        assert!(refusals.load(Ordering::Relaxed) > 100);
        assert!(has_ledger_entry(&bench).await, "all this time it was refused");
        bench.enqueue("msg_3", event("user.created", START, &user("user_2", START)).to_string()).await;
        bench.drained().await;
        tokio::time::sleep(2 * HOUR).await;
        assert!(!has_ledger_entry(&bench).await);
        stop.cancel();
    };
    let (ended, ()) = tokio::join!(bench.worker_with_store(store).run(stop.clone()), watching);
    ended.expect("it stops in order");
    let failed = bench.metric("rollbook_background_turns_total{outcome=\"failed\",task=\"retention\"}");
    assert_eq!(failed.as_deref(), Some("150"));
}

/// A changed setting takes effect at the start: content deleted before is erased at once.
#[tokio::test(start_paused = true)]
async fn the_first_round_begins_within_a_second_of_the_start() {
    let bench = bench(UpkeepSettings { deleted_kept_for: Some(HOUR), ..UpkeepSettings::default() }).await;
    let begun = Arc::new(Notify::new());
    let seen = Arc::clone(&begun);
    let store = FaultyStore::new(bench.store.clone(), move |call| {
        if matches!(call, StoreCall::Tidy(_)) {
            seen.notify_one();
        }
        Fault::None
    });
    let stop = CancellationToken::new();
    let watching = async {
        let within = tokio::time::timeout(Duration::from_millis(1_001), begun.notified()).await;
        stop.cancel();
        within.expect("it begins soon");
    };
    let (ended, ()) = tokio::join!(bench.worker_with_store(store).run(stop.clone()), watching);
    ended.expect("it stops in order");
}
