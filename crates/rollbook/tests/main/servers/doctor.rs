//! `doctor` with a Redis and a Postgres.

use std::time::{Duration, Instant};

use rollbook_testkit::process::Home;
use rollbook_testkit::servers::postgres::PostgresServer;
use rollbook_testkit::servers::redis::RedisServer;
use serde_json::Value;

use super::{BINARY, nobody, run};

/// Deadline: more than twice the time limits of the checks.
const SECONDS: Duration = Duration::from_secs(20);

/// Runs `doctor`, asserts the exit code and that no password is printed, and returns the report.
#[track_caller]
fn examine(home: &Home, code: i32) -> Value {
    let began_at = Instant::now();
    let ran = run(home, &["doctor", "--output", "json"]).ended(code);
    assert!(began_at.elapsed() < SECONDS, "{:?}", began_at.elapsed());
    for password in ["ImASecret", "ImASecretToo", "ImTheTestPassword"] {
        assert!(!format!("{}{}", ran.out, ran.err).contains(password), "{}{}", ran.out, ran.err);
    }
    serde_json::from_str(&ran.out).unwrap_or_else(|error| panic!("{error} in {}", ran.out))
}

/// Returns the lines of a check: state, finding, fix.
fn lines(report: &Value, check: &str) -> Vec<String> {
    let ours = report["checks"].as_array().expect("a list").iter().filter(|one| one["check"] == check);
    ours.map(|one| format!("{} {} → {}", one["state"], one["found"], one["fix"])).collect()
}

#[tokio::test]
async fn each_weakness_of_a_redis_is_a_line_with_its_fix_and_strict_makes_it_a_failure() {
    let weak = [("appendfsync", "everysec"), ("maxmemory-policy", "allkeys-lru")];
    let redis = RedisServer::start_with(&weak).await;
    let home = Home::new(BINARY).with("ROLLBOOK_QUEUE_URL", redis.url());
    let found = lines(&examine(&home, 0), "durability");
    assert!(found.iter().all(|line| line.starts_with("\"warning\"")), "{found:?}");
    for fix in ["→ \"CONFIG SET appendfsync always\"", "→ \"CONFIG SET maxmemory-policy noeviction\""] {
        assert!(found.iter().any(|line| line.ends_with(fix)), "{found:?}");
    }
    assert_eq!(redis.cli(&["DBSIZE"]).trim(), "0", "no queue is made by looking");
    let home = home.with("ROLLBOOK_DURABILITY", "strict");
    let found = lines(&examine(&home, 1), "durability");
    assert!(!found.is_empty() && found.iter().all(|line| line.starts_with("\"failed\"")), "{found:?}");
}

#[tokio::test]
async fn a_receiver_in_the_place_of_a_worker_is_named_and_so_is_the_reverse() {
    let redis = RedisServer::start().await;
    let home = Home::new(BINARY).with("ROLLBOOK_QUEUE_URL", redis.url());
    home.migrate();
    for (command, other) in [("receive", "work"), ("work", "receive")] {
        let mut process = home.start_ready(&[command]).await;
        let report = |face: &str| {
            let ran = run(&home, &["doctor", "--face", face, "--output", "json"]).ended(0);
            serde_json::from_str::<Value>(&ran.out).expect("a report")
        };
        let found = lines(&report(other), "process");
        let named = format!("is the port of rollbook {command} ");
        let warned = found.iter().find(|line| line.contains(&named)).unwrap_or_else(|| panic!("{found:?}"));
        assert!(warned.starts_with("\"warning\"") && warned.contains("--ops-listen HOST:PORT"), "{warned}");
        for face in [command, "serve"] {
            let found = lines(&report(face), "process");
            let well = found.len() == 1 && found[0].starts_with(&format!("\"ok\" \"rollbook {command} "));
            assert!(well, "{face}: {found:?}");
        }
        process.signal("TERM");
        assert!(process.exit().await.success());
    }
}

#[tokio::test]
async fn processes_are_compared_by_their_data_and_not_by_the_name_of_the_server() {
    let (redis, postgres) =
        (RedisServer::start().await, PostgresServer::start_with(&[("fsync", "off")]).await);
    for database in ["app", "other"] {
        postgres.create_database(database).await;
    }
    let on = |queue: String, store: String| {
        Home::new(BINARY).with("ROLLBOOK_QUEUE_URL", queue).with("DATABASE_URL", store)
    };
    let home = on(redis.url(), postgres.url("app"));
    home.migrate();
    on(redis.url(), postgres.url("other")).migrate();
    let _serving = home.start_ready(&["serve"]).await;
    let judged = |queue: String, store: String, prefix: &str| {
        let other = on(queue, store).with("ROLLBOOK_REDIS_KEY_PREFIX", prefix);
        let ops = home.ops.to_string();
        let ran = run(&other, &["doctor", "--ops-listen", &ops, "--output", "json"]);
        let report: Value = serde_json::from_str(&ran.out).expect("a report");
        lines(&report, "process").join("; ")
    };
    let by_name = |url: String| url.replace("127.0.0.1", "localhost");
    let same = judged(by_name(redis.url()), by_name(postgres.url("app")), "rollbook");
    assert!(same.starts_with("\"ok\""), "{same}");
    let other = judged(redis.url(), postgres.url("other"), "rollbook");
    assert!(other.starts_with("\"failed\"") && other.contains("database other"), "{other}");
    let prefix = judged(redis.url(), postgres.url("app"), "second");
    assert!(prefix.contains("\"warning\"") && prefix.contains("key prefix second"), "{prefix}");
}

#[tokio::test]
async fn servers_that_are_unreachable_have_failed_within_seconds_and_are_named() {
    let (redis, postgres) = (nobody(), nobody());
    let home = Home::new(BINARY)
        .with("ROLLBOOK_QUEUE_URL", format!("redis://:ImASecret@{redis}"))
        .with("DATABASE_URL", format!("postgres://me:ImASecretToo@{postgres}/app"));
    let report = examine(&home, 1);
    for (check, address) in [("queue", redis), ("store", postgres)] {
        let found = lines(&report, check);
        assert!(
            found.len() == 1 && found[0].starts_with("\"failed\"") && found[0].contains(&address),
            "{found:?}"
        );
        assert!(found[0].contains("connection refused"), "{found:?}");
    }
    assert!(lines(&report, "depth")[0].starts_with("\"skipped\""), "{report}");
}

#[tokio::test]
async fn a_server_that_never_answers_has_failed_within_seconds() {
    let redis = RedisServer::start().await;
    let home = Home::new(BINARY).with("ROLLBOOK_QUEUE_URL", redis.url());
    home.migrate();
    redis.signal("STOP");
    let found = lines(&examine(&home, 1), "queue");
    redis.signal("CONT");
    assert!(found[0].contains("no answer"), "{found:?}");
}

#[tokio::test]
async fn a_postgres_that_lacks_migrations_or_rights_has_failed_and_one_that_has_all_is_well() {
    let postgres = PostgresServer::start_with(&[("fsync", "off")]).await;
    postgres.create_database("app").await;
    let redis = RedisServer::start().await;
    let home =
        Home::new(BINARY).with("DATABASE_URL", postgres.url("app")).with("ROLLBOOK_QUEUE_URL", redis.url());
    let found = lines(&examine(&home, 1), "store");
    assert!(found[0].contains("0001_mirror") && found[0].contains("→ \"rollbook migrate\""), "{found:?}");
    assert_eq!(
        postgres.psql("app", "SELECT count(*) FROM pg_namespace WHERE nspname = 'clerk'").await.trim(),
        "0"
    );

    home.migrate();
    let report = examine(&home, 0);
    for (check, count) in [("store", 1), ("queue", 1), ("durability", 1), ("clock", 1)] {
        let found = lines(&report, check);
        assert!(
            found.len() == count && found.iter().all(|line| line.starts_with("\"ok\"")),
            "{check}: {found:?}"
        );
    }

    postgres
        .psql(
            "app",
            "CREATE ROLE reader LOGIN PASSWORD 'ImASecret'; GRANT USAGE ON SCHEMA clerk TO reader;
             GRANT SELECT ON ALL TABLES IN SCHEMA clerk TO reader",
        )
        .await;
    let url = format!("postgres://reader:ImASecret@127.0.0.1:{}/app", postgres.port());
    let found = lines(&examine(&home.with("DATABASE_URL", url), 1), "store");
    assert!(found[0].starts_with("\"failed\"") && found[0].contains("user reader lacks rights"), "{found:?}");
    assert!(found[0].contains("users") && found[0].contains("deliveries"), "{found:?}");
}

/// Starts a Postgres, and a home for a worker that has all documented rights and owns nothing.
async fn with_worker_role() -> (PostgresServer, Home) {
    let postgres = PostgresServer::start_with(&[("fsync", "off")]).await;
    postgres.create_database("app").await;
    Home::new(BINARY).with("DATABASE_URL", postgres.url("app")).migrate();
    let role = "CREATE ROLE worker LOGIN PASSWORD 'ImASecret'; GRANT USAGE ON SCHEMA clerk TO worker;
         GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA clerk TO worker;
         CREATE TABLE public.seen (id text); GRANT INSERT ON public.seen TO worker;
         CREATE FUNCTION public.see() RETURNS trigger LANGUAGE plpgsql AS $f$
         BEGIN INSERT INTO public.seen VALUES (new.id); PERFORM pg_notify('seen', new.id); RETURN new; END $f$;
         CREATE TRIGGER see AFTER INSERT OR UPDATE ON clerk.users FOR EACH ROW EXECUTE FUNCTION public.see()";
    postgres.psql("app", role).await;
    let url = format!("postgres://worker:ImASecret@127.0.0.1:{}/app", postgres.port());
    (postgres, Home::new(BINARY).with("DATABASE_URL", url))
}

#[tokio::test]
async fn the_statements_of_a_worker_are_tried_on_every_table_and_nothing_is_kept_not_even_what_a_trigger_wrote()
 {
    let (postgres, home) = with_worker_role().await;
    let found = lines(&examine(&home, 0), "store");
    assert!(found[0].starts_with("\"ok\"") && found[0].contains("nothing was kept"), "{found:?}");
    let tables = "SELECT count(*) FROM pg_tables WHERE schemaname = 'clerk'";
    assert_eq!(
        postgres.psql("app", tables).await.trim(),
        "24",
        "twelve, the ledger, the migrations, the cascades, four of the reconciliation, three of the change feed, two of the forwards"
    );
    let counts = "SELECT coalesce(sum(n), 0) FROM (
            SELECT (xpath('/row/c/text()', query_to_xml('SELECT count(*) AS c FROM clerk.' || tablename, false, true, '')))[1]::text::int AS n
            FROM pg_tables WHERE schemaname = 'clerk' AND tablename NOT LIKE '%migration%' AND tablename <> 'changes_state'
            UNION ALL SELECT count(*)::int FROM public.seen) counts";
    assert_eq!(postgres.psql("app", counts).await.trim(), "0");
}

#[tokio::test]
async fn doctor_finds_refusals_that_no_ping_shows_before_a_delivery_does() {
    for (refuse, state, text) in [
        ("ALTER TABLE clerk.sessions ENABLE ROW LEVEL SECURITY", "failed", "sessions"),
        ("ALTER ROLE worker SET default_transaction_read_only = on", "failed", "read-only"),
        ("REVOKE INSERT ON public.seen FROM worker", "warning", "function see()"),
        ("ALTER TABLE clerk.roles ADD CONSTRAINT short CHECK (length(id) < 10)", "warning", "short"),
        (
            "CREATE FUNCTION public.no() RETURNS trigger LANGUAGE plpgsql AS $f$
             BEGIN RAISE EXCEPTION 'no'; END $f$;
             CREATE CONSTRAINT TRIGGER no AFTER UPDATE ON clerk.waitlist_entries DEFERRABLE INITIALLY DEFERRED
             FOR EACH ROW EXECUTE FUNCTION public.no()",
            "warning",
            "a trigger refuses the row",
        ),
    ] {
        let (postgres, home) = with_worker_role().await;
        postgres.psql("app", refuse).await;
        let found = lines(&examine(&home, i32::from(state == "failed")), "store");
        assert!(
            found[0].starts_with(&format!("\"{state}\"")) && found[0].contains(text),
            "{refuse}: {found:?}"
        );
    }
}

#[tokio::test]
async fn a_redis_that_would_refuse_a_delivery_has_failed_before_one_comes() {
    let redis = RedisServer::start().await;
    let home = Home::new(BINARY).with("ROLLBOOK_QUEUE_URL", redis.url());
    let found = lines(&examine(&home, 0), "queue");
    assert_eq!(redis.cli(&["DBSIZE"]).trim(), "0", "no queue is made by looking: {found:?}");
    let receiver = home.start_ready(&["receive"]).await;
    assert_eq!(super::send(&home), 200);
    drop(receiver);
    assert!(lines(&examine(&home, 0), "queue")[0].contains("it takes deliveries"));
    for (refuse, end, text) in [
        (
            ["config", "set", "min-replicas-to-write", "1"],
            ["config", "set", "min-replicas-to-write", "0"],
            "NOREPLICAS",
        ),
        (["config", "set", "maxmemory", "1"], ["config", "set", "maxmemory", "0"], "no room"),
        (["acl", "setuser", "default", "-@write"], ["acl", "setuser", "default", "+@all"], "NOPERM"),
    ] {
        redis.cli(&refuse);
        let found = lines(&examine(&home, 1), "queue");
        assert!(found[0].starts_with("\"failed\"") && found[0].contains(text), "{found:?}");
        redis.cli(&end);
    }
}

#[tokio::test]
async fn a_test_event_is_followed_through_redis_and_postgres_and_leaves_no_row() {
    let postgres = PostgresServer::start_with(&[("fsync", "off")]).await;
    postgres.create_database("app").await;
    let redis = RedisServer::start().await;
    let home =
        Home::new(BINARY).with("DATABASE_URL", postgres.url("app")).with("ROLLBOOK_QUEUE_URL", redis.url());
    home.migrate();
    let mut receiver = home.start_ready(&["receive"]).await;
    let ran = run(&home, &["doctor", "--send", "--face", "receive"]);
    assert!(ran.out.contains("still in the queue after"), "no worker runs: {}", ran.out);
    assert_eq!(ran.code, Some(1));
    receiver.signal("TERM");
    assert!(receiver.exit().await.success());

    let _both = home.start_ready(&["serve"]).await;
    let ran = run(&home, &["doctor", "--send"]).ended(0);
    assert!(ran.out.contains("in the ledger as ignored"), "{}", ran.out);
    let types = "SELECT DISTINCT event_type, outcome FROM clerk.deliveries";
    assert_eq!(postgres.psql("app", types).await.trim(), "rollbook.doctor|ignored");
    assert_eq!(postgres.psql("app", "SELECT count(*) FROM clerk.users").await.trim(), "0");
}

#[tokio::test]
async fn the_api_and_the_sequencer_are_reported_and_another_program_in_the_place_of_the_api_has_failed() {
    const TOKENS: [&str; 2] = ["0123456789abcdef0123456789abcdef", "token-of-another-application-0123"];
    let api = nobody();
    let home = |listen: &str| {
        Home::new(BINARY).with("ROLLBOOK_API_LISTEN", listen).with("ROLLBOOK_API_TOKENS", TOKENS.join(","))
    };
    let line = |report: &Value, check: &str| {
        assert!(TOKENS.iter().all(|token| !report.to_string().contains(token)), "{report}");
        let found = lines(report, check);
        assert_eq!(found.len(), 1, "{check}: {report}");
        found[0].clone()
    };
    let ours = home(&api);
    let stopped = line(&examine(&ours, 0), "api");
    assert!(stopped.starts_with("\"skipped\"") && stopped.contains(&api), "{stopped}");
    let serving = ours.start_ready(&["serve"]).await;
    let report = examine(&ours, 0);
    let well = line(&report, "api");
    assert!(well.starts_with("\"ok\"") && well.contains(&api) && well.contains("2 tokens are set"), "{well}");
    let sequencer = line(&report, "sequencer");
    assert!(sequencer.starts_with("\"ok\""), "{sequencer}");

    // Something else answers there: the private port of another process.
    let taken = line(&examine(&home(&ours.ops.to_string()), 1), "api");
    assert!(taken.starts_with("\"failed\"") && taken.contains("not Rollbook's API"), "{taken}");
    drop(serving);

    let off = ours.with("ROLLBOOK_CHANGES", "no");
    off.migrate();
    let _serving = off.start_ready(&["serve"]).await;
    let report = examine(&off, 0);
    let off = line(&report, "api");
    assert!(off.starts_with("\"warning\"") && off.contains("409"), "{off}");
    assert_eq!(lines(&report, "sequencer"), [""; 0], "it has nothing to do");
}
