//! The network between Rollbook and Redis, and between senders and the receiver: connections that are reset
//! at any byte, dropped, or slow. The tests for Postgres are in `crates/rollbook-postgres`.

use std::time::{Duration, Instant};

use rollbook_core::signature::SigningSecrets;
use rollbook_core::time::Clock as _;
use rollbook_http::client::Connection;
use rollbook_simulator::history::Event;
use rollbook_simulator::sender::post;
use rollbook_testkit::clock::WallClock;
use rollbook_testkit::process::{Home, SECRET, until};
use rollbook_testkit::servers::proxy::{Break, Direction, Fault, FaultProxy};
use rollbook_testkit::servers::redis::RedisServer;
use tokio::task::JoinSet;

use super::{
    SENDERS, assert_clean, assert_nothing_lost, home_on, send_at_once, stop, taken, until_refused,
    until_taken,
};
use crate::crashes::{BINARY, history, send};

/// Number of connections to Redis that break in one run.
const BREAKS: usize = 40;
/// Maximum time of every answer; Svix waits 15 s.
const ANSWERED_WITHIN: Duration = Duration::from_secs(10);

/// Redis behind a proxy, and a home that connects to the proxy.
async fn behind_a_proxy() -> (RedisServer, FaultProxy, Home) {
    let redis = RedisServer::start().await;
    let proxy = FaultProxy::start(redis.port());
    let home = home_on(proxy.url(&redis.url()));
    home.migrate();
    (redis, proxy, home)
}

async fn resets_towards(direction: Direction, within: u64) {
    let (redis, proxy, home) = behind_a_proxy().await;
    let mut rollbook = home.start_ready(&["serve"]).await;
    let history = history(1_500);
    let resets = async {
        until_taken(&home, 100.0).await;
        proxy.fail(direction, Fault::within(within, Break::Reset));
        until("connections break", || std::future::ready(proxy.broken() >= BREAKS)).await;
        proxy.heal();
    };
    let (report, ()) = tokio::join!(send_at_once(home.listen, &history), resets);
    assert_nothing_lost(&home, &mut rollbook, &redis, &history, &report).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn resets_at_any_byte_sent_to_redis_lose_nothing() {
    resets_towards(Direction::ToServer, 30_000).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn resets_at_any_byte_of_redis_answers_lose_nothing() {
    resets_towards(Direction::ToClient, 2_000).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn resets_at_any_byte_between_sender_and_receiver_cause_only_duplicates() {
    let home = Home::new(BINARY).with("ROLLBOOK_LOG", "warn");
    let mut rollbook = home.start_ready(&["serve"]).await;
    let proxy = FaultProxy::start(home.listen.port());
    let address = ([127, 0, 0, 1], proxy.port()).into();
    let history = history(1_500);
    let resets = async {
        proxy.fail(Direction::ToServer, Fault::within(20_000, Break::Reset));
        proxy.fail(Direction::ToClient, Fault::within(2_000, Break::Reset));
        until("connections break", || std::future::ready(proxy.broken() >= 3 * BREAKS)).await;
        proxy.heal();
    };
    let (report, ()) = tokio::join!(send(address, &history, 10_000), resets);
    assert_clean(&home, &mut rollbook, &history, &report).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_behind_a_network_that_drops_packets_is_answered_503_and_no_connection_leaks() {
    let (redis, proxy, home) = behind_a_proxy().await;
    let home = home.with("ROLLBOOK_REDIS_TIMEOUT", "1s");
    let mut receiver = home.start_ready(&["receive"]).await;
    let history = history(1_500);
    let swallow = async {
        until_taken(&home, 300.0).await;
        let files = home.metric("process_open_fds").await.expect("a count");
        proxy.fail_both(Fault::after(0, Break::BlackHole));
        until_refused(&home, 2.0 * f64::from(SENDERS)).await;
        // Existing connections stay silent; new ones work.
        proxy.forget();
        proxy.heal();
        let (before, started) = (taken(&home).await, Instant::now());
        until_taken(&home, before + 1.0).await;
        (files, started.elapsed())
    };
    let (report, (files, recovered)) = tokio::join!(send_at_once(home.listen, &history), swallow);
    assert!(recovered < ANSWERED_WITHIN, "{recovered:?}");
    until("the silent connections are closed", || async {
        home.metric("process_open_fds").await.is_some_and(|now| now <= files)
    })
    .await;
    stop(&home, &mut receiver).await;
    let mut worker = home.start_ready(&["work"]).await;
    assert_nothing_lost(&home, &mut worker, &redis, &history, &report).await;
}

/// Sends a few deliveries at once. Returns each status, and the duration of the answer.
async fn attempts(home: &Home, events: &[Event]) -> Vec<(u16, Duration)> {
    let mut senders = JoinSet::new();
    for event in events {
        let (address, event) = (home.listen, event.clone());
        senders.spawn(async move {
            let secret = SigningSecrets::parse(SECRET).expect("a secret").first().clone();
            let connection = Connection::connect(address, Duration::from_secs(15)).await;
            let mut connection = connection.expect("a connection");
            let started = Instant::now();
            let answer = post(&mut connection, "/webhooks/clerk", &event, &secret, WallClock.now()).await;
            (answer.expect("an answer").status, started.elapsed())
        });
    }
    senders.join_all().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn behind_200_ms_of_latency_every_delivery_is_taken_in_time() {
    let (redis, proxy, home) = behind_a_proxy().await;
    let mut rollbook = home.start_ready(&["serve"]).await;
    proxy.fail_both(Fault::Delay(Duration::from_millis(200)));
    let history = history(400);
    let report = send_at_once(home.listen, &history).await;
    assert_eq!(report.attempts, report.acknowledged.len() as u64, "one attempt is enough");
    let slowest = report.latencies.at(1000);
    assert!(slowest < ANSWERED_WITHIN, "{slowest:?}");
    assert_nothing_lost(&home, &mut rollbook, &redis, &history, &report).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn over_a_link_of_1_kib_a_second_every_answer_comes_in_time_and_is_200_or_503() {
    let (redis, proxy, home) = behind_a_proxy().await;
    let mut receiver = home.start_ready(&["receive"]).await;
    let history = history(400);
    proxy.fail_both(Fault::Throttle(1_024));
    let answers = attempts(&home, &history.events[..SENDERS as usize]).await;
    assert!(answers.iter().any(|(status, _)| *status == 503), "the link is not narrow enough: {answers:?}");
    for (status, took) in answers {
        assert!(status == 200 || status == 503, "{status}");
        assert!(took < ANSWERED_WITHIN, "{status} after {took:?}");
    }
    proxy.heal();
    let report = send_at_once(home.listen, &history).await;
    stop(&home, &mut receiver).await;
    let mut worker = home.start_ready(&["work"]).await;
    assert_nothing_lost(&home, &mut worker, &redis, &history, &report).await;
}
