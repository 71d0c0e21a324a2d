//! Idle workers are notified of messages: polls, which are rare, are not needed to find one.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rollbook_core::queue::{Consumer as _, DeadLetterFilter, Lease, QueueAdmin as _, QueueError, Settlement};
use rollbook_redis::{RedisQueue, RedisSettings};
use rollbook_testkit::process::until;
use rollbook_testkit::queues::request;
use rollbook_testkit::servers::proxy::FaultProxy;
use rollbook_testkit::servers::redis::RedisServer;
use tokio::task::JoinHandle;
use tokio::time::sleep;

use crate::cluster::{clustered, start_cluster};
use crate::recovery::until_a_lease_waits;
use crate::support::{
    LONG, Log, dead_letter, enqueue, ids, key, lease, names, open, redriven, retry, set, settings,
    settle_all, stats,
};

/// Pause between polls: longer than every wait of these tests.
const NEVER: Duration = Duration::from_secs(60);
/// Maximum delay of a message that a worker is notified of. A poll would come much later.
const AT_ONCE: Duration = Duration::from_secs(1);

fn notified(url: String) -> RedisSettings {
    RedisSettings { idle_poll: NEVER, ..settings(url) }
}

/// A lane that waits for messages, and asks again after an outage.
#[expect(clippy::disallowed_methods, reason = "each test awaits its lanes, or ends them")]
fn lane(queue: &Arc<RedisQueue>, number: u32) -> JoinHandle<Vec<Lease>> {
    let queue = Arc::clone(queue);
    tokio::spawn(async move {
        loop {
            let mut request = request(100, LONG, LONG);
            request.id.lane = number;
            match queue.lease(request).await {
                Ok(leases) => return leases,
                Err(QueueError::Unavailable(_)) => sleep(Duration::from_millis(20)).await,
                Err(error) => panic!("{error}"),
            }
        }
    })
}

/// Waits until the lane gets leases, and returns them with the time since `since`.
async fn given(lane: JoinHandle<Vec<Lease>>, since: Instant) -> (Vec<Lease>, Duration) {
    let leases = lane.await.expect("no panic");
    (leases, since.elapsed())
}

/// Starts a lane of a queue on an idle server, and returns when the lane waits and polls no more.
async fn idle_lane(server: &RedisServer, queue: &Arc<RedisQueue>) -> JoinHandle<Vec<Lease>> {
    let lane = lane(queue, 0);
    until_a_lease_waits(server).await;
    until_polls_stop(server).await;
    lane
}

/// Returns when no script was called for longer than a pause without a listener lasts.
async fn until_polls_stop(server: &RedisServer) {
    let polls = || {
        let stats = server.cli(&["info", "commandstats"]);
        stats.lines().find_map(|line| line.strip_prefix("cmdstat_evalsha:").map(str::to_owned))
    };
    let (mut last, mut since) = (polls(), Instant::now());
    until("the lanes poll no more", || {
        let now = polls();
        if now != last {
            (last, since) = (now, Instant::now());
        }
        std::future::ready(since.elapsed() > Duration::from_millis(600))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_delivery_is_noticed_at_once_after_every_idle_time() {
    let server = RedisServer::start().await;
    let (worker, receiver) = (open(notified(server.url())), open(notified(server.url())));
    let mut slowest = Duration::ZERO;
    for id in names("msg", 0..5).chunks(1) {
        let lane = idle_lane(&server, &worker).await;
        enqueue(&receiver, id).await;
        let (leases, took) = given(lane, Instant::now()).await;
        assert_eq!(ids(&leases), set(id));
        slowest = slowest.max(took);
        settle_all(&worker, &leases, &Settlement::Ack).await;
    }
    println!("{slowest:?} at most from the acknowledgement to the lease");
    assert!(slowest < AT_ONCE, "{slowest:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_the_lanes_of_several_idle_workers_one_gets_each_delivery_at_once() {
    let server = RedisServer::start().await;
    let workers: Vec<_> = (0..3).map(|_| open(notified(server.url()))).collect();
    let receiver = open(notified(server.url()));
    let mut lanes: Vec<_> =
        workers.iter().flat_map(|worker| (0..3).map(|number| lane(worker, number))).collect();
    let blocked = || server.cli(&["info", "clients"]).contains("blocked_clients:3");
    until("one connection of each worker listens", || std::future::ready(blocked())).await;
    until_polls_stop(&server).await;
    for id in names("msg", 0..5).chunks(1) {
        enqueue(&receiver, id).await;
        let enqueued_at = Instant::now();
        let (first, _, rest) = futures_util::future::select_all(lanes).await;
        assert_eq!(ids(&first.expect("no panic")), set(id));
        assert!(enqueued_at.elapsed() < AT_ONCE, "{:?}", enqueued_at.elapsed());
        lanes = rest;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_retry_of_a_worker_that_is_gone_is_leased_at_most_a_second_after_it_is_due() {
    let server = RedisServer::start().await;
    let (idle, other) = (open(notified(server.url())), open(notified(server.url())));
    for (number, after) in [(0, Duration::ZERO), (1, Duration::from_millis(700)), (2, Duration::from_secs(3))]
    {
        let id = names("msg", number..number + 1);
        enqueue(&other, &id).await;
        let leases = lease(&other, 1).await;
        let lane = idle_lane(&server, &idle).await;
        settle_all(&other, &leases, &retry(after)).await;
        let (leases, took) = given(lane, Instant::now()).await;
        println!("due after {after:?}, leased after {took:?}");
        assert_eq!(ids(&leases), set(&id));
        assert!(took + Duration::from_millis(50) > after && took < after + AT_ONCE, "{after:?}: {took:?}");
        settle_all(&idle, &leases, &Settlement::Ack).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_earlier_retry_is_not_hidden_by_a_later_one_and_a_lease_that_expires_is_taken_over() {
    let server = RedisServer::start().await;
    let (idle, other) = (open(notified(server.url())), open(notified(server.url())));
    enqueue(&other, &names("msg", 0..3)).await;
    let leases = lease(&other, 3).await;
    settle_all(&other, &leases[..1], &retry(Duration::from_secs(600))).await;
    let lane_of_idle = idle_lane(&server, &idle).await;
    settle_all(&other, &leases[1..2], &retry(Duration::from_secs(2))).await;
    settle_all(&other, &leases[2..], &retry(Duration::from_secs(500))).await;
    let (again, took) = given(lane_of_idle, Instant::now()).await;
    assert_eq!(again[0].id, leases[1].id);
    assert!(took < Duration::from_secs(2) + AT_ONCE, "{took:?}");
    settle_all(&idle, &again, &Settlement::Ack).await;

    // The holder never settles: its lease expires.
    let short = Duration::from_secs(2);
    enqueue(&other, &names("held", 0..1)).await;
    let leased_at = Instant::now();
    let held = other.lease(request(1, short, LONG)).await.expect("the queue gives");
    let (taken_over, took) = given(lane(&idle, 0), leased_at).await;
    assert_eq!((ids(&taken_over), taken_over[0].unsettled), (ids(&held), 1));
    assert!(took < short + AT_ONCE, "{took:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn releases_redrives_and_repairs_of_other_processes_are_noticed_at_once() {
    let server = RedisServer::start().await;
    let (idle, other) = (open(notified(server.url())), open(notified(server.url())));
    enqueue(&other, &names("dead", 0..1)).await;
    settle_all(&other, &lease(&other, 1).await, &dead_letter()).await;
    enqueue(&other, &names("msg", 0..1)).await;
    let leases = lease(&other, 1).await;

    let lane = idle_lane(&server, &idle).await;
    settle_all(&other, &leases, &Settlement::Release).await;
    let (released, took) = given(lane, Instant::now()).await;
    assert_eq!(ids(&released), ids(&leases));
    assert!(took < AT_ONCE, "{took:?}");
    settle_all(&idle, &released, &Settlement::Ack).await;

    let lane = idle_lane(&server, &idle).await;
    assert_eq!(redriven(&other, &DeadLetterFilter::default(), 9).await, Ok(1));
    let (redriven, took) = given(lane, Instant::now()).await;
    assert_eq!(ids(&redriven), set(&names("dead", 0..1)));
    assert!(took < AT_ONCE, "{took:?}");
    settle_all(&idle, &redriven, &retry(Duration::from_secs(300))).await;

    let lane = idle_lane(&server, &idle).await;
    server.cli(&["del", &key(0, "due")]);
    assert!(other.audit(true).await.is_ok_and(|audit| audit.stranded == 1));
    let (restored, took) = given(lane, Instant::now()).await;
    assert_eq!(ids(&restored), set(&names("dead", 0..1)));
    assert!(took < AT_ONCE, "{took:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_notification_is_found_by_a_poll() {
    let server = RedisServer::start().await;
    let poll = Duration::from_secs(2);
    let idle = open(RedisSettings { idle_poll: poll, ..settings(server.url()) });
    let other = open(settings(server.url()));
    enqueue(&other, &names("msg", 0..1)).await;
    settle_all(&other, &lease(&other, 1).await, &retry(Duration::from_secs(300))).await;
    let lane = idle_lane(&server, &idle).await;
    // As a process of an earlier release does it.
    server.cli(&["zadd", &key(0, "due"), "1", "msg_00000"]);
    let (leases, took) = given(lane, Instant::now()).await;
    assert_eq!(ids(&leases), set(&names("msg", 0..1)));
    assert!(took < poll + AT_ONCE, "{took:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_delivery_after_a_restart_of_redis_is_noticed_at_once() {
    let mut server = RedisServer::start().await;
    let (idle, receiver) = (open(notified(server.url())), open(notified(server.url())));
    enqueue(&receiver, &names("first", 0..1)).await;
    settle_all(&idle, &lease(&idle, 1).await, &Settlement::Ack).await;
    let lane = idle_lane(&server, &idle).await;
    server.kill();
    server.restart().await;
    until_a_lease_waits(&server).await;
    until_polls_stop(&server).await;
    enqueue(&receiver, &names("msg", 0..1)).await;
    let (leases, took) = given(lane, Instant::now()).await;
    assert_eq!(ids(&leases), set(&names("msg", 0..1)));
    assert!(took < AT_ONCE, "{took:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_the_network_forgot_delays_a_delivery_by_at_most_one_poll() {
    let server = RedisServer::start().await;
    let proxy = FaultProxy::start(server.port());
    let poll = Duration::from_secs(2);
    let idle = open(RedisSettings { idle_poll: poll, ..settings(proxy.url(&server.url())) });
    let receiver = open(settings(server.url()));
    let lane = idle_lane(&server, &idle).await;
    proxy.forget();
    enqueue(&receiver, &names("msg", 0..1)).await;
    let (leases, took) = given(lane, Instant::now()).await;
    println!("leased after {took:?}");
    assert_eq!(ids(&leases), set(&names("msg", 0..1)));
    // The poll's own connection is forgotten too: it is checked after a quarter of the time limit of a call.
    assert!(took < poll * 2 + settings(String::new()).call_timeout / 4 + AT_ONCE, "{took:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_with_one_shard_notifies_too() {
    let nodes = start_cluster().await;
    let cluster = || RedisSettings { idle_poll: NEVER, ..clustered(&nodes, 1) };
    let (idle, receiver) = (open(cluster()), open(cluster()));
    enqueue(&receiver, &names("first", 0..1)).await;
    settle_all(&idle, &lease(&idle, 1).await, &Settlement::Ack).await;
    let lane = lane(&idle, 0);
    let is_blocked = |node: &RedisServer| node.cli(&["info", "clients"]).contains("blocked_clients:1");
    until("a lane listens", || std::future::ready(nodes.iter().any(is_blocked))).await;
    for node in &nodes {
        until_polls_stop(node).await;
    }
    enqueue(&receiver, &names("msg", 0..1)).await;
    let (leases, took) = given(lane, Instant::now()).await;
    assert_eq!(ids(&leases), set(&names("msg", 0..1)));
    assert!(took < AT_ONCE, "{took:?}");
}

#[tokio::test]
async fn workers_poll_a_server_that_refuses_blocking_reads_and_say_so_once() {
    let (log, _logging) = Log::capture();
    let server = RedisServer::start().await;
    server.cli(&["acl", "setuser", "limited", "on", ">right", "~*", "+@all", "-xread"]);
    let worker = open(notified(server.url().replace("redis://", "redis://limited:right@")));
    let receiver = open(notified(server.url()));
    for id in names("msg", 0..3).chunks(1) {
        let lane = lane(&worker, 0);
        until("the lane has polled", || {
            std::future::ready(!server.cli(&["xinfo", "stream", &key(0, "new")]).contains("ERR"))
        })
        .await;
        enqueue(&receiver, id).await;
        let (leases, took) = given(lane, Instant::now()).await;
        assert_eq!(ids(&leases), set(id));
        assert!(took < AT_ONCE, "{took:?}");
        settle_all(&worker, &leases, &Settlement::Ack).await;
    }
    let lines = log.lines_with("workers poll every 250 ms instead");
    assert!(lines.len() == 1 && lines[0].contains("NOPERM"), "{lines:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_listening_worker_holds_one_connection_and_none_of_the_pool() {
    let server = RedisServer::start().await;
    let queue = open(notified(server.url()));
    let lanes: Vec<_> = (0..8).map(|number| lane(&queue, number)).collect();
    until_a_lease_waits(&server).await;
    until_polls_stop(&server).await;
    let clients =
        |what: &str| server.cli(&["client", "list"]).lines().filter(|line| line.contains(what)).count();
    assert_eq!(clients("cmd=xread"), 1);
    // As many calls at once as the pool has connections.
    let calls = futures_util::future::join_all((0..32).map(|_| stats(&queue)));
    tokio::time::timeout(AT_ONCE * 5, calls).await.expect("the pool is free");
    lanes.iter().for_each(JoinHandle::abort);
}
