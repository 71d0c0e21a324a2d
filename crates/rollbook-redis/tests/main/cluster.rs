//! A cluster: shards on several servers, which move or become unreachable.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rollbook_core::queue::{Consumer as _, DeadLetterFilter, QueueAdmin as _, QueueError, Settlement};
use rollbook_redis::{FullCoverage, RedisQueue, RedisSettings};
use rollbook_testkit::process::until;
use rollbook_testkit::servers::free_port;
use rollbook_testkit::servers::redis::RedisServer;

use crate::random_load::RandomLoad;
use crate::removal::{listed, remove};
use crate::support::{
    LONG, dead_letter, discarded, drain, enqueue, has_own_body, ids, lease_in_time, names, open, redriven,
    retry, set, settings, settle_all, stats, try_enqueue,
};
use rollbook_testkit::queues::request;

/// Setting with which a node serves its own slots while another node is down.
pub(crate) const SERVE_OWN_SLOTS: (&str, &str) = ("cluster-require-full-coverage", "no");

/// Two nodes with half of the slots each. The first one has shard 0.
pub(crate) async fn start_cluster() -> [RedisServer; 2] {
    let node = || async {
        let bus = free_port().to_string();
        RedisServer::start_with(&[("cluster-enabled", "yes"), ("cluster-port", &bus), SERVE_OWN_SLOTS]).await
    };
    let (first, second) = tokio::join!(node(), node());
    first.cli(&["cluster", "addslotsrange", "0", "8191"]);
    second.cli(&["cluster", "addslotsrange", "8192", "16383"]);
    let bus = second.cli(&["config", "get", "cluster-port"]);
    let bus = bus.lines().last().expect("a port");
    first.cli(&["cluster", "meet", "127.0.0.1", &second.port().to_string(), bus]);
    let nodes = [first, second];
    until("the nodes know each other", || {
        let knows = |node: &RedisServer| {
            node.cli(&["cluster", "info"]).contains("cluster_state:ok")
                && node.cli(&["cluster", "slots"]).matches("127.0.0.1").count() >= 1
                && node.cli(&["cluster", "info"]).contains("cluster_slots_ok:16384")
        };
        std::future::ready(nodes.iter().all(knows))
    })
    .await;
    nodes
}

pub(crate) fn clustered(nodes: &[RedisServer], shards: u16) -> RedisSettings {
    let hosts: Vec<String> = nodes.iter().map(|node| format!("127.0.0.1:{}", node.port())).collect();
    RedisSettings { shards, ..settings(format!("redis+cluster://{}", hosts.join(","))) }
}

/// Number of messages on this node.
fn waiting(node: &RedisServer) -> usize {
    let keys = node.cli(&["keys", "*:messages"]);
    keys.lines()
        .filter(|key| !key.is_empty())
        .map(|key| node.cli(&["hlen", key]).parse::<usize>().expect("a number"))
        .sum()
}

#[tokio::test]
async fn a_cluster_serves_one_shard_and_several() {
    for shards in [1, 4] {
        let nodes = start_cluster().await;
        let queue = open(clustered(&nodes, shards));
        assert_eq!(queue.durability().await.expect("the nodes answer").weaknesses, []);
        let all = names("msg", 0..100);
        enqueue(&queue, &all).await;
        assert_eq!(
            (waiting(&nodes[0]) > 0, waiting(&nodes[1]) > 0),
            (true, shards > 1),
            "where the slots are"
        );
        assert_eq!(waiting(&nodes[0]) + waiting(&nodes[1]), 100);
        let leases = lease_in_time(&queue, 100).await;
        assert_eq!(ids(&leases), set(&all));
        settle_all(&queue, &leases[..40], &Settlement::Ack).await;
        settle_all(&queue, &leases[40..60], &retry(Duration::ZERO)).await;
        settle_all(&queue, &leases[60..90], &dead_letter()).await;
        settle_all(&queue, &leases[90..], &Settlement::Release).await;
        assert_eq!((stats(&queue).await.depth(), stats(&queue).await.dead), (30, 30));
        assert_eq!(redriven(&queue, &DeadLetterFilter::default(), 10).await, Ok(10));
        assert_eq!(discarded(&queue, &DeadLetterFilter::default(), 20).await, Ok(20));
        let waiting = listed(&queue, 7).await;
        assert_eq!((waiting.len(), set(&waiting).len()), (40, 40));
        assert_eq!(remove(&queue, &names("more", 0..2)).await, Ok(0));
        enqueue(&queue, &names("more", 0..20)).await;
        assert_eq!(remove(&queue, &[&waiting[..5], &names("more", 0..20)].concat()).await, Ok(25));
        enqueue(&queue, &waiting[..5]).await;
        for node in &nodes {
            node.cli(&["script", "flush"]);
        }
        let wait = Duration::from_secs(1);
        let request = request(100, LONG, wait);
        let leases = queue.lease(request).await.expect("the queue gives");
        assert_eq!((leases.len(), leases.iter().all(has_own_body)), (40, true));
        settle_all(&queue, &leases, &Settlement::Ack).await;
        assert_eq!(stats(&queue).await.depth(), 0);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lanes_over_a_cluster_lose_nothing() {
    let nodes = start_cluster().await;
    let queues = [open(clustered(&nodes, 4)), open(clustered(&nodes[..1], 4))];
    let errors = RandomLoad::begin(&queues, 600, 5).end(&queues[0]).await;
    assert_eq!(errors, []);
}

#[tokio::test]
async fn the_weakness_of_a_node_is_a_weakness_of_the_cluster() {
    let nodes = start_cluster().await;
    nodes[0].cli(&["config", "set", "appendfsync", "everysec"]);
    let queue = open(clustered(&nodes, 4));
    let [weakness] = &queue.durability().await.expect("the nodes answer").weaknesses[..] else {
        panic!("one")
    };
    assert!(weakness.what.starts_with("appendfsync is everysec"), "{weakness}");
    // Deliveries for the weak node are refused. It has shard 0, which contains the number of shards.
    assert!(matches!(try_enqueue(&queue, &names("msg", 0..20)).await, Err(QueueError::Deployment(_))));
}

#[tokio::test]
async fn while_a_node_is_down_messages_of_the_other_are_leased_and_no_attempt_is_lost() {
    let mut nodes = start_cluster().await;
    let call_timeout = Duration::from_secs(1);
    let queue = open(RedisSettings { call_timeout, ..clustered(&nodes, 4) });
    let all = names("msg", 0..80);
    enqueue(&queue, &all).await;
    nodes[0].kill();
    let mut given = Vec::new();
    let mut refusals = 0;
    let here = waiting(&nodes[1]);
    assert!((20..60).contains(&here), "{here}");
    while given.len() < here {
        let started = Instant::now();
        let request = request(100, LONG, Duration::ZERO);
        match queue.lease(request).await {
            Ok(leases) => given.extend(leases),
            Err(QueueError::Unavailable(text)) => {
                assert!(text.contains("the Redis cluster at 127.0.0.1:"), "{text}");
                refusals += 1;
            }
            Err(error) => panic!("{error:?}"),
        }
        assert!(started.elapsed() < call_timeout * 10, "{:?}", started.elapsed());
        assert!(refusals < 50, "{} of {here} after {refusals} refusals", given.len());
    }
    settle_all(&queue, &given, &Settlement::Ack).await;
    nodes[0].restart().await;
    until("the queue finds the node again", || async { queue.stats().await.is_ok() }).await;
    let rest = lease_in_time(&queue, 80 - here).await;
    assert!(
        rest.iter().chain(&given).all(|lease| (lease.attempt, lease.unsettled) == (1, 0)),
        "none was tried before"
    );
    assert_eq!(ids(&[given, rest].concat()), set(&all));
}

#[tokio::test]
async fn a_single_address_of_a_cluster_is_refused_with_the_right_url_form() {
    let nodes = start_cluster().await;
    let mut refused_as_cluster = 0;
    for node in &nodes {
        let queue: Arc<RedisQueue> = open(settings(node.url()));
        match try_enqueue(&queue, &names("msg", 0..1)).await {
            Ok(_) => assert_eq!(drain(&queue).await.len(), 1),
            Err(error) => {
                assert!(error.to_string().contains("write redis+cluster:// in the URL"), "{error}");
                refused_as_cluster += 1;
            }
        }
    }
    assert_eq!(refused_as_cluster, 1, "the node without the slot");
}

#[tokio::test]
async fn a_cluster_says_whether_one_failed_shard_stops_all_and_a_single_server_is_not_a_cluster() {
    let nodes = start_cluster().await;
    let queue = open(clustered(&nodes, 8));
    assert_eq!(queue.full_coverage().await, Some(FullCoverage::NotRequired));
    nodes[1].cli(&["config", "set", "cluster-require-full-coverage", "yes"]);
    assert_eq!(queue.full_coverage().await, Some(FullCoverage::Required), "one node is enough");
    let single = RedisServer::start().await;
    assert_eq!(open(settings(single.url())).full_coverage().await, None);
}
