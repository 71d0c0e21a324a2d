//! Unauthenticated clients that hold connections, bytes and slots while genuine deliveries arrive: all
//! genuine ones are answered 200, about as fast as without the attack. Each test waits until its attack is in
//! effect, and proves by a counter that the receiver had to defend itself.

use std::net::SocketAddr;
use std::time::Duration;

use rollbook_receiver::Settings;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, interval_at};

use crate::client::{Client, Post};
use crate::server::{Server, eventually};

/// Interval of genuine deliveries: one each 5 ms, for a second, in several rounds.
const INTERVAL: Duration = Duration::from_millis(5);
const DELIVERIES: usize = 200;
const ROUNDS: usize = 3;
/// Number of connections kept open for genuine deliveries; as many deliveries use new connections.
const KEPT_CONNECTIONS: usize = 4;
const SLOWDOWN_MAX: u32 = 5;
/// Times below this show the scheduling of a busy machine rather than the receiver.
const NOISE: Duration = Duration::from_millis(20);
/// Pause between two attempts of one attacker; a dropped connection costs the attacker nothing else.
const RETRY_PAUSE: Duration = Duration::from_millis(500);
/// Number of attackers that hold connections, then of those that hold bytes.
const CONNECTION_ATTACKERS: u32 = 200;
const BYTE_ATTACKERS: u32 = 64;

type Attack = fn(SocketAddr) -> std::pin::Pin<Box<dyn Future<Output = ()> + Send>>;

/// Sends genuine deliveries, asserts that each is answered 200, and returns the 99th percentile of the times.
async fn p99_of_genuine(server: &Server, round: &str) -> Duration {
    let mut clock = interval(INTERVAL);
    let mut sending = JoinSet::new();
    let mut kept: Vec<Client> = Vec::new();
    for number in 0..KEPT_CONNECTIONS {
        // A silent connection would count as one of the attacker's.
        kept.extend(deliver(server.address, format!("msg_{round}_kept_{number}"), None).await.1);
    }
    let mut took = Vec::new();
    for number in 0..DELIVERIES {
        clock.tick().await;
        while let Some(done) = sending.try_join_next() {
            finish(done.unwrap(), &mut took, &mut kept);
        }
        let known = if number % 2 == 0 { kept.pop() } else { None };
        sending.spawn(deliver(server.address, format!("msg_{round}_{number}"), known));
    }
    while let Some(done) = sending.join_next().await {
        finish(done.unwrap(), &mut took, &mut kept);
    }
    assert_eq!(took.len(), DELIVERIES);
    took.sort_unstable();
    took[DELIVERIES * 99 / 100 - 1]
}

fn finish((time, client): (Duration, Option<Client>), took: &mut Vec<Duration>, kept: &mut Vec<Client>) {
    took.push(time);
    if kept.len() < KEPT_CONNECTIONS {
        kept.extend(client);
    }
}

/// Sends one delivery of usual size. Returns its time, and its client unless the connection closes.
async fn deliver(address: SocketAddr, id: String, known: Option<Client>) -> (Duration, Option<Client>) {
    let post = Post::new(&id, vec![b' '; 2_500]).bytes();
    let is_known = known.is_some();
    let started = Instant::now();
    let mut client = match known {
        Some(client) => client,
        None => Client::connect(address).await,
    };
    client.send(post).await;
    let answer = client.try_answer().await;
    let time = started.elapsed();
    let answer = answer.unwrap_or_else(|| panic!("{id} (known: {is_known}) was dropped after {time:?}"));
    answer.assert_status("queued");
    (time, (!answer.closes()).then_some(client))
}

/// Sends genuine deliveries first without and then during an attack, and compares the times.
async fn assert_withstood(
    settings: Settings,
    (attackers, attack): (u32, Attack),
    is_under_way: impl Fn(&Server) -> bool,
) -> Server {
    let server = Server::start(settings).await;
    let quiet = p99_of_genuine(&server, "quiet").await;
    let mut attacking = JoinSet::new();
    for number in 0..attackers {
        let address = server.address;
        attacking.spawn(async move {
            // Spread over time, so that the attackers do not start together.
            let mut turns = interval_at(Instant::now() + RETRY_PAUSE / attackers * number, RETRY_PAUSE);
            turns.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                turns.tick().await;
                attack(address).await;
            }
        });
    }
    eventually(|| is_under_way(&server)).await;
    // Other processes of this machine make some rounds slow; a receiver with the fault is slow in every
    // round.
    let mut attacked = Duration::MAX;
    for round in 0..ROUNDS {
        attacked = attacked.min(p99_of_genuine(&server, &format!("attacked_{round}")).await);
    }
    println!("p99: {quiet:?} quiet, {attacked:?} attacked");
    assert!(attacked < SLOWDOWN_MAX * quiet.max(NOISE), "{quiet:?} quiet, {attacked:?} attacked");
    attacking.shutdown().await;
    server
}

fn dropped(server: &Server) -> f64 {
    server.metric("rollbook_connections_closed_total{reason=\"full\"}")
}

/// Sends `bytes`, then one piece at intervals, until the server closes the connection.
async fn hold(address: SocketAddr, bytes: Vec<u8>, then: &'static [u8]) {
    let Ok(mut stream) = TcpStream::connect(address).await else { return };
    if stream.write_all(&bytes).await.is_err() {
        return;
    }
    let (mut reads, mut writes) = stream.split();
    let trickle = async {
        let mut pieces = interval(Duration::from_millis(100));
        loop {
            pieces.tick().await;
            if !then.is_empty() && writes.write_all(then).await.is_err() {
                return;
            }
        }
    };
    let answered = async {
        // Reads to the end of the connection, not only of the response.
        let mut answer = tokio::io::sink();
        _ = tokio::io::copy(&mut reads, &mut answer).await;
    };
    tokio::select! {
        () = trickle => {}
        () = answered => {}
    }
}

fn forged(length: usize, sent: usize) -> Vec<u8> {
    let head = Post::new("msg_forged", "").head(&format!("content-length: {length}"));
    [head, vec![b' '; sent]].concat()
}

/// Settings with much less body memory than the attackers ask for.
fn little_body_memory() -> Settings {
    Settings { body_max: 128 * 1024, buffered_max: 2 * 1024 * 1024, ..Settings::default() }
}

/// Settings with far fewer connections than there are attackers.
fn few_connections() -> Settings {
    Settings { connections_max: 128, ..Settings::default() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bodies_without_delivery_headers_take_no_memory_from_genuine_ones() {
    let attack: Attack = |address| {
        let head = "POST /webhooks/clerk HTTP/1.1\r\nhost: here\r\ncontent-length: 100000\r\n\r\n";
        let bytes = [head.as_bytes(), &vec![b' '; 90_000]].concat();
        Box::pin(hold(address, bytes, b"    "))
    };
    let server = assert_withstood(little_body_memory(), (BYTE_ATTACKERS, attack), |server| {
        server.count("bad_headers") >= 100.0
    })
    .await;
    assert!(server.count("overloaded").abs() < 0.5);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stalled_large_bodies_with_forged_headers_take_no_memory_from_genuine_ones() {
    let attack: Attack = |address| Box::pin(hold(address, forged(100_000, 90_000), b" "));
    assert_withstood(little_body_memory(), (BYTE_ATTACKERS, attack), |server| {
        server.count("overloaded") >= 100.0
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stalled_small_bodies_with_forged_headers_take_no_memory_from_genuine_ones() {
    let attack: Attack = |address| Box::pin(hold(address, forged(32_000, 31_000), b" "));
    assert_withstood(little_body_memory(), (CONNECTION_ATTACKERS, attack), |server| {
        server.count("overloaded") >= 20.0
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn silent_connections_do_not_block_genuine_senders() {
    let attack: Attack = |address| Box::pin(hold(address, Vec::new(), b""));
    assert_withstood(few_connections(), (CONNECTION_ATTACKERS, attack), |server| dropped(server) >= 50.0)
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn incomplete_heads_do_not_block_genuine_senders() {
    let attack: Attack =
        |address| Box::pin(hold(address, b"POST /webhooks/clerk HTTP/1.1\r\na:".to_vec(), b"b"));
    assert_withstood(few_connections(), (CONNECTION_ATTACKERS, attack), |server| dropped(server) >= 50.0)
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn persistent_connections_with_requests_to_other_paths_do_not_block_genuine_senders() {
    let attack: Attack =
        |address| Box::pin(hold(address, b"GET / HTTP/1.1\r\nhost: here\r\n\r\n".to_vec(), b""));
    let not_found = |server: &Server| server.metric("rollbook_requests_refused_total{status=\"404\"}");
    assert_withstood(few_connections(), (CONNECTION_ATTACKERS, attack), |server| not_found(server) >= 200.0)
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_bodies_do_not_block_genuine_senders() {
    let attack: Attack = |address| Box::pin(hold(address, forged(32_000, 1), b" "));
    assert_withstood(few_connections(), (CONNECTION_ATTACKERS, attack), |server| dropped(server) >= 50.0)
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_forged_deliveries_does_not_block_genuine_senders() {
    let attack: Attack = |address| Box::pin(hold(address, forged(2_500, 2_500), b""));
    assert_withstood(few_connections(), (CONNECTION_ATTACKERS, attack), |server| {
        server.count("bad_signature") >= 200.0
    })
    .await;
}
