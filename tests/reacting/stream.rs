//! Scripts of the shell: the stream with curl, and `rollbook changes tail`, while script and server are killed.

use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;
use std::process::Command;

use rollbook_testkit::process::{Home, until};
use serde_json::Value;

use super::{Program, write_block};
use crate::crashes::{BINARY, SEED, history, send};

const TOKEN: &str = "0123456789abcdef0123456789abcdef";

/// Returns the positions of all changes that the script has handled, in their order.
fn handled(folder: &Path) -> Vec<u64> {
    let text = std::fs::read_to_string(folder.join("changes.jsonl")).unwrap_or_default();
    // The kill may have cut the last line.
    let changes = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    changes.map(|change| change["position"].as_u64().expect("a position")).collect()
}

/// Asserts that every change was handled in order, and repeated at most after a kill. Returns the last position.
fn assert_each_was_handled(folder: &Path) -> u64 {
    let mut last = 0;
    for position in handled(folder) {
        assert!(position == last + 1 || position == last, "{position} after {last}");
        last = position;
    }
    last
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_script_with_curl_that_is_killed_handles_every_change_and_repeats_at_most_the_last() {
    let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    let api = free.local_addr().expect("an address");
    drop(free);
    let home = Home::new(BINARY)
        .with("ROLLBOOK_LOG", "warn")
        // Messages of the killed process are due again only after it.
        .with("ROLLBOOK_LEASE_FOR", "5s")
        .with("ROLLBOOK_API_LISTEN", api.to_string())
        .with("ROLLBOOK_API_TOKENS", TOKEN);
    let folder = tempfile::tempdir().expect("a folder");
    let script = write_block(folder.path(), "follow.sh");
    let start = || {
        let mut command = Command::new("sh");
        command.arg(&script).env("API", format!("http://{api}")).env("TOKEN", TOKEN);
        Program::start(folder.path(), "follow", &mut command)
    };
    let history = history(400);
    let mut serving = home.start_ready(&["serve"]).await;
    let mut follower = start();
    let killing = async {
        let mut random = fastrand::Rng::with_seed(SEED);
        let mut seen = Vec::new();
        for round in 0..5 {
            let before = handled(folder.path()).len();
            until("the script goes on", || std::future::ready(handled(folder.path()).len() > before)).await;
            // At a random time on purpose, in the middle of anything.
            tokio::time::sleep(std::time::Duration::from_millis(random.u64(1..200))).await;
            seen.push(handled(folder.path()).len());
            follower.kill();
            if round == 2 {
                serving.kill();
                serving = home.start_ready(&["serve"]).await;
            }
            follower = start();
        }
        seen
    };
    let (report, seen) = tokio::join!(send(home.listen, &history, 100), killing);
    assert_eq!(report.unanswered.len() + report.refused.len(), 0, "{:?}", report.last_error);
    until("the queue is empty", || async { home.metric("rollbook_queue_depth").await == Some(0.0) }).await;
    let last = home.metric("rollbook_changes_position").await.expect("a position");
    until("the script has everything", || async {
        let position = std::fs::read_to_string(folder.path().join("position")).unwrap_or_default();
        position.trim().parse::<f64>().is_ok_and(|position| position >= last)
    })
    .await;
    let last = assert_each_was_handled(folder.path());
    println!("{last} changes; kills after {seen:?}");
    assert!(last > 200, "{last}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_script_with_curl_ends_with_an_error_if_its_position_is_not_in_the_feed() {
    let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    let api = free.local_addr().expect("an address");
    drop(free);
    let home =
        Home::new(BINARY).with("ROLLBOOK_API_LISTEN", api.to_string()).with("ROLLBOOK_API_TOKENS", TOKEN);
    let _serving = home.start_ready(&["serve"]).await;
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("position"), "99\n").expect("a written file");
    let script = write_block(folder.path(), "follow.sh");
    let mut command = Command::new("sh");
    command.arg(script).env("API", format!("http://{api}")).env("TOKEN", TOKEN);
    let mut follower = Program::start(folder.path(), "follow", &mut command);
    assert_eq!(follower.exit().await.code(), Some(3));
    assert!(follower.log().contains("position-ahead"), "{}", follower.log());
    assert_eq!(std::fs::read_to_string(folder.path().join("position")).expect("the file"), "99\n");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_script_with_changes_tail_that_is_killed_handles_every_change_and_repeats_at_most_the_last() {
    let home = Home::new(BINARY).with("ROLLBOOK_LOG", "warn");
    let folder = tempfile::tempdir().expect("a folder");
    let script = write_block(folder.path(), "tail.sh");
    std::os::unix::fs::symlink(BINARY, folder.path().join("rollbook")).expect("a link");
    let start = || {
        let path = format!("{}:/usr/bin:/bin", folder.path().display());
        let mut command = Command::new("sh");
        // With the settings of the home.
        let settings = home.command(&[]);
        command.arg(&script).env_clear();
        command.envs(settings.get_envs().filter_map(|(name, value)| Some((name, value?)))).env("PATH", path);
        Program::start(folder.path(), "tail", &mut command)
    };
    let history = history(200);
    let _serving = home.start_ready(&["serve"]).await;
    let mut tail = start();
    let killing = async {
        for _ in 0..4 {
            let before = handled(folder.path()).len();
            until("the script goes on", || std::future::ready(handled(folder.path()).len() > before)).await;
            tail.kill();
            tail = start();
        }
    };
    let (report, ()) = tokio::join!(send(home.listen, &history, 60), killing);
    assert_eq!(report.unanswered.len() + report.refused.len(), 0, "{:?}", report.last_error);
    until("the queue is empty", || async { home.metric("rollbook_queue_depth").await == Some(0.0) }).await;
    let listed = home.command(&["changes", "list", "--output", "json"]).output().expect("it runs");
    let listed: Value = serde_json::from_slice(&listed.stdout).expect("JSON");
    let last = listed["last"].as_u64().expect("a position");
    until("the script has everything", || {
        let position = std::fs::read_to_string(folder.path().join("position")).unwrap_or_default();
        std::future::ready(position.trim().parse::<u64>() == Ok(last))
    })
    .await;
    assert_eq!(assert_each_was_handled(folder.path()), last, "{}", tail.log());
}
