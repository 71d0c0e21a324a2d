//! The ops face over real connections, with parts that say what the test wants.

mod attacks;
mod stage;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use prometheus::{IntCounter, Registry};
use rollbook_core::queue::{QueueError, QueueStats};
use rollbook_ops::Ops;
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

use self::stage::{FixedClock, NOW, PART_MISSING, Says, Server, assert_line, body, part, queue};

#[tokio::test]
async fn every_part_is_named_and_all_well_is_200() {
    let ready = vec![part("queue", Says::Well), part("store", Says::Well)];
    let server = Server::start(None, vec![part("worker", Says::Well)], ready).await;
    let answer = server.get("/readyz").await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    assert_eq!(body(&answer), "{\"parts\":{\"queue\":\"ok\",\"store\":\"ok\"},\"status\":\"ok\"}\n");
    let answer = server.get("/livez").await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    assert_eq!(body(&answer), "{\"parts\":{\"worker\":\"ok\"},\"status\":\"ok\"}\n");
    server.stop().await;
}

#[tokio::test]
async fn one_failing_part_is_503_and_its_neighbours_still_say_ok() {
    let ready = vec![part("queue", Says::Failing("the disk is full")), part("store", Says::Well)];
    let server = Server::start(None, Vec::new(), ready).await;
    let answer = server.get("/readyz").await;
    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
    assert_eq!(
        body(&answer),
        "{\"parts\":{\"queue\":\"the disk is full\",\"store\":\"ok\"},\"status\":\"failing\"}\n"
    );
    assert!(server.get("/livez").await.starts_with("HTTP/1.1 200 "), "a dependency never fails liveness");
    server.stop().await;
}

#[tokio::test]
async fn a_degraded_part_is_ready_and_says_what_is_to_be_mended() {
    let ready = vec![part("queue", Says::Degraded("appendfsync is everysec")), part("store", Says::Well)];
    let server = Server::start(None, Vec::new(), ready).await;
    let answer = server.get("/readyz").await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    assert_eq!(
        body(&answer),
        "{\"parts\":{\"queue\":\"degraded: appendfsync is everysec\",\"store\":\"ok\"},\"status\":\"degraded\"}\n"
    );
    assert_line(&server.get("/metrics").await, "rollbook_up{part=\"queue\"} 1");
    server.stop().await;
}

#[tokio::test]
async fn a_queue_that_answers_and_refuses_deliveries_is_not_ready_and_says_why() {
    let server = Server::with_used_queue(Says::Failing("the disk is full")).await;
    let answer = server.get("/readyz").await;
    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
    assert_eq!(body(&answer), "{\"parts\":{\"queue\":\"the disk is full\"},\"status\":\"failing\"}\n");
    assert_line(&server.get("/metrics").await, "rollbook_up{part=\"queue\"} 0");
    server.stop().await;

    let server = Server::with_used_queue(Says::Impaired("one shard refuses")).await;
    let answer = server.get("/readyz").await;
    assert!(
        answer.starts_with("HTTP/1.1 200 ")
            && answer.contains("impaired: one shard refuses\"},\"status\":\"impaired\""),
        "{answer}"
    );
    assert_line(&server.get("/metrics").await, "rollbook_up{part=\"queue\"} 1");
    server.stop().await;

    let server = Server::with_used_queue(Says::Unproven("the disk was full a minute ago")).await;
    let answer = server.get("/readyz").await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "only a delivery can show that it works: {answer}");
    assert!(answer.contains("unproven: the disk was full a minute ago"), "{answer}");
    assert_line(&server.get("/metrics").await, "rollbook_up{part=\"queue\"} 0");
    server.stop().await;

    let server = Server::with_used_queue(Says::Well).await;
    assert_eq!(body(&server.get("/readyz").await), "{\"parts\":{\"queue\":\"ok\"},\"status\":\"ok\"}\n");
    server.stop().await;
}

#[tokio::test]
async fn a_part_that_does_not_answer_fails_within_the_limit() {
    let ready = vec![part("queue", Says::Nothing), part("store", Says::Well)];
    let server = Server::start(None, Vec::new(), ready).await;
    let answer = server.get("/readyz").await;
    assert!(answer.contains("\"queue\":\"no answer within 2s\",\"store\":\"ok\""), "{answer}");
    server.stop().await;
}

#[tokio::test]
async fn the_numbers_of_the_queue_are_those_of_the_scrape() {
    let stats = QueueStats {
        ready: 5,
        leased: 2,
        delayed: 1,
        dead: 4,
        oldest_received_at: Some(NOW.minus(Duration::from_millis(1500))),
    };
    let fake = queue(Some(Ok(stats)));
    let server = Server::start(Some(Arc::clone(&fake)), Vec::new(), Vec::new()).await;
    let answer = server.get("/metrics").await;
    for line in [
        "rollbook_queue_depth 8",
        "rollbook_queue_depth_limit 70",
        "rollbook_queue_leased 2",
        "rollbook_queue_delayed 1",
        "rollbook_queue_oldest_age_seconds 1.5",
        "rollbook_dead_letters 4",
        "rollbook_queue_memory_used_bytes 4",
        "rollbook_queue_memory_limit_bytes 8",
        "rollbook_durability_degraded{part=\"queue\"} 1",
        "rollbook_up{part=\"queue\"} 1",
    ] {
        assert_line(&answer, line);
    }
    fake.says(Ok(QueueStats::default()));
    let answer = server.get("/metrics").await;
    for unknown in ["queue_memory", "queue_disk"] {
        assert!(!answer.contains(unknown), "what is not known is not shown: {answer}");
    }
    assert_line(&answer, "rollbook_queue_depth 0");
    assert_line(&answer, "rollbook_queue_oldest_age_seconds 0");
    assert_line(&answer, "rollbook_durability_degraded{part=\"queue\"} 0");
    server.stop().await;
}

#[tokio::test]
async fn a_queue_of_which_a_part_does_not_answer_is_ready_and_names_it() {
    let fake = queue(Some(Ok(PART_MISSING)));
    let server = Server::start(Some(Arc::clone(&fake)), Vec::new(), Vec::new()).await;
    let answer = server.get("/readyz").await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    assert!(answer.contains("impaired: unreachable: shard 3: Redis: connection refused"), "{answer}");
    let answer = server.get("/metrics").await;
    for line in [
        "rollbook_queue_parts_unreachable 1",
        "rollbook_dead_letters 99",
        "rollbook_durability_degraded{part=\"queue\"} 0",
        "rollbook_up{part=\"queue\"} 1",
    ] {
        assert_line(&answer, line);
    }
    fake.says(Ok(QueueStats::default()));
    assert_line(&server.get("/metrics").await, "rollbook_queue_parts_unreachable 0");
    server.stop().await;
}

#[tokio::test]
async fn the_queue_is_asked_once_for_each_of_its_answers_whoever_looks() {
    let fake = queue(Some(Ok(QueueStats { delayed: 1, ..QueueStats::default() })));
    let server = Server::start(Some(Arc::clone(&fake)), Vec::new(), vec![part("store", Says::Well)]).await;
    server.get("/metrics").await;
    assert_eq!(fake.asked.load(Ordering::Relaxed), 2, "its numbers, and what it is worth");
    let answer = server.get("/readyz").await;
    assert_eq!(fake.asked.load(Ordering::Relaxed), 4);
    assert!(answer.contains("\"queue\":\"degraded: appendonly is no\",\"store\":\"ok\""), "{answer}");
    fake.says(Err(QueueError::Unavailable("busy".into())));
    let answer = server.get("/readyz").await;
    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
    assert!(answer.contains("\"queue\":\"the queue can't answer now: busy\""), "{answer}");
    let asked = fake.asked.load(Ordering::Relaxed);
    server.get("/livez").await;
    assert_eq!(fake.asked.load(Ordering::Relaxed), asked, "liveness depends on nothing outside");
    server.stop().await;
}

#[tokio::test]
async fn a_queue_that_fails_or_hangs_takes_only_its_own_numbers_away() {
    for broken in [queue(Some(Err(QueueError::Unavailable("busy".into())))), queue(None)] {
        let registry = Registry::new();
        let other = IntCounter::new("rollbook_other_total", "Something else.").expect("a valid name");
        registry.register(Box::new(other.clone())).expect("a free name");
        other.inc();
        let ready = vec![part("store", Says::Failing("away"))];
        let server = Server::with_registry(registry, Some(broken), Vec::new(), ready).await;
        let answer = server.get("/metrics").await;
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        assert_line(&answer, "rollbook_other_total 1");
        assert_line(&answer, "rollbook_up{part=\"queue\"} 0");
        assert_line(&answer, "rollbook_up{part=\"store\"} 0");
        assert!(!answer.contains("rollbook_durability_degraded{"), "nobody knows it yet: {answer}");
        server.stop().await;
    }
}

#[tokio::test]
#[expect(clippy::disallowed_methods, reason = "it awaits the server it starts")]
async fn a_part_that_is_only_watched_shows_and_readiness_does_not_depend_on_it() {
    let ops =
        Ops::new(Registry::new(), None, Vec::new(), vec![part("queue", Says::Well)], Arc::new(FixedClock))
            .expect("all names are free")
            .watching(vec![part("store", Says::Failing("away"))]);
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
    let address = listener.local_addr().expect("it is bound");
    let stop = CancellationToken::new();
    let server = Server { address, stop: stop.clone(), serving: tokio::spawn(ops.serve(listener, stop)) };
    let answer = server.get("/metrics").await;
    assert_line(&answer, "rollbook_up{part=\"queue\"} 1");
    assert_line(&answer, "rollbook_up{part=\"store\"} 0");
    let answer = server.get("/readyz").await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    assert_eq!(body(&answer), "{\"parts\":{\"queue\":\"ok\",\"store\":\"away\"},\"status\":\"impaired\"}\n");
    server.stop().await;
}

#[tokio::test]
#[expect(clippy::disallowed_methods, reason = "it awaits the server it starts")]
async fn a_process_that_was_told_to_stop_is_not_ready_and_lives() {
    let stopping = CancellationToken::new();
    let ops = Ops::new(
        Registry::new(),
        None,
        vec![part("worker", Says::Well)],
        vec![part("queue", Says::Well)],
        Arc::new(FixedClock),
    )
    .expect("all names are free")
    .ready_until(stopping.clone());
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
    let address = listener.local_addr().expect("it is bound");
    let stop = CancellationToken::new();
    let server = Server { address, stop: stop.clone(), serving: tokio::spawn(ops.serve(listener, stop)) };
    assert!(server.get("/readyz").await.starts_with("HTTP/1.1 200 "));
    stopping.cancel();
    let answer = server.get("/readyz").await;
    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
    assert_eq!(body(&answer), "{\"parts\":{\"queue\":\"ok\"},\"status\":\"stopping\"}\n");
    assert!(server.get("/livez").await.starts_with("HTTP/1.1 200 "));
    server.stop().await;
}

#[tokio::test]
async fn the_build_and_the_process_are_described() {
    let server = Server::start(None, Vec::new(), Vec::new()).await;
    let answer = server.get("/metrics").await;
    assert!(answer.contains("content-type: text/plain; version=0.0.4"), "{answer}");
    assert_line(&answer, concat!("rollbook_build_info{version=\"", env!("CARGO_PKG_VERSION"), "\"} 1"));
    for name in ["process_resident_memory_bytes", "process_open_fds", "process_start_time_seconds"] {
        let value = answer.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        assert!(value.expect(name).parse::<f64>().expect("a number") > 0.0, "{name}");
    }
    assert!(server.get("/healthz").await.starts_with("HTTP/1.1 200 "));
    assert!(server.get("/webhooks/clerk").await.starts_with("HTTP/1.1 404 "));
    server.stop().await;
}

#[tokio::test]
async fn a_half_sent_request_does_not_hold_up_the_stop() {
    let server = Server::start(None, Vec::new(), Vec::new()).await;
    let mut half = TcpStream::connect(server.address).await.expect("it accepts");
    half.write_all(b"GET /met").await.expect("it reads");
    // The second connection is accepted after the first.
    assert!(server.get("/healthz").await.starts_with("HTTP/1.1 200 "));
    server.stop().await;
}
