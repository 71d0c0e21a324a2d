//! Failover of a master that sentinels monitor.

use std::time::Duration;

use rollbook_core::queue::{Consumer as _, QueueAdmin as _, QueueError, Settlement};
use rollbook_redis::RedisSettings;
use rollbook_testkit::process::until;
use rollbook_testkit::servers::free_port;
use rollbook_testkit::servers::redis::RedisServer;
use rollbook_testkit::servers::sentinel::RedisSentinel;

use crate::replicas::start_replica;
use crate::support::{
    LONG, drain, enqueue, ids, key, lease, names, open, set, settings, settle_all, stats, try_enqueue,
};
use rollbook_testkit::queues::request;

const SERVICE: &str = "rollbook";

#[tokio::test]
async fn after_a_failover_the_queue_continues_on_the_new_master_without_a_restart() {
    let master = RedisServer::start().await;
    let replica = start_replica(&master).await;
    let sentinel = RedisSentinel::start(SERVICE, &master).await;
    let queue = open(settings(sentinel.url()));
    enqueue(&queue, &names("before", 0..20)).await;
    let held = lease(&queue, 5).await;
    assert_eq!(queue.durability().await.expect("the master answers").weaknesses, []);

    // A failover does not wait: data that the replica has not received yet is lost with the master.
    until("the replica has it all", || {
        let pending = replica.cli(&["xpending", &key(0, "new"), "workers"]);
        std::future::ready(pending.lines().next() == Some("5"))
    })
    .await;
    until("the failover begins", || {
        std::future::ready(sentinel.cli(&["sentinel", "failover", SERVICE]) == "OK")
    })
    .await;
    until("there is another master", || std::future::ready(sentinel.master() == replica.port())).await;
    // The sentinel does the same ten seconds later. Existing connections now lead to a replica, which reports
    // that, and new ones to the new master: no call is refused.
    master.cli(&["replicaof", "127.0.0.1", &replica.port().to_string()]);
    until("the sentinel names the new master", || async {
        open(settings(sentinel.url())).stats().await.is_ok()
    })
    .await;
    enqueue(&queue, &names("after", 0..5)).await;
    stats(&queue).await;
    settle_all(&queue, &held, &Settlement::Ack).await;
    let mut expected = set(&[names("before", 0..20), names("after", 0..5)].concat());
    expected.retain(|id| !ids(&held).contains(id));
    assert_eq!(drain(&queue).await, expected);
    let request = request(1, LONG, Duration::from_millis(300));
    assert!(queue.lease(request).await.is_ok_and(|leases| leases.is_empty()));
    assert_eq!(replica.cli(&["hlen", "{rollbook:0}:messages"]), "0");
}

#[tokio::test]
async fn unreachable_sentinels_and_unknown_services_are_temporary_errors_with_a_clear_text() {
    let master = RedisServer::start().await;
    let sentinel = RedisSentinel::start(SERVICE, &master).await;
    let port = free_port();
    for (url, text) in [
        (format!("redis+sentinel://me:ImASecret@127.0.0.1:{port}/rollbook"), format!("127.0.0.1:{port}")),
        (sentinel.url().replace("/rollbook", "/other"), "Redis other by the sentinels".to_owned()),
    ] {
        let queue = open(RedisSettings { call_timeout: Duration::from_secs(2), ..settings(url) });
        let refused = try_enqueue(&queue, &names("msg", 0..1)).await;
        let Err(QueueError::Unavailable(line)) = refused else { panic!("{refused:?}") };
        assert!(line.contains(&text) && !line.contains("ImASecret"), "{line}");
        println!("{line}");
    }
    // One reachable sentinel is enough.
    let both = sentinel.url().replace("://", &format!("://127.0.0.1:{port},"));
    enqueue(&open(settings(both)), &names("msg", 0..1)).await;
}
