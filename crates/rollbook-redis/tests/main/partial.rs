//! Failure of one node of a cluster: the others enqueue, lease, settle and count as before, and nothing is
//! acknowledged that only a lost server had.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rollbook_core::queue::{Enqueued, Producer as _, QueueAdmin as _, QueueError, Settled, Settlement};
use rollbook_redis::{RedisQueue, RedisSettings};
use rollbook_testkit::process::until;
use rollbook_testkit::servers::free_port;
use rollbook_testkit::servers::proxy::{Break, Direction, Fault, FaultProxy};
use rollbook_testkit::servers::redis::RedisServer;
use tokio::task::JoinSet;

use crate::cluster::{SERVE_OWN_SLOTS, clustered, start_cluster};
use crate::support::{
    Log, delivery, drain, enqueue, ids, key, lease_in_time, names, open, set, settings, settle_all, stats,
    try_enqueue,
};

const SHARDS: u16 = 4;
const CALL_TIMEOUT: Duration = Duration::from_secs(1);

fn impatient(nodes: &[RedisServer]) -> Arc<RedisQueue> {
    open(RedisSettings { call_timeout: CALL_TIMEOUT, ..clustered(nodes, SHARDS) })
}

/// Ids of the messages with bodies on this node.
fn ids_on(node: &RedisServer) -> BTreeSet<String> {
    let keys = node.cli(&["keys", "*:messages"]);
    let ids = keys.lines().filter(|key| !key.is_empty()).map(|key| node.cli(&["hkeys", key]));
    ids.flat_map(|ids| ids.lines().map(str::to_owned).collect::<Vec<_>>()).collect()
}

/// Splits ids by node. Leaves the queue empty.
async fn split(queue: &RedisQueue, nodes: &[RedisServer; 2], all: &[String]) -> [Vec<String>; 2] {
    enqueue(queue, all).await;
    let split = [&nodes[0], &nodes[1]].map(|node| ids_on(node).into_iter().collect());
    assert_eq!(drain(queue).await, set(all));
    split
}

async fn answers(queue: &RedisQueue, ids: &[String]) -> Vec<Result<Enqueued, QueueError>> {
    let deliveries: Vec<_> = ids.iter().map(|id| delivery(id)).collect();
    queue.enqueue_many(&deliveries).await
}

#[tokio::test]
async fn while_a_master_is_down_the_shards_of_the_other_nodes_work_at_full_speed() {
    for how in ["KILL", "STOP"] {
        let mut nodes = start_cluster().await;
        let queue = impatient(&nodes);
        let all = names("msg", 0..200);
        let [down, healthy] = split(&queue, &nodes, &all).await;
        if how == "KILL" {
            nodes[0].kill();
        } else {
            nodes[0].signal(how);
        }
        // The first call to detect it waits for the full time limit.
        let first = answers(&queue, &all[..20]).await;
        for (id, answer) in all[..20].iter().zip(&first) {
            assert_eq!(answer.is_ok(), healthy.contains(id), "{how}: {id}: {answer:?}");
        }
        // Later calls do not wait, although each batch has deliveries for both nodes.
        let started = Instant::now();
        for batch in all[20..].chunks(9) {
            for (id, answer) in batch.iter().zip(answers(&queue, batch).await) {
                match answer {
                    Ok(Enqueued::Queued) => assert!(healthy.contains(id), "{how}: {id}"),
                    Err(QueueError::Unavailable(_)) => assert!(down.contains(id), "{how}: {id}"),
                    other => panic!("{how}: {id}: {other:?}"),
                }
            }
        }
        let leases = lease_in_time(&queue, healthy.len()).await;
        assert_eq!(ids(&leases), set(&healthy), "{how}");
        let acks: Vec<_> = leases.into_iter().map(|lease| (lease, Settlement::Ack)).collect();
        let (last, rest) = acks.split_last().expect("some");
        assert_eq!(
            rollbook_core::queue::Consumer::settle_many(&*queue, rest).await,
            vec![Ok(Settled::Done); rest.len()]
        );
        assert_eq!((stats(&queue).await.depth(), stats(&queue).await.leased), (1, 1), "{how}");
        settle_all(&queue, std::slice::from_ref(&last.0), &Settlement::Ack).await;
        let durability = queue.durability().await.expect("a node answers");
        assert!(started.elapsed() < CALL_TIMEOUT * 2, "{how}: {:?}", started.elapsed());
        let [unreachable] = &durability.unreachable[..] else { panic!("{durability:?}") };
        let place = format!("node 127.0.0.1:{}", nodes[0].port());
        assert!(unreachable.starts_with("shard") && unreachable.contains(&place), "{how}: {unreachable}");
        assert_eq!(durability.weaknesses, [], "{how}");

        if how == "KILL" {
            nodes[0].restart().await;
        } else {
            nodes[0].signal("CONT");
        }
        until("the node takes again", || async { try_enqueue(&queue, &down).await.is_ok() }).await;
        assert_eq!(ids(&lease_in_time(&queue, down.len()).await), set(&down), "{how}");
        assert_eq!(queue.durability().await.map(|durability| durability.unreachable), Ok(vec![]), "{how}");
    }
}

#[tokio::test]
async fn an_unreachable_node_is_logged_once_at_the_start_and_once_at_the_end() {
    let (log, _guard) = Log::capture();
    let mut nodes = start_cluster().await;
    let queue = impatient(&nodes);
    let all = names("msg", 0..40);
    split(&queue, &nodes, &all).await;
    nodes[0].kill();
    for batch in all.chunks(8) {
        answers(&queue, batch).await;
    }
    let place = format!("node 127.0.0.1:{}", nodes[0].port());
    let begun = log.lines_with("can neither accept nor lease messages until it answers");
    assert!(begun.len() == 1 && begun[0].contains(&place) && begun[0].contains("shard"), "{begun:?}");
    nodes[0].restart().await;
    until("the node takes again", || async { try_enqueue(&queue, &all).await.is_ok() }).await;
    let ended = log.lines_with("the node is reachable again");
    assert!(ended.len() == 1 && ended[0].contains(&place), "{ended:?}");
}

#[tokio::test]
async fn a_process_starts_and_works_while_the_node_of_shard_0_is_down() {
    let mut nodes = start_cluster().await;
    let all = names("msg", 0..80);
    let [_, healthy] = split(&impatient(&nodes), &nodes, &all).await;
    nodes[0].kill();
    // The node has lost its scripts too.
    nodes[1].cli(&["script", "flush"]);
    let queue = impatient(&nodes);
    let durability = queue.durability().await.expect("a node answers");
    assert_eq!((durability.weaknesses.len(), durability.unreachable.len()), (0, 1), "{durability:?}");
    assert_eq!(queue.exists().await, Ok(true));
    assert!(queue.server_time().await.is_ok());
    enqueue(&queue, &healthy).await;
    assert_eq!(ids(&lease_in_time(&queue, healthy.len()).await), set(&healthy));

    // A different number of shards is still detected.
    let others = open(RedisSettings { call_timeout: CALL_TIMEOUT, ..clustered(&nodes, 2) });
    for answer in answers(&others, &all).await {
        assert!(answer.is_err(), "{answer:?}");
    }
    nodes[0].restart().await;
    until("the queue takes all", || async { try_enqueue(&queue, &all).await.is_ok() }).await;
}

#[tokio::test]
async fn a_queue_that_does_not_exist_is_not_created_without_its_first_shard() {
    let mut nodes = start_cluster().await;
    nodes[0].kill();
    let queue = impatient(&nodes);
    for answer in answers(&queue, &names("msg", 0..20)).await {
        assert!(matches!(answer, Err(QueueError::Unavailable(_))), "{answer:?}");
    }
    assert_eq!(nodes[1].cli(&["dbsize"]), "0");
}

#[tokio::test]
async fn a_shard_that_moves_to_another_node_is_found() {
    let nodes = start_cluster().await;
    let queue = open(clustered(&nodes, SHARDS));
    let all = names("msg", 0..40);
    enqueue(&queue, &all).await;
    let slot = nodes[0].cli(&["cluster", "keyslot", &key(0, "messages")]);
    let [from, to] = [0, 1].map(|node: usize| nodes[node].cli(&["cluster", "myid"]));
    nodes[1].cli(&["cluster", "setslot", &slot, "importing", &from]);
    nodes[0].cli(&["cluster", "setslot", &slot, "migrating", &to]);
    let keys = nodes[0].cli(&["cluster", "getkeysinslot", &slot, "100"]);
    let port = nodes[1].port().to_string();
    let mut command = vec!["migrate", "127.0.0.1", &port, "", "0", "5000", "keys"];
    command.extend(keys.lines());
    assert_eq!(nodes[0].cli(&command), "OK");
    for node in [&nodes[1], &nodes[0]] {
        node.cli(&["cluster", "setslot", &slot, "node", &to]);
    }
    assert_eq!(try_enqueue(&queue, &all).await, Ok(vec![Enqueued::Duplicate; 40]));
    assert_eq!(drain(&queue).await, set(&all));
    assert_eq!(stats(&queue).await.depth(), 0);
}

/// Starts a node of a cluster with one master; other nodes and clients find it at `port`.
async fn start_node(port: Option<u16>) -> RedisServer {
    let (bus, announced) = (free_port().to_string(), port.map(|port| port.to_string()));
    let mut settings = vec![
        ("cluster-enabled", "yes"),
        ("cluster-port", &bus),
        ("cluster-node-timeout", "60000"),
        ("repl-diskless-sync-delay", "0"),
        SERVE_OWN_SLOTS,
    ];
    if let Some(port) = &announced {
        settings.extend([
            ("cluster-announce-ip", "127.0.0.1"),
            ("cluster-announce-port", port),
            ("cluster-announce-bus-port", &bus),
        ]);
    }
    RedisServer::start_with(&settings).await
}

fn says(server: &RedisServer, section: &[&str], fact: &str) -> bool {
    server.cli(section).contains(fact)
}

/// Starts a cluster of one master behind a proxy and two replicas, and returns its URL.
async fn start_replicated() -> (RedisServer, FaultProxy, [RedisServer; 2], String) {
    // The proxy's port is known only once it runs; the announced port is set then.
    let master = start_node(None).await;
    let proxy = FaultProxy::start(master.port());
    let announced = proxy.port().to_string();
    let bus = master.cli(&["config", "get", "cluster-port"]).lines().last().expect("a port").to_owned();
    for (name, value) in [
        ("cluster-announce-ip", "127.0.0.1"),
        ("cluster-announce-port", &announced),
        ("cluster-announce-bus-port", &bus),
    ] {
        master.cli(&["config", "set", name, value]);
    }
    master.cli(&["cluster", "addslotsrange", "0", "16383"]);
    let replicas = [start_node(None).await, start_node(None).await];
    let id = master.cli(&["cluster", "myid"]);
    for replica in &replicas {
        replica.cli(&["cluster", "meet", "127.0.0.1", &master.port().to_string(), &bus]);
    }
    for node in [&master, &replicas[0], &replicas[1]] {
        until("the nodes know each other", || {
            std::future::ready(
                says(node, &["cluster", "info"], "cluster_known_nodes:3")
                    && says(node, &["cluster", "nodes"], &id),
            )
        })
        .await;
    }
    for replica in &replicas {
        until("it follows", || std::future::ready(replica.cli(&["cluster", "replicate", &id]) == "OK")).await;
    }
    until("both are in line", || {
        std::future::ready(master.cli(&["info", "replication"]).matches("state=online").count() == 2)
    })
    .await;
    let hosts =
        [proxy.port(), replicas[0].port(), replicas[1].port()].map(|port| format!("127.0.0.1:{port}"));
    let url = format!("redis+cluster://{}", hosts.join(","));
    (master, proxy, replicas, url)
}

#[tokio::test]
async fn a_confirmation_from_a_promoted_replica_without_the_delivery_acknowledges_nothing() {
    let (mut master, proxy, replicas, url) = start_replicated().await;
    let queue = open(RedisSettings { replicas: 1, ..settings(url) });
    until("the replicas keep up", || async { try_enqueue(&queue, &names("well", 0..1)).await.is_ok() }).await;

    // The write arrives, and its WAIT does not. The replicas get no further data from this master.
    for replica in &replicas {
        replica.signal("STOP");
    }
    master.cli(&["client", "kill", "type", "replica"]);
    let is_wait = |chunk: &[u8]| chunk.windows(6).any(|word| word == b"\r\nWAIT").then_some(Break::BlackHole);
    let is_passed_on = proxy.broken();
    proxy.fail(Direction::ToServer, Fault::when(is_wait));
    let asking = Arc::clone(&queue);
    let mut calls = JoinSet::new();
    calls.spawn(async move { try_enqueue(&asking, &names("msg", 0..1)).await });
    until("WAIT is on its way", || std::future::ready(proxy.broken() > is_passed_on)).await;
    master.kill();
    for replica in &replicas {
        replica.signal("CONT");
    }
    replicas[0].cli(&["cluster", "failover", "takeover"]);
    until("the other follows the new master", || {
        std::future::ready(says(&replicas[0], &["info", "replication"], "state=online"))
    })
    .await;
    proxy.cut();

    let acknowledged = calls.join_next().await.expect("a call").expect("no panic").is_ok();
    let is_there = || replicas[0].cli(&["hexists", &key(0, "messages"), "msg_00000"]) == "1";
    assert!(!acknowledged || is_there(), "acknowledged and lost");
    println!("acknowledged: {acknowledged}, there: {}", is_there());
    until("the new master takes it", || async { try_enqueue(&queue, &names("msg", 0..1)).await.is_ok() })
        .await;
    assert!(is_there());
}
