//! A Redis that answers late, or holds damaged data: no attempt is counted for it, and every fault is
//! reported.

use std::time::Duration;

use rollbook_testkit::process::{DEADLINE, Home, until};
use rollbook_testkit::servers::proxy::{Direction, Fault, FaultProxy};
use rollbook_testkit::servers::redis::RedisServer;
use rollbook_testkit::servers::shim::Shim;

use crate::crashes::BINARY;
use crate::raw_http::{exchange, signed, status};

/// Number of messages that are acknowledged before Redis becomes slow.
const MESSAGES: usize = 300;

/// Number of slow flushes after which each lane has lost an answer at least once: a flush takes longer than a
/// lane waits.
const SLOW_FLUSHES: i64 = 12;

fn home_on(queue_url: String) -> Home {
    Home::new(BINARY)
        .with("ROLLBOOK_QUEUE_URL", queue_url)
        .with("ROLLBOOK_LEASE_FOR", "10s")
        .with("ROLLBOOK_REDIS_TIMEOUT", "1s")
        .with("ROLLBOOK_GATE_BACKOFF_MAX", "200ms")
}

fn body(number: usize, padding: &str) -> String {
    let at = 1_785_312_000_000_u64;
    format!(
        r#"{{"type":"user.created","timestamp":{at},"data":{{"id":"user_{number}","object":"user","created_at":{at},"updated_at":{at},"first_name":"F","public_metadata":{{"p":"{padding}"}}}}}}"#
    )
}

/// Delivers this many messages, waits until all are acknowledged, and stops the receiver.
async fn deliver(server: &RedisServer, count: usize, padding: usize) {
    let home = home_on(server.url());
    let mut receiver = home.start_ready(&["receive"]).await;
    for number in 0..count {
        let padding: String = std::iter::repeat_with(fastrand::alphanumeric).take(padding).collect();
        let request = signed(&format!("msg_{number}"), &body(number, &padding));
        assert_eq!(status(&exchange(home.listen, &request).await), 200, "{}", home.log());
    }
    receiver.signal("TERM");
    assert!(receiver.exit().await.success(), "{}", home.log());
}

fn waiting(server: &RedisServer) -> String {
    server.cli(&["hlen", "{rollbook:0}:messages"])
}

/// Returns the number of applied messages, and the most attempts of one.
fn ledger(home: &Home) -> (u64, u64) {
    let store = rusqlite::Connection::open(home.data().join("store.db")).expect("the store's file");
    let sql = "SELECT count(*), coalesce(max(attempts), 0) FROM deliveries";
    store.query_row(sql, [], |row| Ok((row.get(0)?, row.get(1)?))).expect("the ledger")
}

/// Asserts that each message was applied with its first attempt and that none was a suspect.
fn assert_innocent(home: &Home, server: &RedisServer, count: usize) {
    assert_eq!(ledger(home), (count as u64, 1), "{}", home.log());
    assert_eq!(server.cli(&["zcard", "{rollbook:0}:dead"]), "0", "{}", home.log());
    for line in ["crash_loop", "in isolation", "another worker has the messages"] {
        assert!(!home.log().contains(line), "{line}: {}", home.log());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_that_flushes_slower_than_the_worker_waits_counts_no_attempt() {
    let shim = Shim::new("appendonly");
    let server = RedisServer::start_on(&shim, &[]).await;
    deliver(&server, MESSAGES, 0).await;
    let home = home_on(server.url());
    home.migrate();
    shim.delay_syncs(Duration::from_millis(1_500));
    let before = shim.syncs();
    let worker = home.start(&["work"]);
    // All messages may be applied before this many arrive.
    until("many flushes were slow", || {
        std::future::ready(shim.syncs() >= before + SLOW_FLUSHES || waiting(&server) == "0")
    })
    .await;
    assert!(home.log().contains("retrying until it answers"), "an answer was lost: {}", home.log());
    shim.delay_syncs(Duration::ZERO);
    until("all is applied", || std::future::ready(waiting(&server) == "0")).await;
    drop(worker);
    assert_innocent(&home, &server, MESSAGES);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn over_a_link_that_is_too_slow_for_a_batch_everything_is_applied_with_its_first_attempt() {
    const COUNT: usize = 24;
    let server = RedisServer::start().await;
    deliver(&server, COUNT, 64 * 1024).await;
    let proxy = FaultProxy::start(server.port());
    let home = home_on(proxy.url(&server.url()));
    home.migrate();
    // A batch takes three times the limit of an answer, and four messages stay within it.
    proxy.fail(Direction::ToClient, Fault::Throttle(400 * 1024));
    let worker = home.start(&["work"]);
    until("all is applied over the slow link", || std::future::ready(waiting(&server) == "0")).await;
    assert!(home.log().contains("retrying until it answers"), "an answer was lost: {}", home.log());
    drop(worker);
    assert_innocent(&home, &server, COUNT);
    assert!(DEADLINE > Duration::from_secs(10), "a link that is slow is not one that stands still");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_entry_that_can_not_be_read_is_logged_and_counted_like_any_dead_letter() {
    let server = RedisServer::start().await;
    let home = home_on(server.url());
    home.migrate();
    let _serving = home.start_ready(&["serve"]).await;
    let script = "redis.call('HSET', KEYS[1], ARGV[1], '\\9' .. string.rep('\\0', 8) .. 'a body') \
         return redis.call('XADD', KEYS[2], '*', 'i', ARGV[1])";
    for id in ["msg_damaged", "odd\u{fffd}"] {
        server.cli(&["eval", script, "2", "{rollbook:0}:messages", "{rollbook:0}:new", id]);
    }
    until("both are counted", async || {
        let labels = r#"reason="corrupt_entry",settlement="dead_letter""#;
        home.metric_with("rollbook_settlements_total", labels).await == Some(2.0)
    })
    .await;
    let log = home.log();
    let output = log.lines().filter(|line| line.contains("msg_damaged") && line.contains("corrupt_entry"));
    assert_eq!(output.count(), 1, "{log}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_deployment_on_the_same_keys_refuses_to_start_and_doctor_names_their_owner() {
    let server = RedisServer::start().await;
    let production = home_on(server.url());
    production.migrate();
    let _production = production.start_ready(&["receive"]).await;
    assert_eq!(status(&exchange(production.listen, &signed("msg_1", &body(1, ""))).await), 200);
    let secret = "whsec_c3RhZ2luZyBzdGFnaW5nIHN0YWdpbmcgc3RhZ2luZw==";
    let staging = home_on(server.url()).with("CLERK_WEBHOOK_SIGNING_SECRET", secret);
    staging.migrate();
    for face in ["receive", "work", "serve"] {
        let refused = staging.command(&[face]).output().expect("the binary starts");
        let output = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(!refused.status.success(), "{face}: {output}");
        assert!(
            output.contains("belongs to another deployment") && output.contains("redis_key_prefix"),
            "{face}: {output}"
        );
    }
    assert_eq!(waiting(&server), "1", "nothing of it is taken");
    let doctor = |home: &Home| {
        let ran = home.command(&["doctor", "--face", "receive"]).output().expect("the binary starts");
        String::from_utf8_lossy(&ran.stdout).into_owned()
    };
    let output = doctor(&production);
    assert!(output.contains("keys {rollbook:*, owner secrets="), "{output}");
    assert!(!output.contains(secret) && !output.contains("C2FVsBQIhrscChlQIMV"), "{output}");
    assert!(doctor(&staging).contains("belongs to another deployment"), "{}", doctor(&staging));
    let own = staging.with("ROLLBOOK_REDIS_KEY_PREFIX", "staging");
    let _staging = own.start_ready(&["receive"]).await;
    assert!(doctor(&own).contains("keys {staging:*"), "{}", doctor(&own));
}
