//! Real servers for tests, each on its own port and in its own folder. They end with the test.
//!
//! A server is the child of a small shell that waits for the end of its standard input. That end comes when
//! the server's value is dropped, and when the test process ends for any reason. The shell then kills the
//! server and its processes with `kill -9` and removes the folder. So nothing survives a killed test, and a
//! server may be stored in a static.

#![expect(clippy::missing_panics_doc, reason = "for tests: any failure is a panic")]

pub mod caddy;
pub mod certificates;
pub mod nginx;
pub mod pgbouncer;
pub mod postgres;
pub mod prometheus;
pub mod proxy;
pub mod redis;
pub mod sentinel;
pub mod shim;

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Output, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::process::{DEADLINE, until};

/// Range below the ephemeral ports of the kernel (from 32768 on Linux): while a killed server is down, none
/// of its own clients can get its port.
const PORTS: std::ops::Range<u16> = 20_000..32_000;

/// Returns a free port that this process has not returned before.
pub fn free_port() -> u16 {
    static GIVEN: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());
    loop {
        let port = fastrand::u16(PORTS);
        let is_new = GIVEN.lock().unwrap_or_else(PoisonError::into_inner).insert(port);
        if is_new && TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return port;
        }
    }
}

/// Creates a folder. The caller passes it to a [`Guard`], which removes it.
pub(crate) fn new_folder(prefix: &str) -> PathBuf {
    tempfile::Builder::new().prefix(prefix).tempdir().expect("a folder").keep()
}

/// Runs a program to its end and returns its output. Panics with its error output if it fails.
pub(crate) fn run(command: &mut Command) -> String {
    let program = command.get_program().display().to_string();
    let Output { status, stdout, stderr } = command
        .output()
        .unwrap_or_else(|error| panic!("{program} can't be run ({error}): ops/test installs it"));
    let [out, err] = [stdout, stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    assert!(status.success(), "{program}: {status}\n{err}{out}");
    out
}

/// Returns the words before a command that run it as this user, because servers refuse to run as root.
pub(crate) fn as_user(user: &str) -> Vec<String> {
    if !is_root() {
        return Vec::new();
    }
    let ids = [format!("--reuid={user}"), format!("--regid={user}")];
    ["setpriv".to_owned()]
        .into_iter()
        .chain(ids)
        .chain(["--clear-groups".to_owned(), "--".to_owned()])
        .collect()
}

/// Gives a folder and its content to the user of [`as_user`], if the tests run as root.
pub(crate) fn give_to(user: &str, folder: &Path) {
    if is_root() {
        run(Command::new("chown").arg("-R").arg(format!("{user}:{user}")).arg(folder));
    }
}

fn is_root() -> bool {
    std::fs::metadata("/proc/self").expect("Linux").uid() == 0
}

/// Script of the shell. Its arguments are the folder and the server's command line.
const SHELL: &str = r#"
folder=$1; shift; server=
children() {
    for stat in /proc/[0-9]*/stat; do
        read -r line <"$stat" || continue
        id=${line%% *}; line=${line##*) }
        set -- $line
        [ "$2" != "$server" ] || echo "$id"
    done 2>/dev/null
}
end() {
    [ -n "$server" ] || return 0
    # A process that is stopped never learns that its parent is gone.
    left=$(children)
    kill -KILL "$server"; wait "$server"; server=
    [ -z "$left" ] || kill -KILL $left 2>/dev/null
    # A killed PostgreSQL leaves a segment of shared memory, of which the machine has 4,096. Line 7 of its file: key and id.
    set -- $(sed -n 7p "$folder/data/postmaster.pid" 2>/dev/null)
    [ -z "${2:-}" ] || ipcrm -m "$2" 2>/dev/null
}
trap : HUP INT TERM
while read -r word; do
    case $word in
        start) "$@" >>"$folder/log" 2>&1 & server=$!; echo "$server" ;;
        kill) end; echo gone ;;
    esac
done
end
tries=0
until rm -rf "$folder" || [ "$tries" = 100 ]; do tries=$((tries + 1)); sleep 0.05; done
"#;

/// A server process that can be started and killed repeatedly in one folder. Dropping it ends the process and
/// removes the folder.
#[derive(Debug)]
pub(crate) struct Guard {
    shell: Child,
    to_shell: Option<ChildStdin>,
    from_shell: BufReader<ChildStdout>,
    server: Option<u32>,
    folder: PathBuf,
}

impl Guard {
    /// Starts the command. Its output goes to the file `log` in the folder.
    pub(crate) fn start(folder: PathBuf, command: &[String]) -> Self {
        let mut shell = Command::new("sh")
            .args(["-c", SHELL, "server"])
            .arg(&folder)
            .args(command)
            .current_dir(&folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("a shell");
        let to_shell = shell.stdin.take();
        let from_shell = BufReader::new(shell.stdout.take().expect("a piped output"));
        let mut guard = Self { shell, to_shell, from_shell, server: None, folder };
        guard.restart();
        guard
    }

    /// Starts the same command again.
    pub(crate) fn restart(&mut self) {
        assert_eq!(self.server, None, "the server is already running");
        self.server = Some(self.ask("start").parse().expect("a process id"));
    }

    /// Kills the server and its processes with `kill -9` and waits until all have ended.
    pub(crate) fn kill(&mut self) {
        assert!(self.is_running(), "the server ended before the kill:\n{}", self.log());
        let left = children(self.id());
        assert_eq!(self.ask("kill"), "gone");
        self.server = None;
        let started = Instant::now();
        while left.iter().any(|id| parent(*id).is_some()) {
            assert!(started.elapsed() < DEADLINE, "processes do not end: {left:?}");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Waits until the process has exited by itself.
    pub(crate) async fn ended(&mut self) {
        until("the server ends by itself", || std::future::ready(!self.is_running())).await;
        assert_eq!(self.ask("kill"), "gone");
        self.server = None;
    }

    /// Returns the server's process id. Panics if it was killed.
    pub(crate) fn id(&self) -> u32 {
        self.server.expect("a running server")
    }

    /// Returns whether the process is running.
    pub(crate) fn is_running(&self) -> bool {
        self.server.is_some_and(|id| parent(id).is_some())
    }

    /// Waits until `answers` returns true. Panics with the log if the process ends before.
    pub(crate) async fn until_it_answers(&self, what: &str, answers: impl Fn() -> bool) {
        until(what, || {
            assert!(self.is_running(), "{what}: the server ended:\n{}", self.log());
            std::future::ready(answers())
        })
        .await;
    }

    /// Returns everything that the server has printed.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.folder.join("log")).unwrap_or_default()
    }

    /// Returns the folder of the server.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Removes a file or folder of the server, which must not be running.
    pub(crate) fn remove(&self, name: &str) {
        assert_eq!(self.server, None, "the server is running");
        run(Command::new("rm").arg("-r").arg(self.folder.join(name)));
    }

    fn ask(&mut self, word: &str) -> String {
        writeln!(self.to_shell.as_ref().expect("an input that is open until the drop"), "{word}")
            .expect("the shell listens");
        let mut line = String::new();
        self.from_shell.read_line(&mut line).expect("the shell answers");
        line.trim_end().to_owned()
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        drop(self.to_shell.take());
        drop(self.shell.wait());
    }
}

/// Sends a signal by name, such as `TERM`. Returns whether the process existed.
pub(crate) fn signal(id: u32, name: &str) -> bool {
    let mut kill = Command::new("kill");
    kill.args(["-s", name, &id.to_string()])
        .stderr(Stdio::null())
        .status()
        .expect("the kill command")
        .success()
}

/// Returns the parent of a running process.
fn parent(id: u32) -> Option<u32> {
    let stat = std::fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
    // The name in parentheses may contain anything; state and parent come after the last parenthesis.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    let state = fields.next()?;
    if state == "Z" || state == "X" { None } else { fields.next()?.parse().ok() }
}

/// Returns the running children of a process.
pub(crate) fn children(id: u32) -> Vec<u32> {
    let processes = std::fs::read_dir("/proc").expect("Linux").flatten();
    let ids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    ids.filter(|child| parent(*child) == Some(id)).collect()
}
