//! Commands: their effects, output and exit codes.

use std::process::Stdio;

use serde_json::Value;

use crate::rollbook::{Home, SECRET, Server, until};

const SIGNED: [(&str, &str); 1] = [("CLERK_WEBHOOK_SIGNING_SECRET", SECRET)];

#[test]
fn migrate_check_ends_with_1_until_migrate_has_run() {
    let home = Home::new();
    let ran = home.run(&["migrate", "--check"], &[]).ended(1);
    assert!(ran.out.contains("0001_queue") && ran.err.contains("rollbook migrate"), "{}{}", ran.out, ran.err);
    assert!(!home.path().join("rollbook-data").exists(), "a check makes nothing");
    let applied = home.run(&["migrate", "--output", "json"], &[]).ended(0).json();
    assert_eq!(applied[0]["applied"][0], "0001_queue");
    home.run(&["migrate", "--check"], &[]).ended(0);
}

#[test]
fn one_face_alone_refuses_a_database_that_lacks_a_migration() {
    let home = Home::new();
    std::fs::create_dir(home.path().join("rollbook-data")).expect("a folder");
    let free = ["receive", "--listen", "127.0.0.1:0", "--ops-listen", "127.0.0.1:0"];
    let ran = home.run(&free, &SIGNED).ended(1);
    assert!(ran.err.contains("rollbook migrate"), "{}", ran.err);
}

#[test]
fn dead_letters_of_no_queue_are_an_error_and_make_no_queue() {
    let home = Home::new();
    let ran = home.run(&["dead-letters", "list"], &[]).ended(1);
    assert!(ran.err.contains("there is no queue in ./rollbook-data/queue.db"), "{}", ran.err);
    assert!(!home.path().join("rollbook-data").exists());
}

#[test]
fn nothing_is_redriven_or_discarded_without_saying_what() {
    let home = Home::new();
    home.run(&["migrate"], &[]).ended(0);
    for (verb, none) in [("redrive", "0 sent back to the queue\n"), ("discard", "0 discarded\n")] {
        let ran = home.run(&["dead-letters", verb], &[]).ended(2);
        assert!(ran.err.contains("--all"), "{}", ran.err);
        home.run(&["dead-letters", verb, "--all", "--since", "2h"], &[]).ended(2);
        assert_eq!(home.run(&["dead-letters", verb, "--all"], &[]).ended(0).out, none);
    }
}

#[test]
fn send_lists_its_types_without_a_receiver_and_each_can_be_sent() {
    let listed = Home::new().run(&["send", "--list"], &[]).ended(0);
    let types: Vec<&str> = listed.out.lines().collect();
    assert!(types.contains(&"user.created") && types.contains(&"sms.created"), "{}", listed.out);
    let json = Home::new().run(&["send", "--list", "--output", "json"], &[]).ended(0).json();
    assert_eq!(json, serde_json::json!(types));
    for event_type in types {
        assert!(rollbook_simulator::samples::sample(event_type).is_some(), "{event_type}");
    }
    Home::new().run(&["send", "--list", "user.created"], &SIGNED).ended(2);
}

#[test]
fn send_names_the_nearest_type_and_fails_where_nobody_listens() {
    let ran = Home::new().run(&["send", "user.craeted"], &SIGNED).ended(2);
    assert!(ran.err.contains("did you mean user.created?"), "{}", ran.err);
    // No process listens at port 1.
    let ran = Home::new().run(&["send", "user.created", "--url", "http://127.0.0.1:1"], &SIGNED).ended(1);
    assert!(ran.err.contains("is rollbook serve running?"), "{}", ran.err);
    let ran = Home::new().run(&["send", "user.created", "--url", "https://127.0.0.1"], &SIGNED).ended(2);
    assert!(ran.err.contains("is not http://"), "{}", ran.err);
    Home::new().run(&["healthcheck", "--ops-listen", "127.0.0.1:1"], &[]).ended(1);
}

#[test]
fn a_delivery_is_sent_parked_listed_shown_redriven_and_discarded_while_a_server_runs() {
    let home = Home::new().with("torn.json", "{\"type\": \"user.updated\u{1b}[31m");
    let server = Server::start(&home);
    let send = |arguments: &[&str]| {
        let arguments = [&["send", "--url", &server.receiver], arguments].concat();
        home.run(&arguments, &SIGNED)
    };
    let ran = send(&["user.created", "--count", "3"]).ended(0);
    assert_eq!(ran.out.matches("user.created 200 {\"status\":\"queued\"}").count(), 3, "{}", ran.out);
    home.run(&["healthcheck", "--ops-listen", &server.ops], &[]).ended(0);
    let ready =
        home.run(&["healthcheck", "--probe", "readyz", "--ops-listen", &server.ops], &[]).ended(0).json();
    assert_eq!(ready["parts"]["queue"], "ok");

    let answers = send(&["--file", "torn.json", "--output", "json"]).ended(0).json();
    let id = answers[0]["id"].as_str().expect("an id");
    let parked = || {
        let list = home.run(&["dead-letters", "list", "--output", "json"], &[]).ended(0).json();
        list.as_array().expect("a list").first().cloned()
    };
    let letter: Value = until(parked);
    assert_eq!((letter["id"].as_str(), letter["reason"].as_str()), (Some(id), Some("invalid_json")));
    let list =
        home.run(&["dead-letters", "list", "--reason", "invalid_json", "--since", "1h"], &[]).ended(0).out;
    assert!(list.starts_with("1 dead letter\n") && list.contains(id), "{list}");
    assert!(list.contains("invalid_json") && list.contains("not valid JSON"), "the detail: {list}");
    let sums = home.run(&["dead-letters", "summary", "--output", "json"], &[]).ended(0).json();
    assert_eq!((&sums["total"], &sums["groups"][0]["reason"]), (&1.into(), &"invalid_json".into()), "{sums}");
    assert!(
        home.run(&["dead-letters", "list", "--since", "2999-01-01T00:00:00Z"], &[])
            .ended(0)
            .out
            .contains("no dead")
    );

    let shown = home.run(&["dead-letters", "show", id], &[]).ended(0).out;
    assert!(shown.contains("invalid_json") && !shown.contains("user.updated"), "{shown}");
    let shown = home.run(&["dead-letters", "show", id, "--body"], &[]).ended(0).out;
    assert!(shown.contains("user.updated\\u{1b}[31m") && !shown.contains('\u{1b}'), "{shown}");
    home.run(&["dead-letters", "show", "msg_none"], &[]).ended(3);

    assert_eq!(
        home.run(&["dead-letters", "redrive", id, "--dry-run"], &[]).ended(0).out,
        "1 would be redriven\n"
    );
    assert_eq!(
        home.run(&["dead-letters", "redrive", id, "--rate", "10"], &[]).ended(0).out,
        "1 sent back to the queue; rollbook explain ID shows its outcome\n"
    );
    let again = until(parked);
    assert_eq!((again["id"].as_str(), again["attempts"].as_u64()), (Some(id), Some(1)));
    assert_eq!(home.run(&["dead-letters", "discard", "--type", "none"], &[]).ended(0).out, "0 discarded\n");
    assert_eq!(home.run(&["dead-letters", "discard", "--all"], &[]).ended(0).out, "1 discarded\n");
    assert_eq!(parked(), None);
    let shown = home.run(&["explain", id], &[]).ended(0).out;
    assert!(shown.contains("discarded by an operator") && shown.contains("Reason: invalid_json"), "{shown}");

    let (code, log) = server.terminate();
    assert_eq!(code, Some(0), "{log:#?}");
    assert!(
        log.iter().any(|line| line.contains("SIGTERM: stopping; a second signal ends the process at once")),
        "{log:#?}"
    );
    assert!(!log.iter().any(|line| line.contains("user.updated")), "a body is never logged: {log:#?}");
}

#[test]
fn dead_letters_are_followed_as_they_come_newest_last() {
    let home = Home::new().with("torn.json", "no JSON");
    let server = Server::start(&home);
    let send = || {
        let ran = home
            .run(&["send", "--file", "torn.json", "--url", &server.receiver, "--output", "json"], &SIGNED);
        ran.ended(0).json()[0]["id"].as_str().expect("an id").to_owned()
    };
    let first = send();
    let parked = || home.run(&["dead-letters", "list", "--output", "json"], &[]).ended(0).json();
    until(|| (parked() != Value::Array(Vec::new())).then_some(()));
    let follow = ["dead-letters", "list", "--follow", "--output", "json"];
    let mut child = home.command(&follow, &[]).stdout(Stdio::piped()).spawn().expect("it starts");
    let lines = std::io::BufReader::new(child.stdout.take().expect("it is piped"));
    let mut lines = std::io::BufRead::lines(lines).map(|line| {
        let letter: Value = serde_json::from_str(&line.expect("a line")).expect("JSON");
        letter["id"].as_str().expect("an id").to_owned()
    });
    assert_eq!(lines.next(), Some(first.clone()), "those that exist come first");
    let second = send();
    assert_eq!(lines.next(), Some(second.clone()));
    child.kill().expect("it is ours");
    child.wait().expect("it ends");
    let listed = parked();
    let ids: Vec<&str> =
        listed.as_array().expect("a list").iter().filter_map(|one| one["id"].as_str()).collect();
    assert_eq!(ids, [second.as_str(), first.as_str()], "a list has the newest first");
    assert_eq!(server.terminate().0, Some(0));
}

#[test]
fn a_refused_delivery_is_reported_and_ends_send_with_1() {
    let home = Home::new();
    let server = Server::start(&home);
    let other = [("CLERK_WEBHOOK_SIGNING_SECRET", "whsec_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA")];
    let ran = home.run(&["send", "user.created", "--url", &server.receiver], &other).ended(1);
    assert!(ran.out.contains("400 {\"error\":\"no signature matches\"}"), "{}", ran.out);
    assert!(ran.err.contains("has another signing secret than this command"), "{}", ran.err);
    assert_eq!(server.terminate().0, Some(0));
}

#[test]
fn a_port_that_is_taken_ends_serve_with_1_and_is_named() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let address = taken.local_addr().expect("it is bound").to_string();
    let ran =
        Home::new().run(&["serve", "--listen", &address, "--ops-listen", "127.0.0.1:0"], &SIGNED).ended(1);
    assert!(ran.err.contains(&format!("can't listen on {address} (setting listen)")), "{}", ran.err);
}

#[test]
fn the_demo_ends_with_right_rows_and_leaves_nothing_behind() {
    let home = Home::new();
    let temporary = home.path().to_str().expect("a plain path");
    let arguments = ["demo", "--deliveries", "400", "--seed", "7", "--output", "json"];
    let report = home
        .run(&arguments, &[("TMPDIR", temporary), ("DATABASE_URL", "postgres://elsewhere")])
        .ended(0)
        .json();
    assert_eq!(report["passed"], true);
    assert_eq!(report["rows"], report["rows_equal"]);
    assert_eq!(report["acknowledged"], report["deliveries"]);
    assert!(report["deliveries"].as_u64() >= Some(400), "{report}");
    assert_eq!(std::fs::read_dir(home.path()).expect("it is there").count(), 0);
}

#[test]
fn the_demo_fills_no_databases_that_are_there_already() {
    let home = Home::new();
    home.run(&["migrate", "--data-dir", "mine"], &[]).ended(0);
    let ran = home.run(&["demo", "--data-dir", "mine"], &[]).ended(2);
    assert!(ran.err.contains("mine holds databases already"), "{}", ran.err);
    home.run(&["demo", "--queue-url", "sqlite://mine/queue.db"], &[]).ended(2);
}

#[test]
fn a_reader_that_closes_the_pipe_is_not_a_failure() {
    let home = Home::new();
    let mut child = home
        .command(&["completions", "bash"], &[])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it starts");
    drop(child.stdout.take());
    let output = child.wait_with_output().expect("it ends");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
}
