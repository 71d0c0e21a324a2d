//! An unreachable server: one clear log line, no password, no crash, and work continues when it is reachable
//! again.

use rollbook_testkit::process::{Home, until};
use rollbook_testkit::servers::postgres::PostgresServer;
use rollbook_testkit::servers::redis::RedisServer;

use super::{BINARY, nobody, readiness, run, send};

#[tokio::test]
async fn a_receiver_with_an_unreachable_redis_starts_logs_it_once_and_answers_503() {
    let redis = nobody();
    let home = Home::new(BINARY).with("ROLLBOOK_QUEUE_URL", format!("redis://:ImASecret@{redis}/0"));
    let mut rollbook = home.start(&["receive"]);
    until("it says that the queue is unreachable", || async {
        readiness(&home, "queue").await.is_some_and(|(status, why)| {
            status == 503 && why.contains(&format!("Redis at {redis}: connection refused"))
        })
    })
    .await;
    assert_eq!(home.ops_get("/livez").await.expect("an answer").status, 200, "it is alive all the same");
    assert_eq!(send(&home), 503);
    rollbook.signal("TERM");
    assert!(rollbook.exit().await.success(), "{}", home.log());
    let log = home.log();
    let at_start = log.lines().take_while(|line| !line.contains("deliveries: http"));
    assert_eq!(at_start.filter(|line| line.contains(&redis)).count(), 1, "one line: {log}");
    assert!(log.contains("check that the server is running") && !log.contains("ImASecret"), "{log}");
}

#[tokio::test]
async fn a_worker_with_an_unreachable_postgres_starts_and_names_it() {
    let postgres = nobody();
    let home = Home::new(BINARY);
    home.migrate();
    let home = home.with("DATABASE_URL", format!("postgres://me:ImASecret@{postgres}/app"));
    let mut rollbook = home.start(&["work"]);
    until("it says that the store is unreachable", || async {
        readiness(&home, "store").await.is_some_and(|(status, why)| status == 503 && why.contains(&postgres))
    })
    .await;
    assert_eq!(readiness(&home, "queue").await, Some((503, "ok".to_owned())));
    rollbook.signal("TERM");
    assert!(rollbook.exit().await.success(), "{}", home.log());
    let log = home.log();
    // The tasks of the worker may meet the outage before the start has logged its last line.
    let at_start = log.lines().filter(|line| line.contains("rollbook::startup"));
    assert_eq!(at_start.filter(|line| line.contains(&postgres)).count(), 1, "one line: {log}");
    assert!(!log.contains("ImASecret"), "{log}");
}

#[test]
fn a_command_that_needs_a_server_which_is_unreachable_fails_at_once_and_says_where() {
    let (redis, postgres) = (nobody(), nobody());
    let home = Home::new(BINARY)
        .with("ROLLBOOK_QUEUE_URL", format!("redis://:ImASecret@{redis}"))
        .with("DATABASE_URL", format!("postgres://me:ImASecret@{postgres}/app"));
    for (arguments, place) in [
        (&["dead-letters", "list"][..], &redis),
        (&["migrate"], &postgres),
        (&["migrate", "--check"], &postgres),
        (&["demo", "--queue", &format!("redis://{redis}")], &redis),
        (&["demo", "--store", &format!("postgres://{postgres}/app")], &postgres),
    ] {
        let ran = run(&home, arguments).ended(1);
        assert!(ran.err.contains(place.as_str()) && !ran.err.contains("ImASecret"), "{}", ran.err);
        assert_eq!(ran.err.lines().count(), 1, "one line: {}", ran.err);
    }
}

#[tokio::test]
async fn an_invalid_url_ends_with_2_and_names_its_setting() {
    for (name, url) in [
        ("ROLLBOOK_QUEUE_URL", "redis://:ImASecret@h:none"),
        ("DATABASE_URL", "postgres://me:ImASecret@h:none/x"),
    ] {
        let home = Home::new(BINARY);
        home.migrate();
        let home = home.with(name, url);
        for command in ["work", "migrate"] {
            let ran = run(&home, &[command]).ended(2);
            assert!(ran.err.contains(name) && !ran.err.contains("ImASecret"), "{}", ran.err);
            assert!(!ran.err.contains("trying again"), "{}", ran.err);
        }
    }
}

#[tokio::test]
async fn deliveries_are_taken_again_once_redis_is_back_without_a_restart() {
    let mut redis = RedisServer::start().await;
    let home = Home::new(BINARY).with("ROLLBOOK_QUEUE_URL", redis.url());
    redis.kill();
    let _rollbook = home.start(&["serve"]);
    until("it answers", || async {
        readiness(&home, "queue").await.is_some_and(|(status, _)| status == 503)
    })
    .await;
    assert_eq!(send(&home), 503);
    redis.restart().await;
    until("it is ready", || async { readiness(&home, "queue").await == Some((200, "ok".to_owned())) }).await;
    assert_eq!(send(&home), 200);
    until("it is applied", || async { home.metric("rollbook_applied_total").await == Some(1.0) }).await;
    until("the durability is logged", || async { home.log().contains("a 200 means: on the disk") }).await;
}

#[tokio::test]
async fn a_postgres_that_comes_late_is_migrated_where_that_was_asked_for_and_written_to() {
    let mut postgres = PostgresServer::start().await;
    postgres.create_database("app").await;
    let url = postgres.url("app");
    let password = url.split([':', '@']).nth(2).expect("a password").to_owned();
    let home = Home::new(BINARY).with("DATABASE_URL", url).with("ROLLBOOK_GATE_BACKOFF_MAX", "200ms");
    postgres.kill();
    let _rollbook = home.start(&["serve", "--migrate"]);
    until("it takes deliveries", || async {
        readiness(&home, "store").await.is_some_and(|(status, why)| status == 200 && why != "ok")
    })
    .await;
    assert_eq!(send(&home), 200, "the store is unreachable, the queue is not");
    postgres.restart().await;
    until("it is applied", || async { home.metric("rollbook_applied_total").await == Some(1.0) }).await;
    assert_eq!(home.metric("rollbook_dead_letters").await, Some(0.0));
    assert!(home.log().contains("0001_mirror"), "{}", home.log());
    assert!(!home.log().contains(&password), "{}", home.log());
}

#[tokio::test]
async fn a_worker_that_is_killed_in_a_slow_statement_gives_up_its_locks_at_once() {
    const SLOW: &str = "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS
                        $$ BEGIN PERFORM pg_sleep(100); RETURN NEW; END $$;
                        CREATE TRIGGER slow AFTER INSERT ON clerk.users FOR EACH ROW EXECUTE FUNCTION slow()";
    let postgres = PostgresServer::start_with(&[("fsync", "off")]).await;
    postgres.create_database("app").await;
    let home = Home::new(BINARY)
        .with("DATABASE_URL", postgres.url("app"))
        .with("ROLLBOOK_STATEMENT_TIMEOUT", "100s")
        .with("ROLLBOOK_LEASE_FOR", "10m");
    home.migrate();
    postgres.psql("app", SLOW).await;
    let mut rollbook = home.start_ready(&["serve"]).await;
    assert_eq!(send(&home), 200);
    let slow = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'";
    let count = async || postgres.psql("app", slow).await.trim().to_owned();
    until("the statement is under way", async || count().await == "1").await;
    rollbook.kill();
    let killed_at = std::time::Instant::now();
    until("the server has ended it", async || count().await == "0").await;
    assert!(killed_at.elapsed() < std::time::Duration::from_secs(50), "{:?}", killed_at.elapsed());
}
