//! Wrong settings end with exit code 2, the setting's name and the fix; secrets are never shown.

use crate::rollbook::{Home, SECRET};

/// Every setting with a value that is wrong by itself.
const WRONG: [(&str, &str); 71] = [
    ("CLERK_WEBHOOK_SIGNING_SECRET", "whsec_ImASecret"),
    ("ROLLBOOK_DATA_DIR", ""),
    ("ROLLBOOK_LISTEN", "8080"),
    ("PORT", "0"),
    ("ROLLBOOK_WEBHOOK_PATH", "webhooks?x"),
    ("ROLLBOOK_OPS_LISTEN", "metrics.example:9464"),
    ("ROLLBOOK_QUEUE_URL", "postgres://me:ImASecret@db"),
    ("REDIS_URL", "http://:ImASecret@queue"),
    ("DATABASE_URL", "rediss://:ImASecret@queue"),
    ("ROLLBOOK_DURABILITY", "maybe"),
    ("ROLLBOOK_QUEUE_SHARDS", "65"),
    ("ROLLBOOK_REDIS_TIMEOUT", "5"),
    ("ROLLBOOK_REDIS_IDLE_POLL", "2m"),
    ("ROLLBOOK_REDIS_FINGERPRINT", "3F:2A"),
    ("ROLLBOOK_REDIS_REPLICAS", "-1"),
    ("ROLLBOOK_REDIS_CA_FILE", ""),
    ("ROLLBOOK_REDIS_KEY_PREFIX", "a{b"),
    ("ROLLBOOK_DATABASE_CONNECTIONS_MAX", "0"),
    ("ROLLBOOK_DATABASE_CONNECT_TIMEOUT", "soon"),
    ("ROLLBOOK_STATEMENT_TIMEOUT", "0s"),
    ("ROLLBOOK_PGBOUNCER", "maybe"),
    ("ROLLBOOK_SCHEMA", "clerk; drop"),
    ("ROLLBOOK_DELETED_ROWS", "forget"),
    ("ROLLBOOK_DELETED_ROWS_KEPT_FOR", "forever"),
    ("ROLLBOOK_LEDGER", "maybe"),
    ("ROLLBOOK_LEDGER_KEPT_FOR", "7"),
    ("CLERK_INSTANCE_ID", " "),
    ("CLERK_SECRET_KEY", "pk_live_ImASecret"),
    ("CLERK_API_URL", "https://me:ImASecret@api.example"),
    ("ROLLBOOK_RECONCILE_EVERY", "59s"),
    ("ROLLBOOK_RECONCILE_CHECK_EVERY", "9s"),
    ("ROLLBOOK_API_BUDGET", "1.1"),
    ("ROLLBOOK_API_LISTEN", "8090"),
    ("ROLLBOOK_FORWARD_BYTES_MAX", "2GiB"),
    ("ROLLBOOK_API_TOKENS", "ImASecret-of-31-characters-long"),
    ("ROLLBOOK_OPS_TOKENS", "ImASecret-of-31-characters-long"),
    ("CLERK_ISSUER", "https://me:ImASecret@clerk.example"),
    ("CLERK_JWT_KEY", "ImASecret"),
    ("CLERK_JWKS_URL", "https://me:ImASecret@clerk.example/jwks"),
    ("CLERK_AUTHORIZED_PARTIES", "app.example"),
    ("ROLLBOOK_CHANGES", "perhaps"),
    ("ROLLBOOK_CHANGES_KEPT_FOR", "a week"),
    ("ROLLBOOK_LOG", "infoo"),
    ("ROLLBOOK_LOG_FORMAT", "yaml"),
    ("ROLLBOOK_TOLERANCE", "300"),
    ("ROLLBOOK_BODY_MAX", "1 megabyte"),
    ("ROLLBOOK_BUFFERED_MAX", "0"),
    ("ROLLBOOK_HEADER_TIMEOUT", "-1s"),
    ("ROLLBOOK_IDLE_TIMEOUT", "75"),
    ("ROLLBOOK_CONNECTION_AGE_MAX", "2d"),
    ("ROLLBOOK_BODY_RATE_MIN", "0"),
    ("ROLLBOOK_BODY_TIMEOUT", "0s"),
    ("ROLLBOOK_REQUEST_TIMEOUT", "20s"),
    ("ROLLBOOK_ENQUEUE_TIMEOUT", "11s"),
    ("ROLLBOOK_CONNECTIONS_MAX", "0"),
    ("ROLLBOOK_IN_FLIGHT_MAX", "many"),
    ("ROLLBOOK_ENQUEUE_BATCH_MAX", "-5"),
    ("ROLLBOOK_QUEUE_DEPTH_MAX", "1e6"),
    ("ROLLBOOK_LANES", "1000"),
    ("ROLLBOOK_LEASE_BATCH_MAX", "0"),
    ("ROLLBOOK_LEASE_BYTES_MAX", "lots"),
    ("ROLLBOOK_ENQUEUE_BYTES_MAX", "lots"),
    ("ROLLBOOK_LEASE_FOR", "1s"),
    ("ROLLBOOK_LEASE_WAIT", "30s"),
    ("ROLLBOOK_LEASE_LINGER", "2s"),
    ("ROLLBOOK_ATTEMPTS_MAX", "0"),
    ("ROLLBOOK_BACKOFF", "1h"),
    ("ROLLBOOK_BACKOFF_MAX", "99 days"),
    ("ROLLBOOK_GATE_BACKOFF", "20s"),
    ("ROLLBOOK_STOP_DELAY", "0"),
    ("ROLLBOOK_DRAIN_TIMEOUT", "soon"),
];

/// Valid settings, so that only the setting under test is wrong.
fn environment<'a>(more: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
    let mut environment = vec![("CLERK_WEBHOOK_SIGNING_SECRET", SECRET)];
    environment.retain(|(name, _)| !more.iter().any(|(other, _)| other == name));
    environment.extend_from_slice(more);
    environment
}

#[test]
fn every_wrong_setting_ends_serve_with_2_and_is_named_and_no_secret_is_shown() {
    for (name, value) in WRONG {
        let home = Home::new();
        let ran = home.run(&["serve"], &environment(&[(name, value)])).ended(2);
        let key = name.trim_start_matches("ROLLBOOK_").to_lowercase();
        assert!(
            ran.err.contains(&key) && ran.err.contains(&format!("environment {name}")),
            "{name}: {}",
            ran.err
        );
        assert!(!ran.err.contains("ImASecret"), "{}", ran.err);
        assert!(!home.path().join("rollbook-data").exists(), "{name} was found too late");
    }
}

#[test]
fn the_list_of_wrong_settings_has_every_setting_that_can_be_wrong_alone() {
    let settings = Home::new().run(&["config", "--output", "json"], &[]).ended(0).json();
    for (key, setting) in settings.as_object().expect("an object") {
        let name = setting["environment"].as_str().expect("a name");
        // Wrong only with another setting.
        if key != "gate_backoff_max" {
            assert!(WRONG.iter().any(|(wrong, _)| *wrong == name), "{name}");
        }
    }
}

#[test]
fn a_wrong_setting_is_reported_with_the_line_of_the_file_or_the_name_of_the_flag() {
    let home = Home::new().with("rollbook.toml", "# mine\nlanes = 2\nlease_for = \"1 fortnight\"\n");
    let ran = home.run(&["serve"], &environment(&[])).ended(2);
    assert!(
        ran.err.contains("lease_for (rollbook.toml:3): \"1 fortnight\" has an unknown unit"),
        "{}",
        ran.err
    );
    let ran = Home::new().run(&["serve", "--lanes", "none"], &environment(&[])).ended(2);
    assert!(ran.err.contains("lanes (flag --lanes): \"none\" is not a whole number"), "{}", ran.err);
    let ran = Home::new().run(&["serve", "--config", "nowhere.toml"], &environment(&[])).ended(2);
    assert!(ran.err.contains("nowhere.toml can't be read"), "{}", ran.err);
}

#[test]
fn unknown_settings_are_refused_and_the_nearest_named() {
    let ran = Home::new().run(&["config"], &[("ROLLBOOK_LISTENN", "x")]).ended(2);
    assert!(
        ran.err.contains("ROLLBOOK_LISTENN") && ran.err.contains("did you mean ROLLBOOK_LISTEN?"),
        "{}",
        ran.err
    );
    let ran = Home::new().with("rollbook.toml", "lesae_for = \"60s\"").run(&["config"], &[]).ended(2);
    assert!(ran.err.contains("did you mean lease_for?"), "{}", ran.err);
    let ran = Home::new().run(&["config", "--lanse", "3"], &[]).ended(2);
    assert!(ran.err.contains("--lanes"), "{}", ran.err);
}

#[test]
fn without_a_secret_serve_and_receive_say_so_and_work_does_not_ask_for_one() {
    for command in ["serve", "receive", "send"] {
        let arguments = if command == "send" { vec![command, "user.created"] } else { vec![command] };
        let ran = Home::new().run(&arguments, &[]).ended(2);
        assert!(ran.err.contains("CLERK_WEBHOOK_SIGNING_SECRET: is not set"), "{}", ran.err);
    }
    let ran = Home::new().run(&["work"], &[]).ended(1);
    assert!(!ran.err.contains("CLERK_WEBHOOK_SIGNING_SECRET"), "{}", ran.err);
}

#[test]
fn flags_come_before_the_environment_before_the_file_before_the_default_and_config_says_which() {
    let home = Home::new().with("mine.toml", "lanes = 3\nlease_for = \"30s\"\nbackoff = \"3s\"\n");
    let arguments = ["config", "--config", "mine.toml", "--lanes", "5", "--output", "json"];
    let shown =
        home.run(&arguments, &[("ROLLBOOK_LANES", "4"), ("ROLLBOOK_LEASE_FOR", "40s")]).ended(0).json();
    let of = |key: &str| {
        (shown[key]["value"].as_str().unwrap_or_default(), shown[key]["from"].as_str().unwrap_or_default())
    };
    assert_eq!(of("lanes"), ("5", "flag --lanes"));
    assert_eq!(of("lease_for"), ("40s", "environment ROLLBOOK_LEASE_FOR"));
    assert_eq!(of("backoff"), ("3s", "mine.toml:3"));
    assert_eq!(of("attempts_max"), ("12", "default"));
}

#[test]
fn a_secret_is_read_from_a_file_and_shown_as_a_count_only() {
    let home = Home::new()
        .with("secret", format!("{SECRET},whsec_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA\n"))
        .with("rollbook.toml", "database_url = \"postgres://u:ImASecret@h/x\"\n");
    for output in ["text", "json"] {
        let environment = [("CLERK_WEBHOOK_SIGNING_SECRET_FILE", "secret"), ("ROLLBOOK_LOG", "trace")];
        let ran = home.run(&["config", "--output", output], &environment).ended(0);
        let shown = format!("{}{}", ran.out, ran.err);
        assert!(shown.contains("set, 2 secrets") && shown.contains("file secret (environment"), "{shown}");
        for secret in [&SECRET[6..], "AAAAAAAA", "ImASecret"] {
            assert!(!shown.contains(secret), "{shown}");
        }
    }
}

#[test]
fn the_sample_is_what_the_repository_has_and_is_a_right_configuration() {
    let sample = Home::new().run(&["config", "--sample"], &[]).ended(0).out;
    assert_eq!(sample, include_str!("../../../../ops/rollbook.toml"), "run the unit tests with UPDATE=1");
    Home::new().with("rollbook.toml", sample).run(&["config"], &[]).ended(0);
}

#[test]
fn wrong_usage_ends_with_2() {
    for arguments in
        [&["frobnicate"][..], &["send"], &["dead-letters"], &["dead-letters", "list", "--reason", "x"]]
    {
        Home::new().run(arguments, &[]).ended(2);
    }
}

/// Every command that reads the settings; the demo reads only flags.
const COMMANDS: [&[&str]; 16] = [
    &["demo"],
    &["serve"],
    &["receive"],
    &["work"],
    &["send", "user.created"],
    &["migrate"],
    &["migrate", "--check"],
    &["dead-letters", "list"],
    &["dead-letters", "show", "msg_1"],
    &["dead-letters", "redrive", "--all"],
    &["dead-letters", "discard", "--all"],
    &["explain", "user_1"],
    &["erase", "user_1", "--yes"],
    &["doctor"],
    &["config"],
    &["healthcheck"],
];

#[test]
fn a_url_in_place_of_a_path_ends_every_command_with_2_before_anything_is_created_and_is_not_quoted() {
    const URL: &str = "postgres://u:ImASecret@h/db";
    const OF_SQLITE: &str = "sqlite://u:ImASecret@h/db";
    for command in COMMANDS {
        for (name, value) in [
            ("--config", URL),
            ("--data-dir", URL),
            ("--redis-ca-file", URL),
            ("ROLLBOOK_DATA_DIR", URL),
            ("ROLLBOOK_REDIS_CA_FILE", "redis://:ImASecret@h"),
            ("DATABASE_URL", OF_SQLITE),
            ("ROLLBOOK_QUEUE_URL", OF_SQLITE),
        ] {
            let is_flag = name.starts_with("--");
            if command == ["demo"] && !is_flag {
                continue;
            }
            let home = Home::new();
            let flag: &[&str] = if is_flag { &[name, value] } else { &[] };
            let variable: &[(&str, &str)] = if is_flag { &[] } else { &[(name, value)] };
            let ran = home.run(&[command, flag].concat(), &environment(variable)).ended(2);
            let shown = format!("{}{}", ran.out, ran.err);
            let key = name.trim_start_matches("ROLLBOOK_").trim_start_matches("--").replace('-', "_");
            assert!(shown.contains(&key.to_lowercase()), "{command:?} {name}: {shown}");
            assert!(!shown.contains("ImASecret"), "{command:?} {name}: {shown}");
            let made: Vec<_> = std::fs::read_dir(home.path()).expect("a folder").collect();
            assert!(made.is_empty(), "{command:?} {name}: {made:?}");
        }
    }
}
