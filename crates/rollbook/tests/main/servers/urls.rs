//! URLs of servers: the parts that commands show, and the encryption of the connection.

use rollbook_testkit::process::{Home, until};
use rollbook_testkit::servers::certificates::Certificates;
use rollbook_testkit::servers::postgres::PostgresServer;
use rollbook_testkit::servers::redis::RedisServer;

use super::{BINARY, nobody, run};

/// Text that no output may contain.
const TOKEN: &str = "ZQXK";

/// Passwords that are not percent-encoded, and move the borders between the parts of a URL.
const RAW: [&str; 13] = [
    "12/ZQXK",
    "12?ZQXK",
    "?ZQXK",
    "/ZQXK",
    "12#ZQXK",
    "12?a=ZQXK",
    "12?a&ZQXK",
    "12/x?ZQXK=1",
    "12?sslrootcert=/ZQXK",
    "12?host=ZQXK",
    "12?application_name=ZQXK",
    "12?dbname=ZQXK",
    "12%ZQXK",
];

#[test]
fn no_command_shows_a_part_of_a_password_that_is_not_percent_encoded_and_each_says_how_to_write_it() {
    let address = nobody();
    let commands: [&[&str]; 7] = [
        &["migrate"],
        &["migrate", "--check"],
        &["doctor"],
        &["explain", "user_1"],
        &["dead-letters", "list"],
        &["work"],
        &["serve"],
    ];
    for (name, scheme) in [("DATABASE_URL", "postgres"), ("ROLLBOOK_QUEUE_URL", "redis")] {
        for password in RAW {
            let url = format!("{scheme}://rb:{password}@{address}/app");
            let home = Home::new(BINARY).with(name, url);
            // Every command refuses wrong settings in the same way, so most cases run one command.
            let some = if password == RAW[1] { &commands[..] } else { &commands[..1] };
            for command in some {
                let ran = run(&home, command).ended(2);
                let said = format!("{}{}", ran.out, ran.err);
                assert!(!said.contains(TOKEN), "{password}, {command:?}: {said}");
                assert!(said.contains("%25") && said.contains(name), "{password}, {command:?}: {said}");
            }
            let shown = run(&home, &["config"]);
            assert!(!format!("{}{}", shown.out, shown.err).contains(TOKEN), "{password}: {}", shown.out);
        }
    }
}

#[test]
fn config_shows_nothing_of_a_url_that_the_adapter_refuses() {
    let home = Home::new(BINARY)
        .with("DATABASE_URL", "postgres://rb:x@ZQXK:none/app")
        .with("ROLLBOOK_QUEUE_URL", "redis://rb:x@ZQXK:none/0");
    for arguments in [&["config"][..], &["config", "--output", "json"]] {
        let ran = run(&home, arguments).ended(0);
        assert!(!ran.out.contains(TOKEN) && ran.out.contains("it can't be used"), "{}", ran.out);
    }
}

#[tokio::test]
async fn log_doctor_and_metrics_say_whether_the_connections_are_encrypted() {
    let certificates = Certificates::new();
    let postgres = PostgresServer::start_with_tls(&certificates).await;
    postgres.create_database("app").await;
    let redis = RedisServer::start().await;
    let ca = certificates.path("ca.crt").display().to_string();
    let verified = format!("{}?sslmode=verify-full&sslrootcert={ca}", postgres.url("app"));
    for (url, words) in [
        (verified, "encrypted (TLS), certificate verified"),
        (format!("{}?ssl=true", postgres.url("app")), "encrypted (TLS), certificate not verified"),
        (format!("{}?sslmode=disable", postgres.url("app")), "not encrypted, loopback only"),
    ] {
        let home =
            Home::new(BINARY).with("ROLLBOOK_QUEUE_URL", redis.url()).with("DATABASE_URL", url.as_str());
        home.migrate();
        let doctor = run(&home, &["doctor", "--output", "json"]);
        let report: serde_json::Value = serde_json::from_str(&doctor.out).expect("JSON");
        let found: Vec<&str> = report["checks"]
            .as_array()
            .expect("checks")
            .iter()
            .filter(|check| check["check"] == "encryption")
            .filter_map(|check| check["found"].as_str())
            .collect();
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(
            found[0].starts_with("queue") && found[0].contains("not encrypted, loopback only"),
            "{found:?}"
        );
        assert!(found[1].starts_with("store") && found[1].ends_with(words), "{found:?}");

        let mut rollbook = home.start_ready(&["work"]).await;
        let line = format!("the connection to the store is {words}");
        until("the log says so", || async { home.log().contains(&line) }).await;
        for part in ["queue", "store"] {
            let name = format!("rollbook_connection_clear_text{{part=\"{part}\"}}");
            assert_eq!(home.metric(&name).await, Some(0.0), "{part}");
        }
        rollbook.signal("TERM");
        assert!(rollbook.exit().await.success());
        assert_eq!(home.log().matches(&line).count(), 1, "once: {}", home.log());
    }
}

#[tokio::test]
async fn serve_does_not_connect_in_clear_text_where_the_url_asks_for_tls_in_any_words() {
    let postgres = PostgresServer::start_with(&[("fsync", "off"), ("log_connections", "on")]).await;
    postgres.create_database("app").await;
    for wish in ["ssl=true", "ssl=1", "tls=true", "sslrequire=true", "requiressl=1", "sslmode=require"] {
        let home = Home::new(BINARY).with("DATABASE_URL", format!("{}?{wish}", postgres.url("app")));
        let ran = run(&home, &["migrate", "--check"]).ended(1);
        assert!(ran.err.contains("no TLS") && ran.err.contains("sslmode=disable"), "{wish}: {}", ran.err);
    }
    assert!(!postgres.log().contains("application_name=rollbook"), "{}", postgres.log());
}

#[tokio::test]
async fn parameters_of_a_copied_url_that_have_no_effect_never_refuse_it_and_are_named_once_everywhere() {
    let postgres = PostgresServer::start_with(&[("fsync", "off")]).await;
    postgres.create_database("app").await;
    let query = "schema=public&connection_limit=1&pool_timeout=10&pgbouncer=maybe&supa=x&zqxk=1";
    let home = Home::new(BINARY).with("DATABASE_URL", format!("{}?{query}", postgres.url("app")));
    home.migrate();
    let others = "that belong to other libraries have no effect here";
    let said =
        [(others, "schema, connection_limit, pool_timeout, supa"), ("write true or false", "pgbouncer")];
    let said = said.into_iter().chain([("counted from 1", "6")]);
    let check = run(&home, &["migrate", "--check"]).ended(0);
    let doctor = run(&home, &["doctor", "--output", "json"]).ended(0);
    let report: serde_json::Value = serde_json::from_str(&doctor.out).expect("JSON");
    let mut rollbook = home.start_ready(&["work"]).await;
    let log = home.log();
    rollbook.signal("TERM");
    assert!(rollbook.exit().await.success());
    for (words, names) in said {
        for log in [&check.err, &log] {
            let lines: Vec<&str> = log.lines().filter(|line| line.contains(words)).collect();
            assert!(lines.len() == 1 && lines[0].contains(names), "{words}: {log}");
        }
        let checks = report["checks"].as_array().expect("checks");
        let found = checks.iter().filter(|check| check["check"] == "url_parameters");
        let found: Vec<&str> = found.filter_map(|check| check["found"].as_str()).collect();
        let rows = found.iter().filter(|found| found.contains(words));
        assert!(rows.clone().count() == 1 && rows.clone().all(|row| row.ends_with(names)), "{found:?}");
        assert!(!doctor.err.contains(words), "{}", doctor.err);
    }
}
