//! Experiments of `ops/RELIABILITY.md` that need the real binary: one fault at a time, under load. Afterwards
//! nothing may be lost, doubled, stuck or wrong.
//!
//! Each test also asserts that its fault happened.

mod backlogs;
mod clock_steps;
mod clocks;
mod disks;
mod growth;
mod hangs;
mod kills;
mod network;
mod power;
mod reloading;
mod rotation;
mod table;
mod versions;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rollbook_core::signature::SigningSecrets;
use rollbook_simulator::history::History;
use rollbook_simulator::sender::{DeliverSettings, Endpoint, Report, deliver};
use rollbook_testkit::clock::WallClock;
use rollbook_testkit::process::{Home, Process, SECRET, until, until_or};
use rollbook_testkit::servers::redis::RedisServer;
use rollbook_testkit::servers::shim::Shim;

use crate::audit::{self, CLEAN};
use crate::crashes::{BINARY, acknowledged, sent};

/// Returns a home with this queue and its rows in a file. Leases have the minimum duration: messages of a
/// killed process are due again after one.
fn home_on(queue_url: String) -> Home {
    Home::new(BINARY)
        .with("ROLLBOOK_QUEUE_URL", queue_url)
        .with("ROLLBOOK_DURABILITY", "strict")
        .with("ROLLBOOK_LEASE_FOR", "5s")
        .with("ROLLBOOK_LOG", "warn")
}

/// Returns the home with the disk and the clock of this shim.
fn on_shim(home: Home, shim: &Shim) -> Home {
    shim.environment().into_iter().fold(home, |home, (name, value)| home.with(name, value))
}

/// Returns the number of deliveries that the running receiver has made durable.
async fn taken(home: &Home) -> f64 {
    home.metric_with("rollbook_deliveries_total", r#""queued""#).await.unwrap_or(0.0)
}

/// Waits until the running receiver has made this many deliveries durable.
async fn until_taken(home: &Home, count: f64) {
    until("deliveries are taken", || async { taken(home).await >= count }).await;
}

/// Waits until the running receiver has refused this many deliveries because of its queue.
async fn until_refused(home: &Home, count: f64) {
    until("deliveries are answered 503", || async {
        // queue_full or queue_unavailable
        let refused = home.metric_with("rollbook_deliveries_total", r#"outcome="queue_"#).await;
        refused.is_some_and(|refused| refused >= count)
    })
    .await;
}

/// Number of senders, each with a connection: as many as Rollbook accepts from one balancer.
const SENDERS: u32 = 64;

/// Sends a shuffled history in which every fourth delivery comes twice, over many connections, until each
/// delivery is acknowledged.
async fn send_at_once(address: SocketAddr, history: &History) -> Report {
    let endpoint = Endpoint {
        address,
        path: "/webhooks/clerk".into(),
        secret: SigningSecrets::parse(SECRET).expect("a secret").first().clone(),
    };
    let settings = DeliverSettings {
        connections: SENDERS as usize,
        backoff_max: Duration::from_millis(200),
        give_up_after: Duration::from_secs(120),
        ..DeliverSettings::default()
    };
    let order = history.schedule(1, 250);
    deliver(&endpoint, &history.events, &order, Arc::new(WallClock), &settings, Arc::new(|_| {})).await
}

/// Returns the number of messages in Redis that are not settled, and of the dead letters.
fn messages(redis: &RedisServer) -> (u64, u64) {
    let count = |command: &str, key: &str| redis.cli(&[command, &format!("{{rollbook:0}}:{key}")]).parse();
    let (all, dead) = (count("hlen", "messages").expect("a count"), count("zcard", "dead").expect("a count"));
    (all - dead, dead)
}

/// Waits until Redis has no message except dead letters.
async fn until_empty(home: &Home, redis: &RedisServer) {
    let state = || {
        let asked = [
            "hlen {}messages",
            "zrange {}due 0 9 withscores",
            "zrange {}leases 0 9 withscores",
            "zcard {}ages",
            "xinfo stream {}new full",
            "xinfo stream {}again full",
        ];
        let answers = asked.map(|command| {
            let command = command.replace("{}", "{rollbook:0}:");
            let words: Vec<&str> = command.split(' ').collect();
            format!("{command}\n{}\n", redis.cli(&words))
        });
        format!("{}{}{}", answers.concat(), redis.log(), home.log())
    };
    until_or("the queue is empty", || std::future::ready(messages(redis).0 == 0), state).await;
}

/// Ends a process as an orchestrator does.
async fn stop(home: &Home, process: &mut Process) {
    process.signal("TERM");
    assert!(process.exit().await.success(), "{}", home.log());
}

/// Asserts that every delivery was acknowledged at the end.
fn assert_all_acknowledged(report: &Report) {
    assert_eq!(report.unanswered.len() + report.refused.len(), 0, "{:?}", report.last_error);
}

/// Waits until the queue in Redis is empty, stops the worker (or `serve`) of this home, and asserts that
/// the acknowledged deliveries and no others are applied, that there is no dead letter, and that the rows are
/// right.
async fn assert_nothing_lost(
    home: &Home,
    worker: &mut Process,
    redis: &RedisServer,
    history: &History,
    report: &Report,
) {
    until_empty(home, redis).await;
    assert_eq!(messages(redis).1, 0, "nothing deserves to be a dead letter: {}", home.log());
    stop(home, worker).await;
    assert_ledger(home, history, report).await;
}

/// Runs the experiment with a queue in a file.
async fn assert_clean(home: &Home, process: &mut Process, history: &History, report: &Report) {
    assert_all_acknowledged(report);
    until("the queue is empty", || async { audit::waiting(&home.data()) == 0 }).await;
    stop(home, process).await;
    let found = audit::audit(&home.data(), &acknowledged(history, report), &sent(history));
    assert_eq!(found, CLEAN);
    assert!(audit::compare(&home.data(), history).await.is_equal());
}

/// Asserts that ledger and rows are those of this history.
async fn assert_ledger(home: &Home, history: &History, report: &Report) {
    assert_all_acknowledged(report);
    let ledger = audit::ledger(&home.data());
    let ledger: BTreeSet<&str> = ledger.iter().map(String::as_str).collect();
    let lost: Vec<_> = acknowledged(history, report).difference(&ledger).copied().collect();
    assert_eq!(lost, [""; 0], "acknowledged and not applied");
    let unexpected: Vec<_> = ledger.difference(&sent(history)).copied().collect();
    assert_eq!(unexpected, [""; 0], "applied and never sent");
    assert!(audit::compare(&home.data(), history).await.is_equal(), "the rows differ from the truth");
}
