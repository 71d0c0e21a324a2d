//! A store of which any call fails at random, also after it took effect.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use proptest::prelude::*;
use rollbook_core::store::StoreError;
use rollbook_forwarder::{ForwardSettings, Ports, Verdict};
use rollbook_testkit::faults::{Fault, FaultyStore};

use crate::stage::{Running, Stage, by_subject, refused, settings};

/// Every call of the forwarder to the store draws a number: some fail, some lose their answer, some are late.
fn fault(drawn: u64) -> Fault<StoreError> {
    let error = || StoreError::Unavailable("a fault that the test asked for".to_owned());
    match drawn % 19 {
        0..=2 => Fault::Fail(error()),
        3 | 4 => Fault::FailAfter(error()),
        5 => Fault::Late(Duration::from_millis(drawn % 30_000)),
        6 => Fault::FailLate(Duration::from_millis(drawn % 30_000), error()),
        _ => Fault::None,
    }
}

async fn survives(seed: u64, expand: bool) {
    let drawn = Arc::new(AtomicU64::new(seed));
    let next =
        move || drawn.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed).rotate_left(17).wrapping_mul(31);
    let answers = next.clone();
    let stage = Stage::new(move |_, at| {
        let number = answers();
        let fails = number % 9 == 0 && at < Duration::from_secs(43_200);
        let verdict = if fails { refused(500) } else { Verdict::Accepted };
        (Duration::from_millis(number % 400), verdict)
    });
    let is_faulty = Arc::new(AtomicBool::new(true));
    let faults = Arc::clone(&is_faulty);
    let store = Arc::new(FaultyStore::new(stage.store.clone(), move |_| {
        if faults.load(Ordering::Relaxed) { fault(next()) } else { Fault::None }
    }));
    let ports = Ports {
        changes: store.clone(),
        forwards: store.clone(),
        rows: store.clone(),
        clock: stage.clock.clone(),
    };
    // It begins before the first change, so that all are sent.
    stage.begin(settings()).await.stop().await;
    let forward = ForwardSettings { expand, ..settings() };
    let running = Running::new(ports, forward, stage.endpoint.clone());
    for _ in 0..12 {
        stage.write(&["user_1", "user_2", "user_1", "user_3"]).await;
        tokio::time::sleep(Duration::from_secs(5)).await;
    }
    is_faulty.store(false, Ordering::Relaxed);
    stage.until_settled().await;
    running.stop().await;
    let (got, failed) = (stage.endpoint.got(), stage.failed().await);
    let accepted: HashSet<u64> = stage.endpoint.accepted().into_iter().collect();
    for position in 1..=48 {
        assert!(accepted.contains(&position) || failed.contains(&position), "{position} is lost");
    }
    for (subject, all) in by_subject(&got) {
        let mut known = HashSet::new();
        let first: Vec<u64> = all.into_iter().filter(|position| known.insert(*position)).collect();
        assert!(first.is_sorted(), "{subject}: {first:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn a_store_that_fails_at_any_call_loses_no_change_and_keeps_the_order(seed in any::<u64>(), expand in any::<bool>()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
        runtime.expect("a runtime").block_on(survives(seed, expand));
    }
}
