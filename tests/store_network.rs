//! The network between the worker and Postgres fails under load: resets, a black hole, dropped
//! connections.

use std::collections::BTreeSet;

use rollbook_testkit::process::{Home, Process, until};
use rollbook_testkit::servers::postgres::PostgresServer;
use rollbook_testkit::servers::proxy::{Break, Fault, FaultProxy};

use crate::audit;
use crate::crashes::{self, BINARY, SEED, history, send_part, sent};
use crate::rows;

/// Maximum bytes in each direction after which a connection is reset.
const BYTES_MAX: u64 = 20_000;
const RESETS: usize = 20;

/// Returns the store's state in the worker's `/readyz`.
async fn store_is(home: &Home, well: bool) -> bool {
    let answer = home.ops_get("/readyz").await;
    let body = answer.map(|answer| serde_json::from_str::<serde_json::Value>(&answer.body).expect("JSON"));
    body.is_some_and(|body| (body["parts"]["store"] == "ok") == well)
}

/// Fault of the network while a part of the events is sent.
#[derive(Clone, Copy, Debug)]
enum Step {
    Resets,
    BlackHole,
    Forgets,
    Cuts,
}

impl Step {
    /// Breaks the network until the worker notices, and repairs it.
    async fn take(self, home: &Home, proxy: &FaultProxy) {
        let before = proxy.broken();
        match self {
            Self::Resets => {
                proxy.fail_both(Fault::within(BYTES_MAX, Break::Reset));
                until("connections are reset", || std::future::ready(proxy.broken() >= before + RESETS))
                    .await;
            }
            Self::BlackHole => {
                proxy.fail_both(Fault::after(0, Break::BlackHole));
                until("the black hole is noticed", || store_is(home, false)).await;
            }
            Self::Forgets => proxy.forget(),
            Self::Cuts => proxy.cut(),
        }
        proxy.heal();
        until("the store answers", || store_is(home, true)).await;
    }
}

/// Returns the ids of the ledger, and the most attempts of one.
async fn ledger(server: &PostgresServer) -> (BTreeSet<String>, usize) {
    let lines = server.psql("app", "SELECT svix_id, attempts FROM clerk.deliveries").await;
    let lines = lines.lines().map(|line| line.split_once('|').expect("two columns"));
    let (ids, attempts): (BTreeSet<String>, Vec<usize>) =
        lines.map(|(id, attempts)| (id.to_owned(), attempts.parse::<usize>().expect("a number"))).unzip();
    (ids, attempts.into_iter().max().unwrap_or_default())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_network_that_breaks_between_worker_and_postgres_loses_nothing_and_spends_no_attempt() {
    let server = PostgresServer::start_with(&[("fsync", "off")]).await;
    server.create_database("app").await;
    let proxy = FaultProxy::start(server.port());
    let home = Home::new(BINARY)
        .with("DATABASE_URL", proxy.url(&server.url("app")))
        .with("ROLLBOOK_STATEMENT_TIMEOUT", "2s")
        .with("ROLLBOOK_DATABASE_CONNECT_TIMEOUT", "2s")
        .with("ROLLBOOK_GATE_BACKOFF_MAX", "500ms")
        .with("ROLLBOOK_LOG", "warn");
    home.migrate();
    let mut rollbook: Process = home.start_ready(&["serve"]).await;
    let history = history(3_000);
    let order = history.schedule(SEED, 250);
    let steps = [Step::Resets, Step::Forgets, Step::BlackHole, Step::Cuts, Step::Resets];
    let mut acknowledged = BTreeSet::new();
    for (step, part) in steps.into_iter().zip(order.chunks(order.len().div_ceil(steps.len()))) {
        let sending = send_part(home.listen, &history, part, 400);
        let (report, ()) = tokio::join!(sending, step.take(&home, &proxy));
        assert_eq!(report.unanswered.len() + report.refused.len(), 0, "{step:?}: {:?}", report.last_error);
        acknowledged.extend(crashes::acknowledged(&history, &report));
        until("the queue is empty", || async { audit::waiting(&home.data()) == 0 }).await;
    }
    let dead = home.metric("rollbook_dead_letters").await;
    rollbook.signal("TERM");
    assert!(rollbook.exit().await.success(), "{}", home.log());

    let (ids, attempts) = ledger(&server).await;
    let sent = sent(&history);
    assert_eq!(
        acknowledged.iter().filter(|id| !ids.contains(**id)).count(),
        0,
        "acknowledged and not applied"
    );
    assert_eq!(ids.iter().filter(|id| !sent.contains(id.as_str())).count(), 0, "applied and never sent");
    assert_eq!((attempts, dead), (1, Some(0.0)), "an outage is never a message's failure");
    assert!(rows::equal(server.url("app"), &history).await);

    // Control: a missing row is detected.
    server.psql("app", "DELETE FROM clerk.users WHERE id = (SELECT min(id) FROM clerk.users)").await;
    assert!(!rows::equal(server.url("app"), &history).await);
}
