//! Sources, precedence and relations.

mod forwards;
mod paths;
mod redis;

use std::sync::LazyLock;

use super::reader::{Declared, Reader};
use super::relations::Relation;
use super::setting::{Setting, count, plain, secret, settings, url};
use super::settings::Groups;
use super::*;

const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

fn load(
    flags: &[(&str, &str)],
    environment: &[(&str, &str)],
    file: Option<&Path>,
) -> Result<Config, Problems> {
    let setting = |key: &str| *SETTINGS.iter().find(|setting| setting.key == key).expect("a setting");
    let flags: Vec<_> = flags.iter().map(|(key, text)| (setting(key), (*text).to_owned())).collect();
    Config::load(&Sources {
        flags: &flags,
        environment: Environment::of(environment),
        file: file.map_or(FileSource::None, FileSource::Named),
    })
}

fn file(text: &str) -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), text).expect("it is written");
    file
}

fn refusal(result: Result<Config, Problems>) -> String {
    result.err().expect("it is refused").to_string()
}

#[test]
fn with_nothing_set_every_default_holds() {
    let config = load(&[], &[], None).expect("the defaults are right");
    assert_eq!(config.places.queue, Place::Sqlite("./rollbook-data/queue.db".into()));
    assert_eq!(config.places.store, Place::Sqlite("./rollbook-data/store.db".into()));
    assert_eq!(config.settings.listen.to_string(), "127.0.0.1:8080");
    assert_eq!(config.ops_address().to_string(), "127.0.0.1:9464");
    assert_eq!(config.settings.queue_depth_max, 1_000_000);
}

#[test]
fn flags_come_before_the_environment_before_the_file_before_the_default() {
    let file = file("lanes = 2\nlease_for = \"20s\"\nbackoff = \"3s\"\n");
    let environment = [("ROLLBOOK_LANES", "3"), ("ROLLBOOK_LEASE_FOR", "30s")];
    let config = load(&[("lanes", "4")], &environment, Some(file.path())).expect("all is right");
    assert_eq!(config.settings.lanes, 4);
    assert_eq!(config.settings.lease_for, Duration::from_secs(30));
    assert_eq!(config.settings.backoff, Duration::from_secs(3));
    assert_eq!(config.settings.attempts_max, 12);
}

#[test]
fn port_is_listened_on_where_listen_is_not_set_and_the_report_says_so() {
    let listen = |environment: &[(&str, &str)]| {
        load(&[], environment, None).expect("all is right").settings.listen.to_string()
    };
    assert_eq!(listen(&[("PORT", "3000")]), "0.0.0.0:3000");
    assert_eq!(listen(&[("PORT", "65535")]), "0.0.0.0:65535");
    assert_eq!(listen(&[("PORT", "of another program"), ("ROLLBOOK_LISTEN", "127.0.0.1:1")]), "127.0.0.1:1");
    assert_eq!(listen(&[]), "127.0.0.1:8080");
    let report = load(&[], &[("PORT", "3000")], None).expect("all is right").json(&[]);
    assert_eq!(report["listen"]["value"], "0.0.0.0:3000");
    for wrong in ["0", "65536", "http"] {
        let text = refusal(load(&[], &[("PORT", wrong)], None));
        assert!(text.contains("port (environment PORT)"), "{text}");
    }
    let text = refusal(load(&[], &[("PORT", "9464"), ("ROLLBOOK_OPS_LISTEN", "0.0.0.0:9464")], None));
    assert!(text.contains("the same address as listen"), "{text}");
}

#[test]
fn a_secret_may_be_the_content_of_a_file() {
    let secret = file(&format!("  {SECRET}\n"));
    let path = secret.path().to_str().expect("a plain path");
    let config = load(&[], &[("CLERK_WEBHOOK_SIGNING_SECRET_FILE", path)], None).expect("all is right");
    assert_eq!(config.signing_secrets().expect("it is set").len(), 1);
    let toml = file(&format!("clerk_webhook_signing_secret_file = \"{path}\"\n"));
    let config = load(&[], &[], Some(toml.path())).expect("all is right");
    assert_eq!(config.signing_secrets().expect("it is set").len(), 1);
}

#[test]
fn a_secret_that_is_set_directly_and_by_a_file_is_refused() {
    let secret = file(SECRET);
    let path = secret.path().to_str().expect("a plain path");
    let both = [("CLERK_WEBHOOK_SIGNING_SECRET", SECRET), ("CLERK_WEBHOOK_SIGNING_SECRET_FILE", path)];
    let text = refusal(load(&[], &both, None));
    assert!(text.contains("set directly and by a file; keep one"), "{text}");
    assert!(!text.contains("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"), "{text}");
}

#[test]
fn a_missing_or_empty_file_of_a_secret_is_named() {
    let text = refusal(load(&[], &[("CLERK_WEBHOOK_SIGNING_SECRET_FILE", "/nowhere/at/all")], None));
    assert!(text.contains("/nowhere/at/all can't be read"), "{text}");
    let empty = file(" \n");
    let path = empty.path().to_str().expect("a plain path");
    let text = refusal(load(&[], &[("CLERK_WEBHOOK_SIGNING_SECRET_FILE", path)], None));
    assert!(text.contains("is empty"), "{text}");
}

#[test]
fn no_message_and_no_report_holds_a_secret() {
    let text = refusal(load(&[], &[("CLERK_WEBHOOK_SIGNING_SECRET", "whsec_ImASecret!")], None));
    assert!(text.contains("CLERK_WEBHOOK_SIGNING_SECRET") && !text.contains("ImASecret"), "{text}");
    let text = refusal(load(&[], &[("DATABASE_URL", "redis://me:ImASecret@db/x")], None));
    assert!(text.contains("it belongs in queue_url") && !text.contains("ImASecret"), "{text}");
    let environment = [
        ("CLERK_WEBHOOK_SIGNING_SECRET", SECRET),
        ("ROLLBOOK_QUEUE_URL", "redis://:ImASecret@queue:6379/1"),
        ("DATABASE_URL", "postgres://me:ImASecret@db/x?password=ImASecret"),
    ];
    let config = load(&[], &environment, None).expect("all is right");
    let report = format!("{}{}", config.text(&[]), config.json(&[]));
    assert!(report.contains("set, 1 secret") && !report.contains("ImASecret"), "{report}");
    assert!(report.contains("redis://…@queue:6379/1") && report.contains("postgres://…@db/x?…"), "{report}");
    let report = format!("{:?}{:?}", config.places.queue, config.places.store);
    assert!(report.contains("redis://…@queue:6379/1") && !report.contains("ImASecret"), "{report}");
    assert!(!report.contains("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"), "{report}");
}

#[test]
fn a_url_that_can_be_read_in_two_ways_is_refused_wherever_it_comes_from_and_never_shown() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("url");
    let toml = |text: &str| {
        let path = folder.path().join(format!("{}.toml", text.len()));
        std::fs::write(&path, text).expect("it can be written");
        path
    };
    let passwords = [
        "12/ImASecret",
        "12?ImASecret",
        "?ImASecret",
        "12#ImASecret",
        "12/x?ImASecret=1",
        "1?host=ImASecret",
    ];
    for (name, key, scheme) in
        [("DATABASE_URL", "database_url", "postgres"), ("ROLLBOOK_QUEUE_URL", "queue_url", "redis")]
    {
        for password in passwords {
            let url = format!("{scheme}://rb:{password}@127.0.0.1:5432/app");
            std::fs::write(&file, &url).expect("it can be written");
            let path = file.to_str().expect("a plain path");
            let in_file = format!("{name}_FILE");
            for refused in [
                load(&[], &[(name, &url)], None),
                load(&[], &[(&in_file, path)], None),
                load(&[], &[], Some(&toml(&format!("{key} = \"{url}\"\n")))),
                load(&[], &[], Some(&toml(&format!("{key} = \"{url}\n")))),
                // The value in place of its file's name.
                load(&[], &[(&in_file, &url)], None),
                // In another setting.
                load(&[], &[("ROLLBOOK_SCHEMA", &url)], None),
                load(&[], &[("ROLLBOOK_LOG", &url)], None),
            ] {
                let text = refusal(refused);
                assert!(!text.contains("ImASecret"), "{text}");
            }
            let text = refusal(load(&[], &[(name, &url)], None));
            assert!(text.contains("percent-encode") && text.contains(key), "{text}");
        }
    }
    let text = refusal(load(&[], &[("CLERK_WEBHOOK_SIGNING_SECRET_FILE", "whsec_ImASecret")], None));
    assert!(text.contains("looks like a key or a password") && !text.contains("ImASecret"), "{text}");
}

#[test]
fn the_report_shows_nothing_of_a_url_that_can_not_be_used() {
    let config =
        load(&[], &[("DATABASE_URL", "postgres://me:x@ImAHost:none/db")], None).expect("its scheme is right");
    let report = format!("{}{}", config.text(&["database_url"]), config.json(&["database_url"]));
    assert!(!report.contains("ImAHost") && report.contains("can't be used"), "{report}");
}

#[test]
fn a_password_on_the_command_line_is_refused() {
    let text = refusal(load(&[("queue_url", "redis://:ImASecret@h")], &[], None));
    assert!(text.contains("set ROLLBOOK_QUEUE_URL or ROLLBOOK_QUEUE_URL_FILE"), "{text}");
    assert!(!text.contains("ImASecret"), "{text}");
}

#[test]
fn all_problems_are_reported_together() {
    let environment = [("ROLLBOOK_LISTEN", "nowhere"), ("ROLLBOOK_LANES", "0"), ("ROLLBOOK_TOLERANCE", "5")];
    let text = refusal(load(&[], &environment, None));
    for part in ["ROLLBOOK_LISTEN", "ROLLBOOK_LANES", "ROLLBOOK_TOLERANCE"] {
        assert!(text.contains(part), "{part} in {text}");
    }
}

#[test]
fn settings_that_do_not_fit_together_are_refused() {
    for (settings, named) in [
        (vec![("request_timeout", "15s")], "request_timeout"),
        (vec![("enqueue_timeout", "11s")], "enqueue_timeout"),
        (vec![("enqueue_timeout", "9s"), ("request_timeout", "8s")], "enqueue_timeout"),
        (vec![("body_timeout", "13s")], "body_timeout"),
        (vec![("body_max", "65MiB")], "body_max"),
        (vec![("lease_for", "4s")], "lease_for"),
        (vec![("backoff", "11m")], "backoff"),
        (vec![("gate_backoff", "1m")], "gate_backoff"),
        (vec![("lease_wait", "25s")], "lease_wait"),
        (vec![("lease_linger", "1001ms")], "lease_linger"),
        (vec![("ops_listen", "127.0.0.1:8080")], "ops_listen"),
        (vec![("api_listen", "127.0.0.1:8090")], "api_listen"),
        (vec![("queue_url", "sqlite://x.db"), ("database_url", "sqlite://x.db")], "queue_url"),
    ] {
        let text = refusal(load(&settings, &[], None));
        assert!(text.starts_with(&format!("{named} (")), "{named}: {text}");
    }
}

const REDIS: (&str, &str) = ("queue_url", "redis://127.0.0.1");
const POSTGRES: (&str, &str) = ("database_url", "postgres://127.0.0.1/x");

#[test]
fn settings_of_a_server_must_fit_the_others_where_there_is_one_and_are_right_at_their_edge() {
    for (wrong, right) in [
        (vec![("redis_timeout", "8s")], vec![("redis_timeout", "7999ms")]),
        (vec![("redis_ca_file", "ca.pem")], vec![("redis_ca_file", "ca.pem"), ("queue_url", "rediss://h")]),
        (vec![("statement_timeout", "30001ms")], vec![("statement_timeout", "30s")]),
        (vec![("database_connect_timeout", "40s")], vec![("database_connect_timeout", "39999ms")]),
        (vec![("database_connections_max", "3")], vec![("database_connections_max", "4")]),
    ] {
        let named = wrong[0].0;
        let with = |settings: &[(&'static str, &'static str)]| {
            let last_wins: BTreeMap<_, _> =
                [REDIS, POSTGRES].into_iter().chain(settings.iter().copied()).collect();
            load(&last_wins.into_iter().collect::<Vec<_>>(), &[], None)
        };
        let text = refusal(with(&wrong));
        assert!(text.starts_with(&format!("{named} (")) && text.lines().count() == 1, "{named}: {text}");
        assert!(with(&right).is_ok(), "{named}");
        assert!(load(&wrong, &[], None).is_ok(), "{named} means nothing in a file of SQLite");
    }
}

#[test]
fn the_servers_are_named_by_their_urls_and_their_settings_are_read() {
    let settings = [
        REDIS,
        POSTGRES,
        ("queue_shards", "3"),
        ("durability", "strict"),
        ("redis_replicas", "2"),
        ("schema", "mirror"),
        ("pgbouncer", "yes"),
    ];
    let config = load(&settings, &[], None).expect("all is right");
    assert_eq!(config.places.queue.server().map(ServerUrl::as_str), Some(REDIS.1));
    assert_eq!(config.places.store.server().map(ServerUrl::as_str), Some(POSTGRES.1));
    assert_eq!(
        (config.settings.queue_shards, config.is_strict(), config.settings.redis_replicas),
        (3, true, 2)
    );
    assert_eq!((config.settings.schema.as_str(), config.settings.pgbouncer), ("mirror", true));
    let config = load(&[], &[], None).expect("all is right");
    assert_eq!(
        (config.settings.queue_shards, config.is_strict(), config.settings.redis_replicas),
        (1, false, 0)
    );
    assert_eq!((config.settings.schema.as_str(), config.settings.pgbouncer), ("clerk", false));
    assert_eq!(config.settings.redis_timeout, Duration::from_secs(5));
    assert_eq!(config.settings.database_connections_max, 8);
}

#[test]
fn a_server_in_the_other_ones_place_is_refused_with_the_place_where_it_belongs() {
    let text = refusal(load(&[("queue_url", POSTGRES.1), ("database_url", REDIS.1)], &[], None));
    assert!(text.contains("queue_url (flag --queue-url): is the URL of a Postgres"), "{text}");
    assert!(text.contains("database_url (flag --database-url): is the URL of a Redis"), "{text}");
}

#[test]
fn redis_url_is_the_queue_only_where_queue_url_is_not_set() {
    let redis = ("REDIS_URL", "redis://127.0.0.1");
    let config = load(&[], &[redis], None).expect("all is right");
    assert_eq!(config.places.queue.server().map(ServerUrl::as_str), Some("redis://127.0.0.1"));
    let config = load(&[], &[redis, ("ROLLBOOK_QUEUE_URL", "sqlite://q.db")], None).expect("all is right");
    assert_eq!(config.places.queue, Place::Sqlite("q.db".into()));
}

#[test]
fn the_sample_is_current_and_parses_as_it_is_and_with_every_setting_on() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../ops/rollbook.toml");
    let sample = report::sample();
    if Environment::read().is_set("UPDATE") {
        std::fs::write(&path, &sample).expect("the sample is written");
    }
    let found = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(found == sample, "ops/rollbook.toml is not current: run this test with UPDATE=1");
    assert!(load(&[], &[], Some(&path)).is_ok());
    let on: String = sample
        .lines()
        .map(|line| line.strip_prefix('#').filter(|rest| !rest.starts_with(' ')).unwrap_or(line))
        .filter(|line| !line.contains("/run/secrets/") && !line.starts_with("redis_fingerprint"))
        // A forward must have a secret.
        .map(|line| {
            if line == "[forward.name]" {
                "[forward.name]\nsecret = \"whsec_MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=\""
            } else {
                line
            }
        })
        .fold(String::new(), |text, line| text + line + "\n");
    let on = file(&on);
    // Secrets, and the fingerprint instead of an authority, are left out above. An API without a token is refused.
    let tokens = [("ROLLBOOK_API_TOKENS", "0123456789abcdef0123456789abcdef")];
    let config = load(&[], &tokens, Some(on.path())).expect("every example is right");
    assert_eq!(config.settings.clerk_instance_id.as_deref(), Some("ins_…"));
}

settings! {
    /// A group of settings as a capability may declare it.
    Target {
        ("Targets", "Declared by this test alone.") => {
            url: Place = url(Role::Queue), "where to";
            secret: Option<String> = secret(|text| Ok(text.to_owned())).optional("/run/secrets/…"), "signs";
            note: Option<String> = plain().optional("…"), "a remark";
            tries: u8 = count(300).or("3"), "how often";
        }
    }
}

const TARGETS: &Groups = &[("target", Target::declarations)];

/// Reads the targets of a file.
fn targets(text: &str) -> (Values, BTreeMap<String, Target>, String) {
    let mut problems = Vec::new();
    let values = file::parse(Path::new("t.toml"), text, TARGETS, Values::default(), &mut problems);
    let targets = reader::read_group(&values, "target", &mut problems);
    (values, targets, Problems(problems).to_string())
}

#[test]
fn a_group_of_settings_is_read_by_name_with_its_types_its_files_and_its_defaults() {
    let secret = file("hidden\n");
    let path = secret.path().display();
    let text = format!(
        "lanes = 2\n[target.one]\nurl = \"redis://h\"\nsecret_file = \"{path}\"\n\
         [target.two]\nurl = \"sqlite://q.db\"\ntries = 0\nnote = \"x\"\n"
    );
    let (values, targets, problems) = targets(&text);
    assert_eq!(problems, "");
    let one = &targets["one"];
    assert_eq!(one.url.server().map(ServerUrl::as_str), Some("redis://h"));
    assert_eq!((one.secret.as_deref(), one.note.as_deref(), one.tries), (Some("hidden"), None, 3));
    let two = &targets["two"];
    assert_eq!((two.url.file(), two.note.as_deref(), two.tries), (Some(Path::new("q.db")), Some("x"), 0));
    assert_eq!(targets.len(), 2);

    let mut config = load(&[], &[], None).expect("the defaults are right");
    config.values.override_by(values);
    let shown = format!("{}{}", config.text(&[]), config.json(&[]));
    assert!(shown.contains("target.one.secret") && shown.contains("t.toml:4"), "{shown}");
    assert!(!shown.contains("hidden"), "{shown}");
    let files = config.files_read();
    assert!(files.iter().any(|file| file.path == secret.path() && file.is_secret));
}

#[test]
fn everything_that_is_wrong_in_a_group_is_reported_with_its_name_and_line() {
    let (_, targets, problems) = targets(
        "[target.one]\nurl = \"redis://h\"\ntries = 301\n[target.two]\nulr = \"redis://h\"\n\
         [target.three]\nurl = \"redis://h\"\ntries = 256\n[target.\"a.b\"]\nurl = \"redis://h\"\n[other.one]\nurl = 1\n[target.four]\n",
    );
    assert!(targets.is_empty());
    let first = problems.lines().next().expect("a problem");
    assert!(first.starts_with("other (t.toml:11): there is no such setting"), "{problems}");
    for line in [
        "target.one.tries (t.toml:3): \"301\" is too much; at most 300",
        "target.two.ulr (t.toml:5): there is no such setting; did you mean url? (rollbook config lists every setting)",
        "target.two.url: is not set; give it a value",
        "target.four.url: is not set; give it a value",
        "target.three.tries (t.toml:8): \"256\" is more than this machine can count; write a whole number from 0 to 300",
        "target.a.b (t.toml:9): is not a set of settings; write [target.NAME], with a NAME of letters, digits, _ and -",
    ] {
        assert!(problems.lines().any(|found| found == line), "{line}\nin\n{problems}");
    }
}

#[test]
fn redis_url_is_not_read_where_queue_url_is_set() {
    let environment =
        [("REDIS_URL", "unix:///another/programs.sock"), ("ROLLBOOK_QUEUE_URL", "sqlite://q.db")];
    assert!(load(&[], &environment, None).is_ok());
    assert!(refusal(load(&[], &environment[..1], None)).starts_with("redis_url ("));
}
