//! Strangers who hold connections, bytes and places, while genuine deliveries come: all of those are answered 200,
//! and about as fast as without the strangers. Every test waits until its attack is under way, and shows by a count that the
//! receiver had to defend itself.

use std::net::SocketAddr;
use std::time::Duration;

use rollbook_receiver::Settings;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, interval_at};

use crate::client::{Client, Post};
use crate::server::{Server, eventually};

/// Genuine deliveries: one each 5 ms, for a second, in several rounds.
const EACH: Duration = Duration::from_millis(5);
const DELIVERIES: usize = 200;
const ROUNDS: usize = 3;
/// Genuine deliveries that come on connections which are kept open; as many come on new ones.
const KEPT: usize = 4;
const SLOWER_AT_MOST: u32 = 5;
/// Below this, a figure says more about a busy machine's scheduler than about the receiver.
const NOISE: Duration = Duration::from_millis(20);
/// Between two tries of one attacker: what it loses costs it nothing else.
const AGAIN: Duration = Duration::from_millis(500);
/// Attackers who hold connections, and those who hold bytes.
const MANY: u32 = 200;
const SOME: u32 = 64;

type Attack = fn(SocketAddr) -> std::pin::Pin<Box<dyn Future<Output = ()> + Send>>;

/// Sends genuine deliveries, asserts that each is answered 200, and returns the 99th percentile of the times.
async fn p99_of_genuine(server: &Server, round: &str) -> Duration {
    let mut clock = interval(EACH);
    let mut sending = JoinSet::new();
    let mut kept: Vec<Client> = Vec::new();
    for number in 0..KEPT {
        // One that says nothing would be taken for an attacker's.
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
    if kept.len() < KEPT {
        kept.extend(client);
    }
}

/// One delivery of usual size. Returns the time that it took, and its client unless the connection ends.
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

/// Runs an attack while genuine deliveries come, after some without it.
async fn withstands(
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
            // Spread, so that they do not all come at the same time.
            let mut turns = interval_at(Instant::now() + AGAIN / attackers * number, AGAIN);
            turns.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                turns.tick().await;
                attack(address).await;
            }
        });
    }
    eventually(|| is_under_way(&server)).await;
    // What others do on this machine makes some rounds slow; a receiver that fails is slow in each.
    let mut attacked = Duration::MAX;
    for round in 0..ROUNDS {
        attacked = attacked.min(p99_of_genuine(&server, &format!("attacked_{round}")).await);
    }
    println!("p99: {quiet:?} quiet, {attacked:?} attacked");
    assert!(attacked < SLOWER_AT_MOST * quiet.max(NOISE), "{quiet:?} quiet, {attacked:?} attacked");
    attacking.shutdown().await;
    server
}

fn dropped(server: &Server) -> f64 {
    server.metric("rollbook_connections_closed_total{reason=\"full\"}")
}

/// Sends these bytes, and then a piece now and then, until the server ends it.
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
        // To the end of the connection, not only to that of the answer.
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

/// Far less room than the attackers want.
fn narrow() -> Settings {
    Settings { body_max: 128 * 1024, buffered_max: 2 * 1024 * 1024, ..Settings::default() }
}

/// Far fewer places than there are attackers.
fn few() -> Settings {
    Settings { connections_max: 128, ..Settings::default() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bodies_without_the_headers_of_a_delivery_take_no_room_from_genuine_ones() {
    let attack: Attack = |address| {
        let head = "POST /webhooks/clerk HTTP/1.1\r\nhost: here\r\ncontent-length: 100000\r\n\r\n";
        let bytes = [head.as_bytes(), &vec![b' '; 90_000]].concat();
        Box::pin(hold(address, bytes, b"    "))
    };
    let server = withstands(narrow(), (SOME, attack), |server| server.count("bad_headers") >= 100.0).await;
    assert!(server.count("overloaded").abs() < 0.5);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_bodies_that_stall_with_forged_headers_take_no_room_from_genuine_ones() {
    let attack: Attack = |address| Box::pin(hold(address, forged(100_000, 90_000), b" "));
    withstands(narrow(), (SOME, attack), |server| server.count("overloaded") >= 100.0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn small_bodies_that_stall_with_forged_headers_take_no_room_from_genuine_ones() {
    let attack: Attack = |address| Box::pin(hold(address, forged(32_000, 31_000), b" "));
    withstands(narrow(), (MANY, attack), |server| server.count("overloaded") >= 20.0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_that_say_nothing_keep_no_genuine_sender_out() {
    let attack: Attack = |address| Box::pin(hold(address, Vec::new(), b""));
    withstands(few(), (MANY, attack), |server| dropped(server) >= 50.0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn heads_that_never_end_keep_no_genuine_sender_out() {
    let attack: Attack =
        |address| Box::pin(hold(address, b"POST /webhooks/clerk HTTP/1.1\r\na:".to_vec(), b"b"));
    withstands(few(), (MANY, attack), |server| dropped(server) >= 50.0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_that_ask_for_other_paths_and_stay_keep_no_genuine_sender_out() {
    let attack: Attack =
        |address| Box::pin(hold(address, b"GET / HTTP/1.1\r\nhost: here\r\n\r\n".to_vec(), b""));
    let not_found = |server: &Server| server.metric("rollbook_requests_refused_total{status=\"404\"}");
    withstands(few(), (MANY, attack), |server| not_found(server) >= 200.0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bodies_that_trickle_keep_no_genuine_sender_out() {
    let attack: Attack = |address| Box::pin(hold(address, forged(32_000, 1), b" "));
    withstands(few(), (MANY, attack), |server| dropped(server) >= 50.0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn forged_deliveries_without_end_keep_no_genuine_sender_out() {
    let attack: Attack = |address| Box::pin(hold(address, forged(2_500, 2_500), b""));
    withstands(few(), (MANY, attack), |server| server.count("bad_signature") >= 200.0).await;
}
