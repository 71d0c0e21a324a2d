//! Kills of the process at random times, and of the store's answers.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use proptest::prelude::*;
use rollbook_forwarder::Verdict;

use crate::stage::{Stage, refused, settings};

/// A kill comes so many milliseconds after the start; the endpoint answers by a number that each request draws.
async fn survives(kills: Vec<u64>, seed: u64) {
    let drawn = Arc::new(AtomicU64::new(seed));
    let stage = Stage::new(move |_, at| {
        let number = drawn.fetch_add(7_919, Ordering::Relaxed) % 11;
        let delay = Duration::from_millis(number * 37);
        // For half of a day the endpoint fails often.
        let verdict = match number {
            0 if at < Duration::from_secs(43_200) => refused(500),
            1 if at < Duration::from_secs(43_200) => Verdict::TimedOut,
            _ => Verdict::Accepted,
        };
        (delay, verdict)
    });
    let mut running = stage.begin(settings()).await;
    for kill in &kills {
        stage.write(&["user_1", "user_2", "user_1", "user_3", "user_4", "user_1"]).await;
        tokio::time::sleep(Duration::from_millis(*kill)).await;
        running.kill().await;
        running = stage.start(settings());
    }
    stage.until_settled().await;
    running.stop().await;
    let (got, failed) = (stage.endpoint.got(), stage.failed().await);
    let accepted: HashSet<u64> = stage.endpoint.accepted().into_iter().collect();
    for position in 1..=kills.len() as u64 * 6 {
        assert!(accepted.contains(&position) || failed.contains(&position), "{position} is lost");
    }
    for subject in ["user_1", "user_2", "user_3", "user_4"] {
        let mut known = HashSet::new();
        let all = &crate::stage::by_subject(&got)[subject];
        let first: Vec<u64> = all.iter().copied().filter(|position| known.insert(*position)).collect();
        assert!(first.is_sorted(), "{subject}: {first:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn a_process_that_is_killed_at_any_time_loses_nothing_and_keeps_the_order(
        kills in prop::collection::vec(0_u64..60_000, 1..8),
        seed in 0_u64..10_000,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
        runtime.expect("a runtime").block_on(survives(kills, seed));
    }
}
