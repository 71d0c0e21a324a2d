//! Runs the real binary in a separate folder and environment.

use std::ffi::OsStr;
use std::io::{BufRead as _, BufReader, Read};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

/// Deadline of every wait; only a hang takes this long.
const DEADLINE: Duration = Duration::from_secs(60);

/// A valid signing secret.
pub(crate) const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

/// A folder to run in.
pub(crate) struct Home {
    folder: TempDir,
}

impl Home {
    pub(crate) fn new() -> Self {
        Self { folder: tempfile::tempdir().expect("a folder") }
    }

    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Writes a file.
    pub(crate) fn with(self, name: &str, text: impl AsRef<[u8]>) -> Self {
        std::fs::write(self.path().join(name), text).expect("it is written");
        self
    }

    /// Returns the binary with only these variables in its environment.
    pub(crate) fn command(&self, arguments: &[&str], environment: &[(&str, &str)]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_rollbook"));
        command.args(arguments).current_dir(self.path()).stdin(Stdio::null());
        command.env_clear().envs(environment.iter().copied());
        command
    }

    /// Runs the command to its end. A command that should end but serves on fails its test at the deadline.
    #[track_caller]
    pub(crate) fn run(&self, arguments: &[&str], environment: &[(&str, &str)]) -> Ran {
        let mut command = self.command(arguments, environment);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it starts");
        let out = text_of(child.stdout.take().expect("it is piped"));
        let err = text_of(child.stderr.take().expect("it is piped"));
        let began_at = Instant::now();
        let mut ended = || child.try_wait().expect("it can be waited for");
        let status = loop {
            match ended() {
                None if began_at.elapsed() < DEADLINE => std::thread::sleep(Duration::from_millis(2)),
                status => break status,
            }
        };
        let _ = child.kill();
        let _ = child.wait();
        let [out, err] = [out, err].map(|text| text.join().expect("it prints UTF-8"));
        let what = arguments.join(" ");
        let Some(status) = status else {
            panic!("rollbook {what} with {environment:?} didn't end within {DEADLINE:?}\n{out}\n{err}")
        };
        Ran { code: status.code(), out, err, what }
    }
}

/// Result of a run.
pub(crate) struct Ran {
    pub(crate) code: Option<i32>,
    pub(crate) out: String,
    pub(crate) err: String,
    what: String,
}

impl Ran {
    /// Asserts the exit code.
    #[track_caller]
    pub(crate) fn ended(self, code: i32) -> Self {
        assert!(!self.err.contains("panicked"), "rollbook {} panicked\n{}", self.what, self.err);
        assert_eq!(self.code, Some(code), "rollbook {}\n{}\n{}", self.what, self.out, self.err);
        self
    }

    /// Returns the output as JSON.
    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error} in\n{}", self.out))
    }
}

/// A process that serves.
pub(crate) struct Server {
    child: Child,
    lines: mpsc::Receiver<String>,
    /// `http://IP:PORT/webhooks/clerk`.
    pub(crate) receiver: String,
    /// `IP:PORT` of health and metrics.
    pub(crate) ops: String,
}

impl Server {
    /// Starts `serve` in this folder and waits until it says where it listens.
    pub(crate) fn start(home: &Home) -> Self {
        let arguments =
            ["serve", "--listen", "127.0.0.1:0", "--ops-listen", "127.0.0.1:0", "--log-format", "json"];
        let mut command = home.command(&arguments, &[("CLERK_WEBHOOK_SIGNING_SECRET", SECRET)]);
        let mut child = command.stderr(Stdio::piped()).stdout(Stdio::null()).spawn().expect("it starts");
        let log = BufReader::new(child.stderr.take().expect("it is piped"));
        let (sender, lines) = mpsc::channel();
        std::thread::spawn(move || log.lines().map_while(Result::ok).try_for_each(|line| sender.send(line)));
        let (receiver, ops) = {
            let said = |what: &str| loop {
                let line = lines.recv_timeout(DEADLINE).expect("it says where it listens");
                if let Some((_, place)) = line.split_once(what) {
                    return place.split(['"', ' ']).next().unwrap_or_default().to_owned();
                }
            };
            (said("deliveries: "), said("health and metrics: http://"))
        };
        let ops = ops.trim_end_matches("/metrics").to_owned();
        Self { child, lines, receiver, ops }
    }

    /// Stops the process. Returns its log since the start, and its exit code.
    pub(crate) fn terminate(mut self) -> (Option<i32>, Vec<String>) {
        let pid = self.child.id().to_string();
        let sent = Command::new("kill").args([OsStr::new("-TERM"), OsStr::new(&pid)]).status();
        assert!(sent.expect("kill runs").success());
        let ended = until(|| self.child.try_wait().expect("it can be waited for"));
        (ended.code(), self.lines.iter().collect())
    }
}

impl Drop for Server {
    /// Ends the process if a test fails.
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Reads a pipe to its end, while the process fills it.
fn text_of(mut pipe: impl Read + Send + 'static) -> JoinHandle<String> {
    std::thread::spawn(move || {
        let mut text = String::new();
        pipe.read_to_string(&mut text).expect("it prints UTF-8");
        text
    })
}

/// Repeats the request until there is an answer.
#[track_caller]
pub(crate) fn until<T>(mut ask: impl FnMut() -> Option<T>) -> T {
    let began_at = Instant::now();
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(began_at.elapsed() < DEADLINE, "it does not come about");
        std::thread::sleep(Duration::from_millis(20));
    }
}
