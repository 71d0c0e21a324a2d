//! Durability of acknowledged data on servers with different settings.

use std::time::Duration;

use rollbook_core::queue::{Consumer as _, DeadLetterFilter, QueueAdmin as _, QueueError};
use rollbook_redis::{RedisQueue, RedisSettings};
use rollbook_testkit::servers::redis::RedisServer;

use crate::fake::{FORBIDDEN, Fake, HANGS_UP};
use crate::support::{LONG, discarded, drain, enqueue, names, open, redriven, settings, try_enqueue};
use rollbook_testkit::queues::request;

/// Settings of a server, and the start of the weakness text.
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

/// Asserts that every call is refused with this reason.
async fn assert_refused(queue: &RedisQueue, why: &str) {
    let any = DeadLetterFilter::default();
    let request = request(1, LONG, Duration::ZERO);
    let refusals = [
        try_enqueue(queue, &names("msg", 0..1)).await.map(drop),
        queue.lease(request).await.map(drop),
        queue.stats().await.map(drop),
        queue.dead_letters(&any.page(None, 1)).await.map(drop),
        redriven(queue, &any, 1).await.map(drop),
        discarded(queue, &any, 1).await.map(drop),
    ];
    for refusal in refusals {
        let Err(QueueError::Deployment(text)) = refusal else { panic!("{refusal:?}") };
        assert!(text.contains(why) && text.contains("Redis at 127.0.0.1:"), "{text}");
    }
}

#[tokio::test]
async fn a_server_that_flushes_before_answering_has_no_weakness() {
    let server = RedisServer::start().await;
    assert_eq!(weaknesses(&open(settings(server.url()))).await, [""; 0]);
}

#[tokio::test]
async fn each_weakness_is_named_with_its_fix_allowed_when_degraded_and_refused_when_strict() {
    for (weak, text) in WEAK {
        let server = RedisServer::start_with(weak).await;
        let strict = open(settings(server.url()));
        let degraded = open(RedisSettings { strict: false, ..settings(server.url()) });
        for queue in [&strict, &degraded] {
            let [weakness] = &weaknesses(queue).await[..] else { panic!("one: {text}") };
            assert!(weakness.starts_with(text) && weakness.contains("CONFIG SET"), "{weakness}");
        }
        assert_refused(&strict, text).await;
        enqueue(&degraded, &names("msg", 0..1)).await;
    }
}

#[tokio::test]
async fn settings_that_change_at_runtime_are_detected_and_refused_until_fixed() {
    let server = RedisServer::start().await;
    let queue = open(settings(server.url()));
    enqueue(&queue, &names("first", 0..1)).await;
    for (weak, text) in WEAK {
        for (name, value) in weak {
            server.cli(&["config", "set", name, value]);
        }
        assert_eq!(weaknesses(&queue).await.len(), 1);
        assert_refused(&queue, text).await;
        for (name, _) in weak {
            let good = match *name {
                "appendfsync" => "always",
                "appendonly" => "yes",
                "maxmemory-policy" => "noeviction",
                _ => "no",
            };
            server.cli(&["config", "set", name, good]);
        }
        enqueue(&queue, &names(text, 0..1)).await;
    }
    assert_eq!(weaknesses(&queue).await, [""; 0]);
}

#[tokio::test]
async fn a_demoted_master_is_detected_and_gets_no_work() {
    let (master, replica) = (RedisServer::start().await, RedisServer::start().await);
    let strict = open(settings(replica.url()));
    let degraded = open(RedisSettings { strict: false, ..settings(replica.url()) });
    // Both processes have existing connections.
    enqueue(&strict, &names("strict", 0..1)).await;
    enqueue(&degraded, &names("degraded", 0..1)).await;
    replica.cli(&["replicaof", "127.0.0.1", &master.port().to_string()]);
    // Each call is retried on a new connection, which leads to the same server.
    let refused = try_enqueue(&degraded, &names("msg", 0..1)).await;
    let Err(QueueError::Unavailable(text)) = refused else { panic!("{refused:?}") };
    assert!(text.contains("READONLY: the server is a replica now"), "{text}");
    let refused = try_enqueue(&strict, &names("msg", 0..1)).await;
    let Err(QueueError::Deployment(text)) = refused else { panic!("{refused:?}") };
    assert!(text.contains("role is slave"), "{text}");
    let [weakness] = &weaknesses(&degraded).await[..] else { panic!("one") };
    assert!(weakness.starts_with("role is slave"), "{weakness}");
    assert!(matches!(try_enqueue(&strict, &names("msg", 0..1)).await, Err(QueueError::Deployment(_))));
    replica.cli(&["replicaof", "no", "one"]);
    enqueue(&strict, &names("msg", 0..1)).await;
    enqueue(&degraded, &names("msg", 1..2)).await;
}

#[tokio::test]
async fn unreadable_settings_are_a_weakness() {
    let server = RedisServer::start_with(&[("rename-command", "CONFIG hidden")]).await;
    let queue = open(RedisSettings { strict: false, ..settings(server.url()) });
    let [weakness] = &weaknesses(&queue).await[..] else { panic!("one") };
    assert!(weakness.starts_with("appendfsync can't be read"), "{weakness}");
    enqueue(&queue, &names("msg", 0..1)).await;
    assert_refused(&open(settings(server.url())), "appendfsync can't be read").await;

    let server = RedisServer::start().await;
    server.cli(&["acl", "setuser", "limited", "on", ">pw", "~*", "+@all", "-config"]);
    let url = server.url().replace("redis://", "redis://limited:pw@");
    let [weakness] = &weaknesses(&open(settings(url))).await[..] else { panic!("one") };
    assert!(weakness.contains("grant the user +config|get") && weakness.contains("trusted"), "{weakness}");
}

#[tokio::test]
async fn with_trusted_the_operator_vouches_for_what_a_server_without_config_does_not_prove() {
    let server = RedisServer::start_with(&[("rename-command", "CONFIG hidden")]).await;
    server.cli(&["acl", "setuser", "limited", "on", ">pw", "~*", "+@all", "-@dangerous", "+info"]);
    for url in [server.url(), server.url().replace("redis://", "redis://limited:pw@")] {
        let trusted = open(RedisSettings { strict: false, trusted: true, ..settings(url) });
        let found = trusted.durability().await.expect("the server answers");
        assert_eq!((found.weaknesses.clone(), found.is_degraded()), (vec![], false));
        let [vouched] = &found.vouched[..] else { panic!("one: {found:?}") };
        assert!(vouched.starts_with("appendfsync can't be read"), "{vouched}");
        enqueue(&trusted, &names("msg", 0..1)).await;
        assert_eq!(drain(&trusted).await.len(), 1);
        // INFO shows these, whoever vouches.
        server.cli(&["hidden", "set", "maxmemory-policy", "allkeys-lru"]);
        let [weakness] = &weaknesses(&trusted).await[..] else { panic!("one") };
        assert!(weakness.starts_with("maxmemory-policy is allkeys-lru"), "{weakness}");
        server.cli(&["hidden", "set", "maxmemory-policy", "noeviction"]);
    }
}

#[tokio::test]
async fn with_trusted_a_server_without_a_log_is_vouched_for_and_a_good_server_needs_nobody() {
    let server = RedisServer::start_with(&[("appendonly", "no")]).await;
    let trusted =
        |server: &RedisServer| open(RedisSettings { strict: false, trusted: true, ..settings(server.url()) });
    let found = trusted(&server).durability().await.expect("the server answers");
    assert_eq!(found.weaknesses, []);
    assert!(found.vouched[0].starts_with("appendonly is no"), "{found:?}");
    let good = RedisServer::start().await;
    let found = trusted(&good).durability().await.expect("the server answers");
    assert_eq!((found.weaknesses, found.vouched), (vec![], vec![]));
}

#[tokio::test]
async fn without_config_each_delivery_waits_until_the_disk_is_confirmed() {
    let fake = Fake::start("CONFIG", FORBIDDEN).await;
    let degraded = open(RedisSettings { strict: false, ..settings(fake.url()) });
    let [weakness] = &weaknesses(&degraded).await[..] else { panic!("one") };
    assert!(weakness.contains("waits until WAITAOF confirms the disk"), "{weakness}");
    fake.waitaof(1, 0);
    enqueue(&degraded, &names("msg", 0..1)).await;
    assert!(fake.last_two()[1].starts_with("WAITAOF 1 0"), "{:?}", fake.last_two());
    fake.waitaof(0, 0);
    let refused = try_enqueue(&degraded, &names("msg", 0..1)).await;
    let Err(QueueError::Unavailable(text)) = refused else { panic!("{refused:?}") };
    assert!(text.contains("0 of 1 local disks have the write"), "{text}");
    // Whoever vouches does not wait.
    let trusted = open(RedisSettings { strict: false, trusted: true, ..settings(fake.url()) });
    enqueue(&trusted, &names("msg", 0..1)).await;
}

#[tokio::test]
async fn a_loading_or_stopped_server_is_a_temporary_error_and_not_a_wrong_configuration() {
    // While loading, the server reports aof_enabled:0.
    for (odd, why) in
        [(("loading", "1"), "LOADING"), (("CONFIG", HANGS_UP), "check that the server is running")]
    {
        let fake = Fake::start(odd.0, odd.1).await;
        let queue = open(settings(fake.url()));
        let refusals =
            [try_enqueue(&queue, &names("msg", 0..1)).await.map(drop), queue.durability().await.map(drop)];
        for refusal in refusals {
            let Err(QueueError::Unavailable(text)) = refusal else { panic!("{refusal:?}") };
            assert!(text.contains(why), "{text}");
        }
    }
}

#[tokio::test]
async fn a_server_that_is_too_old_is_refused_with_its_version() {
    let fake = Fake::start("redis_version", "6.2.14").await;
    let queue = open(RedisSettings { strict: false, ..settings(fake.url()) });
    let refused = try_enqueue(&queue, &names("msg", 0..1)).await;
    let Err(QueueError::Deployment(text)) = refused else { panic!("{refused:?}") };
    assert!(text.contains("the server has version 6.2.14 and Rollbook needs 7.0"), "{text}");
}
