//! `doctor` on one machine: findings and exit codes.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use serde_json::Value;

use crate::rollbook::{Home, Ran, SECRET, Server, until};

const SIGNED: [(&str, &str); 1] = [("CLERK_WEBHOOK_SIGNING_SECRET", SECRET)];
const OTHER: &str = "whsec_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";

/// Runs `doctor` about a process, with these further arguments.
fn about(home: &Home, server: &Server, arguments: &[&str]) -> Ran {
    let ours = ["doctor", "--ops-listen", &server.ops, "--connections-max", "16"];
    home.run(&[&ours, arguments].concat(), &SIGNED)
}

/// Returns the states of a check's lines.
fn states(report: &Value, check: &str) -> Vec<String> {
    let checks = report["checks"].as_array().expect("a list");
    let ours = checks.iter().filter(|one| one["check"] == check);
    ours.map(|one| one["state"].as_str().expect("a text").to_owned()).collect()
}

/// Returns the finding of a check, and its fix.
fn finding(report: &Value, check: &str) -> (String, String) {
    let checks = report["checks"].as_array().expect("a list");
    let one =
        checks.iter().find(|one| one["check"] == check).unwrap_or_else(|| panic!("no {check}: {report}"));
    let text = |key: &str| one[key].as_str().unwrap_or_default().to_owned();
    (text("found"), text("fix"))
}

/// Replaces each number and the id of the message with `#`: they differ from run to run.
fn masked(text: &str) -> String {
    let mut masked = String::new();
    for line in text.lines() {
        let line = line.split("svix-id").next().unwrap_or_default();
        for c in line.chars() {
            match c {
                '0'..='9' if masked.ends_with('#') => {}
                '0'..='9' => masked.push('#'),
                ',' if masked.ends_with('#') && !line.contains("ok,") => {}
                c => masked.push(c),
            }
        }
        masked.push('\n');
    }
    masked
}

#[test]
fn a_healthy_process_is_reported_and_a_test_event_is_followed_to_the_ledger() {
    let home = Home::new();
    let server = Server::start(&home);
    let sent = about(&home, &server, &["--send", "--url", &server.receiver]).ended(0);
    let line = sent.out.lines().find(|line| line.starts_with("send ")).expect("a line about it").to_owned();
    assert!(line.contains(" ok ") && line.contains("in the ledger as ignored"), "{line}");
    let line = sent.out.lines().find(|line| line.starts_with("deliveries ")).expect("a line about them");
    assert!(line.contains(" ok ") && line.contains("none but the test event"), "it looks behind it: {line}");
    let ran = about(&home, &server, &["--send", "--url", &server.receiver]).ended(0);
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/help/doctor-healthy.txt");
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(&file, masked(&ran.out)).expect("it is written");
    }
    assert_eq!(
        masked(&ran.out),
        std::fs::read_to_string(&file).unwrap_or_default(),
        "UPDATE=1 writes it anew"
    );
    assert_eq!(ran.err, "");
    assert!(!ran.out.contains('\u{1b}'), "colours only on a terminal");

    let store = rusqlite::Connection::open(home.path().join("rollbook-data/store.db")).expect("a store");
    let count = |sql: &str| store.query_row(sql, [], |row| row.get::<_, u64>(0)).expect("a count");
    assert_eq!(count("SELECT count(*) FROM users"), 0, "it leaves no row");
    assert_eq!(count("SELECT count(*) FROM deliveries WHERE event_type = 'rollbook.doctor'"), 2);
    assert_eq!(server.terminate().0, Some(0));
}

#[test]
fn before_the_first_start_nothing_has_failed_and_nothing_is_made() {
    let home = Home::new();
    let report =
        home.run(&["doctor", "--ops-listen", "127.0.0.1:1", "--output", "json"], &SIGNED).ended(0).json();
    assert_eq!(report["healthy"], true);
    for check in ["queue", "store", "process", "clock"] {
        assert_eq!(states(&report, check), ["skipped"], "{report}");
    }
    let clock = finding(&report, "clock").0;
    assert!(clock.ends_with("check that timedatectl says \"System clock synchronized: yes\""), "{report}");
    assert_eq!(std::fs::read_dir(home.path()).expect("a folder").count(), 0, "it reads only");
    let report = home.run(&["doctor", "--face", "work", "--output", "json"], &[]).ended(1).json();
    assert_eq!(
        (states(&report, "queue"), states(&report, "store")),
        (vec!["failed".into()], vec!["failed".into()])
    );
    assert!(finding(&report, "store").1.contains("rollbook migrate"), "{report}");
    home.run(&["migrate"], &[]).ended(0);
    home.run(&["doctor", "--face", "work", "--ops-listen", "127.0.0.1:1"], &[]).ended(0);
}

#[test]
fn a_wrong_configuration_ends_with_2_and_every_fault_is_a_line_with_its_fix() {
    let home = Home::new().with("rollbook.toml", "lanes = 0\nlistn = \"x\"\n");
    let secret = [("CLERK_WEBHOOK_SIGNING_SECRET", "ImASecretThatIsNone")];
    let ran = home.run(&["doctor", "--output", "json"], &secret).ended(2);
    let report = ran.json();
    assert_eq!(states(&report, "configuration"), ["failed"; 3], "{report}");
    assert!(!format!("{}{}", ran.out, ran.err).contains("ImASecret"), "{}{}", ran.out, ran.err);
    let text = home.run(&["doctor"], &secret).ended(2);
    assert!(
        text.out.contains("did you mean listen?") && text.err.lines().count() == 1,
        "{}{}",
        text.out,
        text.err
    );

    let home = Home::new();
    let report = home.run(&["doctor", "--output", "json"], &[]).ended(2).json();
    assert_eq!(states(&report, "signing_secret"), ["failed"], "{report}");
    // Settings that do not fit together keep no other check from running, and a missing secret is named with wrong values.
    let report = home.run(&["doctor", "--output", "json"], &[("ROLLBOOK_LEASE_FOR", "4s")]).ended(2).json();
    assert_eq!(states(&report, "configuration"), ["failed"], "{report}");
    assert_eq!(
        (states(&report, "signing_secret"), states(&report, "store").len()),
        (vec!["failed".into()], 1)
    );
    let wrong = home.run(&["doctor"], &[("ROLLBOOK_LANES", "0")]).ended(2).out;
    assert!(wrong.contains("lanes") && wrong.contains("CLERK_WEBHOOK_SIGNING_SECRET: is not set"), "{wrong}");
    assert_eq!(states(&report, "store"), ["skipped"], "the rest is looked at all the same");
    let url = [("CLERK_WEBHOOK_SIGNING_SECRET", SECRET), ("ROLLBOOK_QUEUE_URL", "redis://:ImASecret@h:none")];
    let ran = home.run(&["doctor"], &url).ended(2);
    assert!(ran.out.contains("ROLLBOOK_QUEUE_URL") && !ran.out.contains("ImASecret"), "{}", ran.out);
}

#[test]
fn the_secret_of_another_endpoint_is_found_by_send_and_neither_is_printed() {
    let home = Home::new();
    let server = Server::start(&home);
    let arguments = ["doctor", "--ops-listen", &server.ops, "--send", "--url", &server.receiver];
    let ran = home.run(&arguments, &[("CLERK_WEBHOOK_SIGNING_SECRET", OTHER)]).ended(1);
    let line = ran.out.lines().find(|line| line.starts_with("send ")).expect("a line about it");
    assert!(line.contains("failed") && line.contains("no signature matches"), "{line}");
    assert!(line.contains("→ ") && line.contains("CLERK_WEBHOOK_SIGNING_SECRET"), "{line}");
    // The process has seen no other delivery: its own secret is probably wrong.
    let report = about(&home, &server, &["--output", "json"]).ended(0).json();
    assert_eq!(states(&report, "deliveries"), ["warning"]);
    assert_eq!(states(&report, "refusals"), ["warning"]);
    let (found, fix) = finding(&report, "refusals");
    assert!(fix.contains("signing secret"), "{report}");
    assert!(found.starts_with("1 refused for signature since 2"), "{report}");
    // The accepted test event does not change this finding.
    let report = about(&home, &server, &["--send", "--url", &server.receiver, "--output", "json"]);
    let report = report.ended(0).json();
    assert_eq!(states(&report, "send"), ["ok"]);
    assert!(finding(&report, "refusals").1.contains("signing secret"), "{report}");
    for secret in [OTHER, SECRET] {
        let key = secret.trim_start_matches("whsec_");
        assert!(!format!("{}{}{report}", ran.out, ran.err).contains(key), "a secret is printed");
    }
}

#[test]
fn a_process_with_other_files_is_detected() {
    let (home, elsewhere) = (Home::new(), Home::new());
    let server = Server::start(&elsewhere);
    home.run(&["migrate"], &[]).ended(0);
    let report =
        about(&home, &server, &["--send", "--url", &server.receiver, "--output", "json"]).ended(1).json();
    let (found, fix) = finding(&report, "send");
    assert!(found.contains("neither the queue nor the ledger"), "{found}");
    assert!(fix.contains("settings of the running process"), "{fix}");
}

#[test]
fn a_process_of_another_installation_with_the_same_secret_and_port_has_failed_and_is_named() {
    let (home, elsewhere) = (Home::new(), Home::new());
    let server = Server::start(&elsewhere);
    // Before the first start: no file exists here, and theirs do.
    for with_files in [false, true] {
        if with_files {
            home.run(&["migrate"], &[]).ended(0);
        }
        let report = about(&home, &server, &["--output", "json"]).ended(1).json();
        assert_eq!(states(&report, "process"), ["failed"], "{report}");
        let (found, fix) = finding(&report, "process");
        for part in ["another installation's rollbook serve", "rollbook-data/queue.db", &server.ops] {
            assert!(found.contains(part), "{part}: {found}");
        }
        assert!(found.contains(&*elsewhere.path().to_string_lossy()), "the place of theirs: {found}");
        assert!(found.contains(&*home.path().to_string_lossy()), "the place of ours: {found}");
        assert!(fix.contains("--ops-listen") && fix.contains("--config"), "{fix}");
        // What it says of its deliveries, secrets and changes is not about this installation.
        assert_eq!(states(&report, "deliveries"), ["skipped"], "{report}");
        for check in ["sequencer", "signing_secrets_in_use", "refusals"] {
            assert_eq!(states(&report, check), [""; 0], "{check}: {report}");
        }
    }
    // The right one, by another path to the same folder.
    let folder = elsewhere.path().join("rollbook-data");
    let folder = folder.to_str().expect("UTF-8");
    let report = about(&home, &server, &["--data-dir", folder, "--output", "json"]).ended(0).json();
    assert!(finding(&report, "process").0.starts_with("rollbook serve "), "{report}");
    let instance = ["--clerk-instance-id", "ins_mine", "--data-dir", folder, "--output", "json"];
    let report = about(&home, &server, &instance).ended(0).json();
    assert_eq!(states(&report, "process"), ["ok"], "theirs accepts every instance: {report}");
}

#[test]
fn files_that_others_may_read_and_dead_letters_are_warned_of_and_fail_nothing() {
    let home = Home::new().with("torn.json", "{");
    let server = Server::start(&home);
    let store = home.path().join("rollbook-data/store.db");
    std::fs::set_permissions(&store, std::fs::Permissions::from_mode(0o644)).expect("it is ours");
    home.run(&["send", "--file", "torn.json", "--url", &server.receiver], &SIGNED).ended(0);
    let report = until(|| {
        let report = about(&home, &server, &["--output", "json"]).ended(0).json();
        (states(&report, "dead_letters") == ["warning"]).then_some(report)
    });
    assert!(finding(&report, "dead_letters").1.contains("rollbook dead-letters list"), "{report}");
    // Files that SQLite adds get the same mode.
    let files = states(&report, "files");
    assert!(!files.is_empty() && files.iter().all(|state| state == "warning"), "{report}");
    let (found, fix) = finding(&report, "files");
    assert!(found.contains("mode 0644") && fix == "chmod 600 ./rollbook-data/store.db", "{found} {fix}");
}

#[test]
fn without_a_ledger_a_test_event_is_followed_until_it_has_left_the_queue() {
    let home = Home::new().with("rollbook.toml", "ledger = \"no\"\n");
    let server = Server::start(&home);
    let report =
        about(&home, &server, &["--send", "--url", &server.receiver, "--output", "json"]).ended(0).json();
    assert!(finding(&report, "send").0.contains("the ledger is not checked"), "{report}");
}
