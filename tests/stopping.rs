//! SIGTERM under load.

use std::time::Duration;

use rollbook_testkit::process::{Home, until};

use crate::audit::{self, CLEAN};
use crate::crashes::{BINARY, acknowledged, history, send, sent};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rolling_restart_under_load_loses_nothing_and_spends_no_attempt() {
    let history = history(3_000);
    let home = Home::new(BINARY).with("ROLLBOOK_LOG", "warn");
    let mut rollbook = home.start_ready(&["serve"]).await;
    let load = send(home.listen, &history, 1_000);
    let restarts = async {
        for round in 1..=4_u32 {
            until("some were taken", || async {
                home.metric_with("rollbook_deliveries_total", "queued")
                    .await
                    .is_some_and(|count| count > 100.0)
            })
            .await;
            rollbook.signal("TERM");
            let ended = tokio::time::timeout(Duration::from_secs(30), rollbook.exit()).await;
            assert!(ended.expect("an end within the drain").success(), "restart {round}: {}", home.log());
            rollbook = home.start_ready(&["serve"]).await;
        }
    };
    let (report, ()) = tokio::join!(load, restarts);
    assert_eq!(report.unanswered.len() + report.refused.len(), 0, "{:?}", report.last_error);
    // Long before a lease of 60 s expires: the leased messages were released.
    until("the queue is empty", || async { audit::waiting(&home.data()) == 0 }).await;
    rollbook.signal("TERM");
    assert!(rollbook.exit().await.success(), "{}", home.log());
    assert_eq!(audit::audit(&home.data(), &acknowledged(&history, &report), &sent(&history)), CLEAN);
    assert!(audit::compare(&home.data(), &history).await.is_equal());
    let store = rusqlite::Connection::open(home.data().join("store.db")).expect("the store's file");
    let most: u32 =
        store.query_row("SELECT max(attempts) FROM deliveries", [], |row| row.get(0)).expect("attempts");
    assert_eq!(most, 1, "a released lease is not an attempt");
}
