//! The commands of `ops/LOCAL.md`, as a developer runs them.

use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;
use std::process::Command;

use tempfile::TempDir;

use crate::blocks::Page;
use crate::crashes::BINARY;
use crate::packages::Program;

const PAGE: Page = Page("ops/LOCAL.md");

/// Waits in the shell until a query of the tables returns this.
fn until(query: &str, result: &str) -> String {
    format!(
        "until [ \"$(sqlite3 \"$ROLLBOOK_DATA_DIR/store.db\" \"{query}\")\" = '{result}' ]; do sleep 0.1; done\n"
    )
}

#[test]
fn every_block_of_the_page_is_run_by_a_test() {
    PAGE.assert_every_block_is_run(&["tests/local.rs"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_commands_of_the_page_about_local_development_do_what_it_says() {
    let folder = TempDir::new().expect("a folder");
    let members =
        "SELECT count(*) FROM current_members WHERE organization_name = 'Kilnworks' AND first_name = 'Ines'";
    let of_ines = "SELECT group_concat(outcome, ' ') FROM (SELECT outcome FROM deliveries
                   WHERE subject_id = 'user_local1' ORDER BY applied_at)";
    let script = [
        // The first process has no API: it would need tokens.
        "set -eu\n".to_owned(),
        PAGE.block("start.sh"),
        PAGE.block("send.sh"),
        until(members, "1"),
        PAGE.block("look.sh"),
        PAGE.block("fixture.sh"),
        until("SELECT count(*) FROM deliveries WHERE subject_id = 'user_local1'", "3"),
        format!("sqlite3 \"$ROLLBOOK_DATA_DIR/store.db\" \"{of_ines}\"\n"),
        "rollbook explain user_local1\nfolder=$ROLLBOOK_DATA_DIR\n".to_owned(),
        "export ROLLBOOK_API_LISTEN=$TRIAL_API_LISTEN\n".to_owned(),
        PAGE.block("api.sh"),
        PAGE.block("token.sh"),
        PAGE.block("ask.sh"),
        PAGE.block("stop.sh"),
        "[ ! -e \"$folder\" ] && echo the end\n".to_owned(),
    ]
    .concat();
    let ports: Vec<TcpListener> =
        (0..3).map(|_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port")).collect();
    let address = |port: &TcpListener| port.local_addr().expect("an address").to_string();
    let [listen, ops, api] = [0, 1, 2].map(|number: usize| address(&ports[number]));
    drop(ports);
    let binaries = Path::new(BINARY).parent().expect("a folder").display();
    let mut command = Command::new("bash");
    command
        .args(["-c", &script])
        .env_clear()
        .env("PATH", format!("{binaries}:/usr/local/bin:/usr/bin:/bin"))
        .env("TMPDIR", folder.path())
        .env("ROLLBOOK_LISTEN", listen)
        .env("ROLLBOOK_OPS_LISTEN", ops)
        .env("TRIAL_API_LISTEN", api);
    let mut shell = Program::start(folder.path(), "shell", &mut command);
    let ended = shell.exit().await;
    let log = shell.log();
    assert!(ended.success(), "{ended}\n{log}");
    for expected in [
        "waitlistEntry.updated\n",
        "user.created 200 {\"status\":\"queued\"}",
        "user_sample|ines.okafor@kilnworks.example|Kilnworks|org:member\n",
        "inserted unchanged deleted\n",
        // The session, the context with its rows, the two answers about permissions, and the inspection.
        "\"user_id\":\"user_sample\"",
        "\"primary_email_address\":\"ines.okafor@kilnworks.example\"",
        "HTTP/1.1 204",
        "x-organization-role: org:member",
        "permission-denied",
        "genuine, valid now, and as the settings demand",
        "the end\n",
    ] {
        assert!(log.contains(expected), "{expected}:\n{log}");
    }
}
