//! A private PostgreSQL.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::certificates::Certificates;
use super::shim::Shim;
use super::{Guard, as_user, children, free_port, give_to, new_folder, run, signal};

/// System user of the server, if the tests run as root.
pub(super) const SYSTEM_USER: &str = "postgres";
/// Superuser of the databases.
pub(super) const USER: &str = "rollbook";
/// Password of the superuser. The text occurs nowhere else.
pub(super) const PASSWORD: &str = "ImTheTestPassword";

/// A PostgreSQL server on a free port of 127.0.0.1, with password authentication. Its default collation is
/// ICU's, which sorts differently from bytes.
#[derive(Debug)]
pub struct PostgresServer {
    guard: Guard,
    binaries: PathBuf,
    port: u16,
}

impl PostgresServer {
    /// Starts a server and waits until it answers.
    pub async fn start() -> Self {
        Self::start_with(&[]).await
    }

    /// Starts a server with these settings, as in `postgresql.conf`.
    pub async fn start_with(settings: &[(&str, &str)]) -> Self {
        Self::start_command(Vec::new(), &[], settings).await
    }

    /// Starts a server with TLS and this certificate. It also accepts clear text: `pg_hba.conf` is unchanged.
    pub async fn start_with_tls(certificates: &Certificates) -> Self {
        let files = ["server.crt", "server.key"].map(|name| certificates.path(name));
        Self::start_command(Vec::new(), &files, &[("ssl", "on"), ("fsync", "off")]).await
    }

    /// Starts a server on the disk and with the clock of this shim.
    pub async fn start_on(shim: &Shim, settings: &[(&str, &str)]) -> Self {
        Self::start_command(shim.command(), &[], settings).await
    }

    /// Starts a server with these files in its data folder, readable only by its user.
    async fn start_command(before: Vec<String>, files: &[PathBuf], settings: &[(&str, &str)]) -> Self {
        let binaries = binaries();
        let folder = new_folder("rollbook-postgres-");
        let data = folder.join("data");
        copy(&template(&binaries), &data);
        for file in files {
            let own = data.join(file.file_name().expect("a file's name"));
            copy(file, &own);
            let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
            std::fs::set_permissions(own, mode).expect("our file");
        }
        give_to(SYSTEM_USER, &folder);
        let port = free_port();
        let port_text = port.to_string();
        let ours =
            [("port", &*port_text), ("listen_addresses", "127.0.0.1"), ("unix_socket_directories", "")];
        let mut command = as_user(SYSTEM_USER);
        command.extend(before);
        command.extend([path(&binaries.join("postgres")), "-D".to_owned(), path(&data)]);
        for (name, value) in ours.iter().chain(settings) {
            command.extend(["-c".to_owned(), format!("{name}={value}")]);
        }
        let server = Self { guard: Guard::start(folder, &command), binaries, port };
        server.until_it_answers().await;
        server
    }

    /// Returns the URL of one of its databases, as superuser, with the password.
    pub fn url(&self, database: &str) -> String {
        format!("postgres://{USER}:{PASSWORD}@127.0.0.1:{}/{database}", self.port)
    }

    /// Returns the environment with which PostgreSQL's programs connect as superuser.
    pub fn environment(&self) -> [(&'static str, String); 4] {
        [
            ("PGHOST", "127.0.0.1".to_owned()),
            ("PGPORT", self.port.to_string()),
            ("PGUSER", USER.to_owned()),
            ("PGPASSWORD", PASSWORD.to_owned()),
        ]
    }

    /// Returns the port on which the server listens.
    pub const fn port(&self) -> u16 {
        self.port
    }

    /// Returns everything that the server has logged.
    pub fn log(&self) -> String {
        self.guard.log()
    }

    /// Creates a database.
    pub async fn create_database(&self, name: &str) {
        self.psql("postgres", &format!("CREATE DATABASE \"{name}\"")).await;
    }

    /// Runs SQL as superuser and returns its output: one line per row, values separated by `|`.
    pub async fn psql(&self, database: &str, sql: &str) -> String {
        let mut command = Command::new(self.binaries.join("psql"));
        command
            .args(["--no-psqlrc", "--quiet", "--no-align", "--tuples-only", "--set=ON_ERROR_STOP=1"])
            .args(["--host=127.0.0.1", &format!("--port={}", self.port), &format!("--username={USER}")])
            .args([&format!("--dbname={database}"), &format!("--command={sql}")])
            .env("PGPASSWORD", PASSWORD);
        tokio::task::spawn_blocking(move || run(&mut command)).await.expect("psql runs")
    }

    /// Crashes the server: `kill -9` of it and of all its processes.
    pub fn kill(&mut self) {
        self.guard.kill();
    }

    /// Starts it again after [`Self::kill`], on the same port, and waits until it answers.
    pub async fn restart(&mut self) {
        self.guard.restart();
        self.until_it_answers().await;
    }

    /// Sends a signal by name. `STOP` and `CONT` go to all its processes.
    pub fn signal(&self, name: &str) {
        assert!(signal(self.guard.id(), name), "the server had ended:\n{}", self.log());
        if matches!(name, "STOP" | "CONT") {
            // A process may have ended in the meantime.
            for id in children(self.guard.id()) {
                signal(id, name);
            }
        }
    }

    async fn until_it_answers(&self) {
        let mut command = Command::new(self.binaries.join("pg_isready"));
        command.args(["--quiet", "--host=127.0.0.1", &format!("--port={}", self.port)]);
        let command = std::cell::RefCell::new(command);
        let answers = || command.borrow_mut().status().expect("pg_isready runs").success();
        self.guard.until_it_answers("Postgres answers", answers).await;
    }
}

fn path(path: &Path) -> String {
    path.to_str().expect("a path in UTF-8").to_owned()
}

/// Returns the folder of PostgreSQL's programs: not all of them are in `PATH`.
fn binaries() -> PathBuf {
    let said = Command::new("pg_config").arg("--bindir").output().ok();
    let said = said.map(|output| PathBuf::from(String::from_utf8_lossy(&output.stdout).trim()));
    let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let mut versions: Vec<PathBuf> = versions.map(|entry| entry.path().join("bin")).collect();
    versions.sort_unstable();
    said.into_iter()
        .chain(versions.into_iter().rev())
        .find(|folder| ["initdb", "postgres", "psql"].iter().all(|name| folder.join(name).exists()))
        .expect("no PostgreSQL server found: ops/test installs one (on Debian: apt-get install postgresql)")
}

/// Returns a fresh cluster to copy, made once per version and build, because `initdb` takes seconds.
fn template(binaries: &Path) -> PathBuf {
    let output = run(Command::new(binaries.join("postgres")).arg("--version"));
    let version = output.split_whitespace().nth(2).expect("postgres (PostgreSQL) VERSION");
    let folder = std::env::current_exe().expect("a path").parent().expect("a folder").to_owned();
    let template = folder.join(format!("postgres-template-{version}"));
    if !template.exists() {
        let new = make_template(binaries, version);
        // The copy is made next to its final place and renamed, so that it appears complete. Another process
        // that was faster has made the same.
        let staging = tempfile::Builder::new().prefix(".postgres-").tempdir_in(&folder).expect("a folder");
        copy(&new.path().join("data"), &staging.path().join("data"));
        let placed = std::fs::rename(staging.path().join("data"), &template);
        assert!(placed.is_ok() || template.exists(), "{}: {placed:?}", template.display());
    }
    template
}

fn make_template(binaries: &Path, version: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    let password = folder.path().join("password");
    std::fs::write(&password, PASSWORD).expect("a written file");
    give_to(SYSTEM_USER, folder.path());
    let mut arguments = as_user(SYSTEM_USER);
    arguments.extend([path(&binaries.join("initdb")), path(&folder.path().join("data"))]);
    arguments.extend([format!("--username={USER}"), format!("--pwfile={}", path(&password))]);
    let more =
        ["--auth=scram-sha-256", "--encoding=UTF8", "--locale=C.UTF-8", "--wal-segsize=1", "--no-sync"];
    arguments.extend(more.map(str::to_owned));
    if version.split('.').next().and_then(|major| major.parse().ok()).is_some_and(|major: u32| major >= 15) {
        arguments.extend(["--locale-provider=icu", "--icu-locale=en"].map(str::to_owned));
    }
    run(Command::new(&arguments[0]).args(&arguments[1..]).current_dir(folder.path()));
    folder
}

/// Copies a folder and its content.
fn copy(from: &Path, to: &Path) {
    run(Command::new("cp").arg("-R").arg(from).arg(to));
}
