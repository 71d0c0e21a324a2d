//! What an acknowledgement is worth on servers of all kinds.

use std::time::Duration;

use rollbook_core::queue::{Consumer as _, DeadLetterFilter, QueueAdmin as _, QueueError};
use rollbook_redis::{RedisQueue, RedisSettings};
use rollbook_testkit::servers::redis::RedisServer;

use crate::fake::{Fake, HANGS_UP};
use crate::support::{LONG, discarded, enqueue, names, open, redriven, settings, try_enqueue};
use rollbook_testkit::queues::request;

/// Settings of a server, and the beginning of what is told about them.
const WEAK: [(&[(&str, &str)], &str); 5] = [
    (&[("appendfsync", "everysec")], "appendfsync is everysec"),
    (&[("appendfsync", "no")], "appendfsync is no"),
    (&[("appendonly", "no")], "appendonly is no"),
    (&[("maxmemory-policy", "allkeys-lru")], "maxmemory-policy is allkeys-lru"),
    (&[("no-appendfsync-on-rewrite", "yes")], "no-appendfsync-on-rewrite is yes"),
];

async fn weaknesses(queue: &RedisQueue) -> Vec<String> {
    let found = queue.durability().await.expect("the server answers").weaknesses;
    found.iter().map(ToString::to_string).collect()
}

/// That nothing at all is done, and why.
async fn assert_refused(queue: &RedisQueue, why: &str) {
    let any = DeadLetterFilter::default();
    let request = request(1, LONG, Duration::ZERO);
    let refusals = [
        try_enqueue(queue, &names("msg", 0..1)).await.map(drop),
        queue.lease(request).await.map(drop),
        queue.stats().await.map(drop),
        queue.dead_letters(&any, None, 1).await.map(drop),
        redriven(queue, &any, 1).await.map(drop),
        discarded(queue, &any, 1).await.map(drop),
    ];
    for refusal in refusals {
        let Err(QueueError::Deployment(told)) = refusal else { panic!("{refusal:?}") };
        assert!(told.contains(why) && told.contains("Redis at 127.0.0.1:"), "{told}");
    }
}

#[tokio::test]
async fn a_server_that_flushes_before_it_answers_has_no_weakness() {
    let server = RedisServer::start().await;
    assert_eq!(weaknesses(&open(settings(server.url()))).await, [""; 0]);
}

#[tokio::test]
async fn each_weakness_is_named_with_its_mend_allowed_when_degraded_and_refused_when_strict() {
    for (weak, told) in WEAK {
        let server = RedisServer::start_with(weak).await;
        let strict = open(settings(server.url()));
        let degraded = open(RedisSettings { strict: false, ..settings(server.url()) });
        for queue in [&strict, &degraded] {
            let [weakness] = &weaknesses(queue).await[..] else { panic!("one: {told}") };
            assert!(weakness.starts_with(told) && weakness.contains("CONFIG SET"), "{weakness}");
        }
        assert_refused(&strict, told).await;
        enqueue(&degraded, &names("msg", 0..1)).await;
    }
}

#[tokio::test]
async fn settings_that_change_while_we_work_are_noticed_and_refused_until_they_are_mended() {
    let server = RedisServer::start().await;
    let queue = open(settings(server.url()));
    enqueue(&queue, &names("first", 0..1)).await;
    for (weak, told) in WEAK {
        for (name, value) in weak {
            server.cli(&["config", "set", name, value]);
        }
        assert_eq!(weaknesses(&queue).await.len(), 1);
        assert_refused(&queue, told).await;
        for (name, _) in weak {
            let good = match *name {
                "appendfsync" => "always",
                "appendonly" => "yes",
                "maxmemory-policy" => "noeviction",
                _ => "no",
            };
            server.cli(&["config", "set", name, good]);
        }
        enqueue(&queue, &names(told, 0..1)).await;
    }
    assert_eq!(weaknesses(&queue).await, [""; 0]);
}

#[tokio::test]
async fn a_replica_is_told_from_a_master_and_gets_no_work() {
    let (master, replica) = (RedisServer::start().await, RedisServer::start().await);
    let strict = open(settings(replica.url()));
    let degraded = open(RedisSettings { strict: false, ..settings(replica.url()) });
    // Both have connections from before.
    enqueue(&strict, &names("strict", 0..1)).await;
    enqueue(&degraded, &names("degraded", 0..1)).await;
    replica.cli(&["replicaof", "127.0.0.1", &master.port().to_string()]);
    // Each tries again on a new connection, and finds the same server there.
    let refused = try_enqueue(&degraded, &names("msg", 0..1)).await;
    let Err(QueueError::Unavailable(told)) = refused else { panic!("{refused:?}") };
    assert!(told.contains("READONLY: it is a replica now"), "{told}");
    let refused = try_enqueue(&strict, &names("msg", 0..1)).await;
    let Err(QueueError::Deployment(told)) = refused else { panic!("{refused:?}") };
    assert!(told.contains("role is slave"), "{told}");
    let [weakness] = &weaknesses(&degraded).await[..] else { panic!("one") };
    assert!(weakness.starts_with("role is slave"), "{weakness}");
    assert!(matches!(try_enqueue(&strict, &names("msg", 0..1)).await, Err(QueueError::Deployment(_))));
    replica.cli(&["replicaof", "no", "one"]);
    enqueue(&strict, &names("msg", 0..1)).await;
    enqueue(&degraded, &names("msg", 1..2)).await;
}

#[tokio::test]
async fn settings_that_nobody_may_see_are_a_weakness_of_their_own() {
    let server = RedisServer::start_with(&[("rename-command", "CONFIG hidden")]).await;
    let queue = open(RedisSettings { strict: false, ..settings(server.url()) });
    let [weakness] = &weaknesses(&queue).await[..] else { panic!("one") };
    assert!(weakness.starts_with("appendfsync can't be seen"), "{weakness}");
    enqueue(&queue, &names("msg", 0..1)).await;
    assert_refused(&open(settings(server.url())), "appendfsync can't be seen").await;

    let server = RedisServer::start().await;
    server.cli(&["acl", "setuser", "limited", "on", ">pw", "~*", "+@all", "-config"]);
    let url = server.url().replace("redis://", "redis://limited:pw@");
    let [weakness] = &weaknesses(&open(settings(url))).await[..] else { panic!("one") };
    assert!(weakness.contains("allow the user +config|get"), "{weakness}");
}

#[tokio::test]
async fn a_server_that_still_reads_its_log_or_goes_away_is_waited_for_and_not_called_misconfigured() {
    // While it reads, it says aof_enabled:0.
    for (odd, why) in [(("loading", "1"), "LOADING"), (("CONFIG", HANGS_UP), "is it running")] {
        let fake = Fake::start(odd.0, odd.1).await;
        let queue = open(settings(fake.url()));
        let refusals =
            [try_enqueue(&queue, &names("msg", 0..1)).await.map(drop), queue.durability().await.map(drop)];
        for refusal in refusals {
            let Err(QueueError::Unavailable(told)) = refusal else { panic!("{refusal:?}") };
            assert!(told.contains(why), "{told}");
        }
    }
}

#[tokio::test]
async fn a_server_that_is_too_old_is_refused_by_its_version() {
    let fake = Fake::start("redis_version", "6.2.14").await;
    let queue = open(RedisSettings { strict: false, ..settings(fake.url()) });
    let refused = try_enqueue(&queue, &names("msg", 0..1)).await;
    let Err(QueueError::Deployment(told)) = refused else { panic!("{refused:?}") };
    assert!(told.contains("it is version 6.2.14 and Rollbook needs 7.0"), "{told}");
}
