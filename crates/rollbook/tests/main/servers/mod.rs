//! The binary with its queue on Redis and its store on Postgres: its start, its reports about the servers,
//! and its behaviour while they are unreachable.

mod demo;
mod doctor;
mod durability;
mod explain;
mod health;
mod migrations;
mod names;
mod unreachable;
mod urls;

use std::process::{Command, Output, Stdio};
use std::sync::mpsc;

use rollbook_testkit::process::{DEADLINE, Home};
use rollbook_testkit::servers::free_port;

pub(crate) const BINARY: &str = env!("CARGO_BIN_EXE_rollbook");

/// Returns an address at which no process listens.
fn nobody() -> String {
    format!("127.0.0.1:{}", free_port())
}

/// Result of a command: its output and exit code.
pub(crate) struct Ran {
    code: Option<i32>,
    pub(crate) out: String,
    pub(crate) err: String,
}

/// Runs a command to its end, in this home. A command that does not end is killed and fails the test.
pub(crate) fn run(home: &Home, arguments: &[&str]) -> Ran {
    let mut command = home.command(arguments);
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the binary starts");
    let id = child.id().to_string();
    let (sender, ended) = mpsc::channel();
    std::thread::spawn(move || sender.send(child.wait_with_output()));
    let Ok(output) = ended.recv_timeout(DEADLINE) else {
        let killed = Command::new("kill").args(["-s", "KILL", &id]).status();
        panic!("rollbook {arguments:?} does not end; it is killed now: {killed:?}");
    };
    let Output { status, stdout, stderr } = output.expect("it can be waited for");
    let text = |bytes| String::from_utf8(bytes).expect("it prints UTF-8");
    Ran { code: status.code(), out: text(stdout), err: text(stderr) }
}

impl Ran {
    /// Asserts the exit code.
    #[track_caller]
    pub(crate) fn ended(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "{}\n{}", self.out, self.err);
        self
    }
}

/// Posts a signed event to the receiver of this home, and returns the answer's status.
fn send(home: &Home) -> u64 {
    let url = format!("http://{}/webhooks/clerk", home.listen);
    let ran = run(home, &["send", "user.created", "--url", &url, "--output", "json"]);
    let answers: serde_json::Value = serde_json::from_str(&ran.out).unwrap_or_default();
    answers[0]["status"].as_u64().unwrap_or_else(|| panic!("no answer: {}", ran.err))
}

/// Returns the state of a part in `/readyz`, and the status of the answer.
async fn readiness(home: &Home, part: &str) -> Option<(u16, String)> {
    let answer = home.ops_get("/readyz").await?;
    let body: serde_json::Value = serde_json::from_str(&answer.body).expect("JSON");
    Some((answer.status, body["parts"][part].as_str().unwrap_or_default().to_owned()))
}
