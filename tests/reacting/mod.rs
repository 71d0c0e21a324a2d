//! The recipes of `ops/REACTING.md`. Each block of code runs as it stands in the page, with the real libraries and servers.

mod jobs;
mod kills;
mod mail;
mod push;
mod reader;
mod readers;
mod stream;

use std::fs::{File, OpenOptions, create_dir_all, read_to_string, write};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};

use rollbook_testkit::process::{Home, until};
use rollbook_testkit::servers::postgres::PostgresServer;
use tempfile::TempDir;

use crate::architecture::root;
use crate::crashes::BINARY;

const DATABASE: &str = "app";

/// Returns a block of the page by the name in the comment above it.
fn block(name: &str) -> String {
    let page = read_to_string(root().join("ops/REACTING.md")).expect("the page");
    let (_, rest) =
        page.split_once(&format!("<!-- {name} -->\n```")).unwrap_or_else(|| panic!("no block {name}"));
    let (_, code) = rest.split_once('\n').expect("a block");
    let (code, _) = code.split_once("\n```\n").expect("the end of the block");
    format!("{code}\n")
}

/// Writes a block of the page into a folder, under its name.
fn write_block(folder: &Path, name: &str) -> PathBuf {
    let path = folder.join(name);
    create_dir_all(path.parent().expect("a folder")).expect("a folder");
    write(&path, block(name)).expect("a written file");
    path
}

fn packages(name: &str) -> PathBuf {
    root().join("tests/reacting/packages").join(name)
}

fn finished(what: &str, output: std::io::Result<Output>) {
    let output = output.unwrap_or_else(|error| panic!("{what}: {error}; ops/test installs the program"));
    let [out, err] = [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text).into_owned());
    assert!(output.status.success(), "{what}: {}; the test needs the registry\n{out}{err}", output.status);
}

/// Returns a folder with the npm packages of this name, as locked.
fn npm(name: &str) -> TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    for file in ["package.json", "package-lock.json"] {
        std::fs::copy(packages(name).join(file), folder.path().join(file)).expect("a copied file");
    }
    let mut command = Command::new("npm");
    command.args(["ci", "--ignore-scripts", "--no-audit", "--no-fund", "--prefer-offline"]);
    finished("npm can't install the packages", command.current_dir(folder.path()).output());
    folder
}

/// Returns a folder with a Python that has the pinned packages.
fn python() -> TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    let mut command = Command::new("python3");
    command.args(["-m", "venv"]).arg(folder.path().join("venv"));
    finished("python3 can't make an environment", command.output());
    let mut command = Command::new(folder.path().join("venv/bin/python"));
    command.args([
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-deps",
        "--no-compile",
        "--only-binary",
        ":all:",
        "--requirement",
    ]);
    finished("pip can't install the packages", command.arg(packages("python.txt")).output());
    folder
}

/// A program of a recipe. Dropping it kills it, with all that it has started.
struct Program {
    child: Child,
    log: PathBuf,
}

impl Program {
    /// Starts a command in a folder, with its output in a file there.
    fn start(folder: &Path, name: &str, command: &mut Command) -> Self {
        let log = folder.join(format!("{name}.log"));
        let open = || -> File { OpenOptions::new().create(true).append(true).open(&log).expect("a log") };
        command.current_dir(folder).stdin(Stdio::null()).stdout(open()).stderr(open()).process_group(0);
        let child = command.spawn().unwrap_or_else(|error| panic!("{name}: {error}"));
        Self { child, log }
    }

    fn log(&self) -> String {
        read_to_string(&self.log).unwrap_or_default()
    }

    /// Waits until the program has printed this.
    async fn until_it_says(&mut self, text: &str) {
        until(&format!("the program says {text}"), || {
            let exit = self.child.try_wait().expect("a program of ours");
            assert!(exit.is_none(), "it ended ({exit:?}):\n{}", self.log());
            std::future::ready(self.log().contains(text))
        })
        .await;
    }

    /// Waits until the program ends by itself.
    async fn exit(&mut self) -> ExitStatus {
        let mut status = None;
        until("the program ends", || {
            status = self.child.try_wait().expect("a program of ours");
            std::future::ready(status.is_some())
        })
        .await;
        status.expect("an exit status")
    }

    /// `kill -9` of it and of all that it has started.
    fn kill(&mut self) {
        let group = format!("-{}", self.child.id());
        // The group may have ended already.
        drop(Command::new("kill").args(["-KILL", "--", &group]).stderr(Stdio::null()).status());
        drop(self.child.wait());
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A mirror on Postgres with the tables of the recipes. Its ports are free when it is made, so that packages are installed before.
struct World {
    postgres: PostgresServer,
    home: Home,
}

impl World {
    async fn new() -> Self {
        let postgres = PostgresServer::start_with(&[("fsync", "off")]).await;
        postgres.create_database(DATABASE).await;
        let home =
            Home::new(BINARY).with("ROLLBOOK_LOG", "warn").with("DATABASE_URL", postgres.url(DATABASE));
        home.migrate();
        let world = Self { postgres, home };
        world.sql(&block("schema.sql")).await;
        world
    }

    fn url(&self) -> String {
        self.postgres.url(DATABASE)
    }

    async fn sql(&self, sql: &str) -> String {
        self.postgres.psql(DATABASE, sql).await.trim_end().to_owned()
    }

    /// Waits until a query returns this.
    async fn until(&self, what: &str, sql: &str, result: &str) {
        until(what, || async { self.sql(sql).await == result }).await;
    }

    /// Waits until everything that was sent is applied and has its position.
    async fn until_applied(&self) {
        until("the queue is empty", || async { self.home.metric("rollbook_queue_depth").await == Some(0.0) })
            .await;
        self.until("every change has its position", "SELECT count(*) FROM clerk.changes_pending", "0").await;
    }
}

#[test]
fn every_block_of_the_page_is_run_by_a_test() {
    let page = read_to_string(root().join("ops/REACTING.md")).expect("the page");
    let named = page.matches("<!-- ").count();
    assert_eq!(named, page.matches("\n```").count() / 2, "a block has no name, or a name has no block");
    let sources: String = crate::architecture::sources(&root().join("tests/reacting"))
        .into_iter()
        .map(|path| read_to_string(path).expect("a source"))
        .collect();
    for name in page.split("<!-- ").skip(1).filter_map(|rest| rest.split_once(" -->")).map(|(name, _)| name) {
        assert!(sources.contains(&format!("\"{name}\"")), "{name}");
    }
}
