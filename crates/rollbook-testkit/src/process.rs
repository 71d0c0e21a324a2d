//! The real binary as a separate process: started, watched, killed and restarted.

#![expect(clippy::missing_panics_doc, reason = "for tests: any failure is a panic")]

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rollbook_http::client::{Answer, Connection};

/// Signing secret that tests use.
pub const SECRET: &str = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD";

/// Maximum time for anything that must happen, on a busy machine.
pub const DEADLINE: Duration = Duration::from_secs(60);

/// Waits until `condition` holds, at most [`DEADLINE`]. Then it panics and says what did not happen.
pub async fn until<F: Future<Output = bool>>(what: &str, condition: impl FnMut() -> F) {
    until_or(what, condition, String::new).await;
}

/// Waits as [`until`] does. If it panics, it also says what `state` returns.
pub async fn until_or<F: Future<Output = bool>>(
    what: &str,
    mut condition: impl FnMut() -> F,
    state: impl Fn() -> String,
) {
    let started = Instant::now();
    while !condition().await {
        assert!(started.elapsed() < DEADLINE, "{what}: not within {DEADLINE:?}\n{}", state());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Folder, ports and settings of a process, kept from one start to the next.
#[derive(Debug)]
pub struct Home {
    binary: PathBuf,
    folder: tempfile::TempDir,
    settings: Vec<(String, String)>,
    unset: Vec<String>,
    /// Public address.
    pub listen: SocketAddr,
    /// Private (ops) address.
    pub ops: SocketAddr,
}

impl Home {
    /// Creates a home for this binary with a new folder and two free ports.
    pub fn new(binary: impl Into<PathBuf>) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        // Both ports are held until both are known, so that they differ.
        let ports: Vec<TcpListener> =
            (0..2).map(|_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port")).collect();
        let address = |port: &TcpListener| port.local_addr().expect("an address");
        let (listen, ops) = (address(&ports[0]), address(&ports[1]));
        Self { binary: binary.into(), folder, settings: Vec::new(), unset: Vec::new(), listen, ops }
    }

    /// Sets this environment variable at every start.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl Into<String>) -> Self {
        self.settings.push((name.to_owned(), value.into()));
        self
    }

    /// Leaves out this environment variable at every start.
    #[must_use]
    pub fn without(mut self, name: &str) -> Self {
        self.unset.push(name.to_owned());
        self
    }

    /// Returns the path of a file in the home's folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Writes the configuration file `rollbook.toml`, which the processes read at their start.
    ///
    /// # Panics
    /// Panics if the file can't be written.
    pub fn configure(&self, text: &str) {
        std::fs::write(self.folder.path().join("rollbook.toml"), text).expect("the file is written");
    }

    /// Returns the data folder.
    pub fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    /// Returns everything that the processes have logged.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    /// Returns a command with the home's settings. It inherits nothing from the environment except `PATH`.
    pub fn command(&self, arguments: &[&str]) -> Command {
        self.command_of(&self.binary, arguments)
    }

    fn command_of(&self, binary: &Path, arguments: &[&str]) -> Command {
        let mut command = Command::new(binary);
        command
            .args(arguments)
            .current_dir(self.folder.path())
            .env_clear()
            .env("PATH", "/usr/bin:/bin")
            .env("CLERK_WEBHOOK_SIGNING_SECRET", SECRET)
            .env("ROLLBOOK_DATA_DIR", self.data())
            .env("ROLLBOOK_LISTEN", self.listen.to_string())
            .env("ROLLBOOK_OPS_LISTEN", self.ops.to_string())
            .envs(self.settings.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null());
        for name in &self.unset {
            command.env_remove(name);
        }
        command
    }

    /// Starts a long-running process, such as `serve`. Its output goes to the log.
    pub fn start(&self, arguments: &[&str]) -> Process {
        self.start_as(&self.binary, arguments)
    }

    fn start_as(&self, binary: &Path, arguments: &[&str]) -> Process {
        let open = || {
            let path = self.folder.path().join("log");
            std::fs::OpenOptions::new().create(true).append(true).open(path).expect("a log")
        };
        let child = self
            .command_of(binary, arguments)
            .stdout(open())
            .stderr(open())
            .spawn()
            .expect("the binary starts");
        Process { child }
    }

    /// Creates the files that `receive` and `work` require.
    pub fn migrate(&self) {
        let done = self.command(&["migrate"]).output().expect("the binary starts");
        assert!(done.status.success(), "{done:?}");
    }

    /// Starts a process and waits until it is ready.
    pub async fn start_ready(&self, arguments: &[&str]) -> Process {
        self.start_ready_as(&self.binary, arguments).await
    }

    /// Starts a process of another binary with this home's settings, and waits until it is ready.
    pub async fn start_ready_as(&self, binary: &Path, arguments: &[&str]) -> Process {
        let mut process = self.start_as(binary, arguments);
        until("the process is ready", || {
            let exit = process.child.try_wait().expect("a process of ours");
            assert!(exit.is_none(), "the process ended before it was ready ({exit:?}):\n{}", self.log());
            async { self.ops_get("/readyz").await.is_some_and(|answer| answer.status == 200) }
        })
        .await;
        process
    }

    /// Returns the answer of the ops port, or `None` if there is no answer.
    pub async fn ops_get(&self, path: &str) -> Option<Answer> {
        let mut connection = Connection::connect(self.ops, Duration::from_secs(5)).await.ok()?;
        connection.get(path).await.ok()
    }

    /// Returns the sum of a metric over all its labels, or `None` if there is no answer or no such metric.
    pub async fn metric(&self, name: &str) -> Option<f64> {
        self.metric_with(name, "").await
    }

    /// Returns the sum of a metric over the samples with labels that contain `labels`.
    pub async fn metric_with(&self, name: &str, labels: &str) -> Option<f64> {
        let text = self.ops_get("/metrics").await?.body;
        let samples = text.lines().filter_map(|line| {
            let (series, value) = line.rsplit_once(' ')?;
            let rest = series.strip_prefix(name)?;
            let matches = (rest.is_empty() || rest.starts_with('{')) && rest.contains(labels);
            matches.then(|| value.parse::<f64>().ok()).flatten()
        });
        samples.reduce(|sum, value| sum + value)
    }
}

/// A process. Dropping it kills it.
#[derive(Debug)]
pub struct Process {
    child: Child,
}

impl Process {
    /// Kills the process with `kill -9` and waits for its end.
    pub fn kill(&mut self) {
        self.child.kill().expect("a process of ours");
        let status = self.child.wait().expect("a process of ours");
        assert_eq!(status.signal(), Some(9), "the process had ended before the kill: {status}");
    }

    /// Returns the number of the process.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal by name, such as `TERM`.
    pub fn signal(&self, name: &str) {
        let id = self.child.id().to_string();
        let sent = Command::new("kill").args(["-s", name, &id]).status().expect("the kill command");
        assert!(sent.success(), "no signal {name} for {id}");
    }

    /// Waits until the process exits by itself.
    pub async fn exit(&mut self) -> ExitStatus {
        let mut status = None;
        until("the process ends", || {
            status = self.child.try_wait().expect("a process of ours");
            std::future::ready(status.is_some())
        })
        .await;
        status.expect("an exit status")
    }

    /// Returns the peak of resident memory, in bytes.
    pub fn memory_peak(&self) -> u64 {
        self.memory("VmHWM:")
    }

    /// Returns the anonymous resident memory, in bytes. It excludes the pages of the program itself, of which
    /// an unoptimized build has many.
    pub fn memory_asked_for(&self) -> u64 {
        self.memory("RssAnon:")
    }

    fn memory(&self, field: &str) -> u64 {
        memory(self.child.id(), field).expect("a living process on Linux")
    }
}

/// Returns the peak of resident memory of a process, in bytes. `None` if it has ended.
pub fn memory_peak(id: u32) -> Option<u64> {
    memory(id, "VmHWM:")
}

fn memory(id: u32, field: &str) -> Option<u64> {
    let status = std::fs::read_to_string(Path::new("/proc").join(id.to_string()).join("status")).ok()?;
    let value = status.lines().find_map(|line| line.strip_prefix(field))?;
    Some(value.trim().trim_end_matches(" kB").parse::<u64>().ok()? * 1024)
}

impl Drop for Process {
    fn drop(&mut self) {
        // The process may have exited already; both errors are ignored.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
