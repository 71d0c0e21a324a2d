//! The ops port over real connections, with components that report conditions set by the test.

mod attacks;
mod stage;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use prometheus::{IntCounter, Registry};
use rollbook_core::queue::{QueueError, QueueStats};
use rollbook_ops::Ops;
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

use self::stage::{
    DEADLINE, FakeProbe, FixedClock, NOW, PART_MISSING, Server, assert_line, body, part, queue,
};

#[tokio::test]
async fn all_parts_ok_gives_200_with_every_part_named() {
    let ready = vec![part("queue", FakeProbe::Healthy), part("store", FakeProbe::Healthy)];
    let server = Server::start(None, vec![part("worker", FakeProbe::Healthy)], ready).await;
    let answer = server.get("/readyz").await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    assert_eq!(body(&answer), "{\"parts\":{\"queue\":\"ok\",\"store\":\"ok\"},\"status\":\"ok\"}\n");
    let answer = server.get("/livez").await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    assert_eq!(body(&answer), "{\"parts\":{\"worker\":\"ok\"},\"status\":\"ok\"}\n");
    server.stop().await;
}

#[tokio::test]
async fn one_failing_part_gives_503_and_the_other_parts_stay_ok() {
    let ready =
        vec![part("queue", FakeProbe::Failing("the disk is full")), part("store", FakeProbe::Healthy)];
    let server = Server::start(None, Vec::new(), ready).await;
    let answer = server.get("/readyz").await;
    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
    assert_eq!(
        body(&answer),
        "{\"parts\":{\"queue\":\"the disk is full\",\"store\":\"ok\"},\"since\":{\"queue\":\"2023-11-14T22:13:20.000Z\"},\"status\":\"failing\"}\n"
    );
    assert!(server.get("/livez").await.starts_with("HTTP/1.1 200 "), "liveness does not depend on the queue");
    server.stop().await;
}

#[tokio::test]
async fn a_degraded_part_is_ready_and_reports_its_weakness() {
    let ready = vec![
        part("queue", FakeProbe::Degraded("appendfsync is everysec")),
        part("store", FakeProbe::Healthy),
    ];
    let server = Server::start(None, Vec::new(), ready).await;
    let answer = server.get("/readyz").await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    assert_eq!(
        body(&answer),
        "{\"parts\":{\"queue\":\"degraded: appendfsync is everysec\",\"store\":\"ok\"},\"since\":{\"queue\":\"2023-11-14T22:13:20.000Z\"},\"status\":\"degraded\"}\n"
    );
    assert_line(&server.get("/metrics").await, "rollbook_up{part=\"queue\"} 1");
    server.stop().await;
}

#[tokio::test]
async fn a_queue_that_answers_but_refuses_deliveries_is_not_ready_and_reports_why() {
    let server = Server::with_used_queue(FakeProbe::Failing("the disk is full")).await;
    let answer = server.get("/readyz").await;
    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
    assert_eq!(
        body(&answer),
        "{\"parts\":{\"queue\":\"the disk is full\"},\"since\":{\"queue\":\"2023-11-14T22:13:20.000Z\"},\"status\":\"failing\"}\n"
    );
    assert_line(&server.get("/metrics").await, "rollbook_up{part=\"queue\"} 0");
    server.stop().await;

    let server = Server::with_used_queue(FakeProbe::Impaired("one shard refuses")).await;
    let answer = server.get("/readyz").await;
    assert!(
        answer.starts_with("HTTP/1.1 200 ")
            && answer.contains("impaired: one shard refuses\"},\"since\":")
            && answer.contains("\"status\":\"impaired\""),
        "{answer}"
    );
    assert_line(&server.get("/metrics").await, "rollbook_up{part=\"queue\"} 1");
    server.stop().await;

    let server = Server::with_used_queue(FakeProbe::Unproven("the disk was full a minute ago")).await;
    let answer = server.get("/readyz").await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "only a delivery can prove that the queue works: {answer}");
    assert!(answer.contains("unproven: the disk was full a minute ago"), "{answer}");
    assert_line(&server.get("/metrics").await, "rollbook_up{part=\"queue\"} 0");
    server.stop().await;

    let server = Server::with_used_queue(FakeProbe::Healthy).await;
    assert_eq!(body(&server.get("/readyz").await), "{\"parts\":{\"queue\":\"ok\"},\"status\":\"ok\"}\n");
    server.stop().await;
}

#[tokio::test]
async fn a_part_that_does_not_answer_fails_within_the_limit() {
    let ready = vec![part("queue", FakeProbe::NoAnswer), part("store", FakeProbe::Healthy)];
    let server = Server::start(None, Vec::new(), ready).await;
    let answer = server.get("/readyz").await;
    assert!(answer.contains("\"queue\":\"no answer within 2s\",\"store\":\"ok\""), "{answer}");
    server.stop().await;
}

#[tokio::test]
async fn queue_gauges_are_updated_at_each_scrape() {
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
    fake.set_answer(Ok(QueueStats::default()));
    let answer = server.get("/metrics").await;
    for unknown in ["queue_memory", "queue_disk"] {
        assert!(!answer.contains(unknown), "unknown values are not shown: {answer}");
    }
    assert_line(&answer, "rollbook_queue_depth 0");
    assert_line(&answer, "rollbook_queue_oldest_age_seconds 0");
    assert_line(&answer, "rollbook_durability_degraded{part=\"queue\"} 0");
    server.stop().await;
}

#[tokio::test]
async fn a_queue_with_an_unreachable_part_is_ready_and_names_the_part() {
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
    fake.set_answer(Ok(QueueStats::default()));
    assert_line(&server.get("/metrics").await, "rollbook_queue_parts_unreachable 0");
    server.stop().await;
}

#[tokio::test]
async fn each_request_queries_the_queue_only_once() {
    let fake = queue(Some(Ok(QueueStats { delayed: 1, ..QueueStats::default() })));
    let server =
        Server::start(Some(Arc::clone(&fake)), Vec::new(), vec![part("store", FakeProbe::Healthy)]).await;
    server.get("/metrics").await;
    assert_eq!(fake.asked.load(Ordering::Relaxed), 2, "one query for stats, one for durability");
    let answer = server.get("/readyz").await;
    assert_eq!(fake.asked.load(Ordering::Relaxed), 4);
    let parts = "\"queue\":\"degraded: appendonly is no; CONFIG SET appendonly yes\",\"store\":\"ok\"";
    assert!(answer.contains(parts), "{answer}");
    fake.set_answer(Err(QueueError::Unavailable("busy".into())));
    let answer = server.get("/readyz").await;
    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
    assert!(answer.contains("\"queue\":\"the queue can't answer now: busy\""), "{answer}");
    let asked = fake.asked.load(Ordering::Relaxed);
    server.get("/livez").await;
    assert_eq!(fake.asked.load(Ordering::Relaxed), asked, "liveness never queries the queue");
    server.stop().await;
}

#[tokio::test]
async fn the_figures_of_an_empty_queue_hold_until_the_process_uses_the_queue() {
    let (fake, calls) = (queue(Some(Ok(QueueStats::default()))), Arc::new(AtomicUsize::new(0)));
    let server = Server::with_calls(Arc::clone(&fake), Arc::clone(&calls), DEADLINE * 10).await;
    let asked = async || {
        let before = fake.asked.load(Ordering::Relaxed);
        for path in ["/metrics", "/readyz"] {
            assert!(server.get(path).await.starts_with("HTTP/1.1 200 "));
        }
        (fake.asked.load(Ordering::Relaxed) - before) / 2
    };
    assert_eq!((asked().await, asked().await), (1, 0), "an empty queue is asked once");
    calls.fetch_add(1, Ordering::Relaxed);
    assert_eq!((asked().await, asked().await), (1, 0), "after a call of this process it is asked again");
    calls.fetch_add(1, Ordering::Relaxed);
    fake.set_answer(Ok(QueueStats { dead: 1, ready: 1, ..QueueStats::default() }));
    assert_eq!((asked().await, asked().await), (2, 2), "a queue with messages is asked by each request");
    fake.set_answer(Ok(PART_MISSING));
    assert_eq!((asked().await, asked().await), (2, 2), "so is one with an unreachable part");
    fake.set_answer(Err(QueueError::Unavailable("busy".into())));
    for _ in 0..2 {
        let answer = server.get("/readyz").await;
        assert!(answer.starts_with("HTTP/1.1 503 "), "a failure is seen at once: {answer}");
    }
    fake.set_answer(Ok(QueueStats::default()));
    assert_eq!(asked().await, 1);
    server.stop().await;

    let server = Server::with_calls(Arc::clone(&fake), calls, Duration::ZERO).await;
    let before = fake.asked.load(Ordering::Relaxed);
    for _ in 0..3 {
        server.get("/readyz").await;
    }
    assert_eq!(fake.asked.load(Ordering::Relaxed) - before, 6, "a file is asked by each request");
    server.stop().await;
}

#[tokio::test]
async fn a_queue_that_fails_or_hangs_affects_only_its_own_metrics() {
    for broken in [queue(Some(Err(QueueError::Unavailable("busy".into())))), queue(None)] {
        let registry = Registry::new();
        let other = IntCounter::new("rollbook_other_total", "Something else.").expect("a valid name");
        registry.register(Box::new(other.clone())).expect("a free name");
        other.inc();
        let ready = vec![part("store", FakeProbe::Failing("connection refused"))];
        let server = Server::with_registry(registry, Some(broken), Vec::new(), ready).await;
        let answer = server.get("/metrics").await;
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        assert_line(&answer, "rollbook_other_total 1");
        assert_line(&answer, "rollbook_up{part=\"queue\"} 0");
        assert_line(&answer, "rollbook_up{part=\"store\"} 0");
        assert!(
            !answer.contains("rollbook_durability_degraded{"),
            "unknown until the queue answers: {answer}"
        );
        server.stop().await;
    }
}

#[tokio::test]
#[expect(clippy::disallowed_methods, reason = "the test awaits its server")]
async fn a_watched_part_is_shown_and_does_not_affect_readiness() {
    let ops = Ops::new(
        Registry::new(),
        None,
        Vec::new(),
        vec![part("queue", FakeProbe::Healthy)],
        Arc::new(FixedClock),
    )
    .expect("all names are free")
    .watching(vec![part("store", FakeProbe::Failing("connection refused"))]);
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
    let address = listener.local_addr().expect("it is bound");
    let stop = CancellationToken::new();
    let server = Server { address, stop: stop.clone(), serving: tokio::spawn(ops.serve(listener, stop)) };
    let answer = server.get("/metrics").await;
    assert_line(&answer, "rollbook_up{part=\"queue\"} 1");
    assert_line(&answer, "rollbook_up{part=\"store\"} 0");
    let answer = server.get("/readyz").await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    assert_eq!(
        body(&answer),
        "{\"parts\":{\"queue\":\"ok\",\"store\":\"connection refused\"},\"since\":{\"store\":\"2023-11-14T22:13:20.000Z\"},\"status\":\"impaired\"}\n"
    );
    server.stop().await;
}

#[tokio::test]
#[expect(clippy::disallowed_methods, reason = "the test awaits its server")]
async fn a_stopping_process_is_live_but_not_ready() {
    let stopping = CancellationToken::new();
    let ops = Ops::new(
        Registry::new(),
        None,
        vec![part("worker", FakeProbe::Healthy)],
        vec![part("queue", FakeProbe::Healthy)],
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
async fn an_incomplete_request_does_not_delay_the_stop() {
    let server = Server::start(None, Vec::new(), Vec::new()).await;
    let mut half = TcpStream::connect(server.address).await.expect("it accepts");
    half.write_all(b"GET /met").await.expect("it reads");
    // The second connection is accepted after the first.
    assert!(server.get("/healthz").await.starts_with("HTTP/1.1 200 "));
    server.stop().await;
}
