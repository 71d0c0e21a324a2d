//! Durability of a 200: reported at the start, in `/readyz` and in a metric, and required by `strict`.

use rollbook_testkit::process::{Home, until};
use rollbook_testkit::servers::postgres::PostgresServer;
use rollbook_testkit::servers::redis::RedisServer;

use super::{BINARY, readiness, run, send};

#[tokio::test]
async fn strict_refuses_to_start_on_a_redis_that_could_lose_what_it_acknowledged() {
    let redis = RedisServer::start_with(&[("appendfsync", "everysec")]).await;
    let home =
        Home::new(BINARY).with("ROLLBOOK_QUEUE_URL", redis.url()).with("ROLLBOOK_DURABILITY", "strict");
    for command in ["serve", "receive"] {
        let ran = run(&home, &[command]).ended(1);
        assert!(ran.err.contains("durability is strict"), "{}", ran.err);
        let weakness = ran.err.lines().find(|line| line.starts_with("  ") && line.contains("appendfsync"));
        assert!(weakness.is_some(), "{}", ran.err);
    }
}

#[tokio::test]
async fn all_that_keeps_a_process_from_starting_is_said_at_once_each_with_its_fix() {
    let weak = [
        ("appendonly", "no"),
        ("appendfsync", "everysec"),
        ("no-appendfsync-on-rewrite", "yes"),
        ("maxmemory-policy", "allkeys-lru"),
    ];
    let redis = RedisServer::start_with(&weak).await;
    let postgres = PostgresServer::start_with(&[("fsync", "off")]).await;
    postgres.create_database("app").await;
    let home = Home::new(BINARY)
        .with("ROLLBOOK_QUEUE_URL", redis.url())
        .with("DATABASE_URL", postgres.url("app"))
        .with("ROLLBOOK_DURABILITY", "strict");
    let refused = run(&home, &["serve"]).ended(1).err;
    for fix in [
        "CONFIG SET appendonly yes",
        "CONFIG SET appendfsync always",
        "CONFIG SET no-appendfsync-on-rewrite no",
        "CONFIG SET maxmemory-policy noeviction",
        "run: rollbook migrate",
        "2 faults keep this process from starting",
    ] {
        assert!(refused.contains(fix), "{fix}: {refused}");
    }
    let doctor = run(&home, &["doctor"]).ended(1).out;
    for fix in
        ["appendonly yes", "appendfsync always", "on-rewrite no", "policy noeviction", "rollbook migrate"]
    {
        assert!(doctor.contains(fix), "{fix}: {doctor}");
    }
    // All fixes at once, and it starts.
    for (setting, value) in [
        ("appendonly", "yes"),
        ("appendfsync", "always"),
        ("no-appendfsync-on-rewrite", "no"),
        ("maxmemory-policy", "noeviction"),
    ] {
        redis.cli(&["CONFIG", "SET", setting, value]);
    }
    home.migrate();
    let _serving = home.start_ready(&["serve"]).await;
}

#[tokio::test]
async fn degraded_is_said_in_the_log_in_readiness_and_in_a_metric() {
    let redis = RedisServer::start_with(&[("appendfsync", "everysec")]).await;
    let home = Home::new(BINARY).with("ROLLBOOK_QUEUE_URL", redis.url());
    let _rollbook = home.start_ready(&["serve"]).await;
    assert!(home.log().contains("degraded: ") && home.log().contains("appendfsync"), "{}", home.log());
    assert!(!home.log().contains("a 200 means: on the disk"), "{}", home.log());
    let (status, why) = readiness(&home, "queue").await.expect("an answer");
    assert!(status == 200 && why.starts_with("degraded: ") && why.contains("appendfsync"), "{why}");
    assert_eq!(home.metric("rollbook_durability_degraded").await, Some(1.0));
    assert_eq!(send(&home), 200);
    redis.cli(&["CONFIG", "SET", "appendfsync", "always"]);
    until("it is asked anew", || async {
        home.metric("rollbook_durability_degraded").await == Some(0.0)
            && readiness(&home, "queue").await == Some((200, "ok".to_owned()))
    })
    .await;
}

#[tokio::test]
async fn a_redis_that_weakens_under_strict_takes_nothing_until_it_is_fixed() {
    let redis = RedisServer::start().await;
    let home =
        Home::new(BINARY).with("ROLLBOOK_QUEUE_URL", redis.url()).with("ROLLBOOK_DURABILITY", "strict");
    let _rollbook = home.start_ready(&["receive"]).await;
    assert!(home.log().contains("a 200 means: on the disk"), "{}", home.log());
    assert_eq!(home.metric("rollbook_durability_degraded").await, Some(0.0));
    assert_eq!(send(&home), 200);
    redis.cli(&["CONFIG", "SET", "appendfsync", "everysec"]);
    until("it is asked anew, and nothing is taken", || async {
        readiness(&home, "queue").await.is_some_and(|(status, _)| status == 503) && send(&home) == 503
    })
    .await;
    let (status, why) = readiness(&home, "queue").await.expect("an answer");
    assert!(status == 503 && why.contains("appendfsync"), "{why}");
    redis.cli(&["CONFIG", "SET", "appendfsync", "always"]);
    until("deliveries are taken again", || async {
        readiness(&home, "queue").await.is_some_and(|(status, _)| status == 200) && send(&home) == 200
    })
    .await;
}

#[tokio::test]
async fn trusted_is_said_in_the_log_in_doctor_in_the_configuration_and_in_a_metric() {
    let redis = RedisServer::start_with(&[("rename-command", "CONFIG hidden")]).await;
    let home =
        Home::new(BINARY).with("ROLLBOOK_QUEUE_URL", redis.url()).with("ROLLBOOK_DURABILITY", "trusted");
    let _rollbook = home.start_ready(&["serve"]).await;
    let log = home.log();
    assert!(
        log.contains("durability is trusted: a 200 means that you vouch for the queue's server"),
        "{log}"
    );
    assert!(log.contains("Not proved: appendfsync can't be read") && !log.contains("degraded: "), "{log}");
    assert!(!log.contains("a 200 means: on the disk"), "{log}");
    assert_eq!(readiness(&home, "queue").await, Some((200, "ok".to_owned())));
    for (metric, value) in [("rollbook_durability_trusted", 1.0), ("rollbook_durability_degraded", 0.0)] {
        assert_eq!(home.metric(metric).await, Some(value), "{metric}");
    }
    assert_eq!(send(&home), 200);
    assert!(run(&home, &["config"]).ended(0).out.contains("trusted"));
    let doctor = run(&home, &["doctor"]).out;
    assert!(doctor.contains("trusted: a 200 means that you vouch"), "{doctor}");
    // The same server without anybody who vouches.
    let home = Home::new(BINARY).with("ROLLBOOK_QUEUE_URL", redis.url());
    let doctor = run(&home, &["doctor"]).out;
    assert!(doctor.contains("set durability to trusted") && !doctor.contains("you vouch for"), "{doctor}");
}
