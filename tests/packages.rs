//! Packages of other ecosystems that tests run with: from npm as locked, from `PyPI` as pinned. They are installed once for each
//! list of packages, next to the test's binary, and shared by all tests.

use std::fs::{File, OpenOptions, read_to_string};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};

use rollbook_testkit::process::until;
use tempfile::TempDir;

/// File in a folder of installed packages that says that nothing is missing.
const COMPLETE: &str = "complete";

/// Asserts that a command succeeded.
pub(crate) fn finished(what: &str, output: std::io::Result<Output>) -> Output {
    let output = output.unwrap_or_else(|error| panic!("{what}: {error}; ops/test installs the program"));
    let [out, err] = [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text).into_owned());
    assert!(output.status.success(), "{what}: {}; the test needs the registry\n{out}{err}", output.status);
    output
}

/// Returns the folder of these packages. `install` fills it if no test has done so before.
fn installed(kind: &str, list: &Path, install: impl FnOnce(&Path)) -> PathBuf {
    let mut hash = DefaultHasher::new();
    read_to_string(list).unwrap_or_else(|error| panic!("{}: {error}", list.display())).hash(&mut hash);
    let binary = std::env::current_exe().expect("a path");
    let folder = binary.parent().expect("a folder").join(format!("{kind}-{:016x}", hash.finish()));
    let lock = File::create(folder.with_extension("lock")).expect("a file for the lock");
    lock.lock().expect("the lock");
    if !folder.join(COMPLETE).exists() {
        // A test that was killed may have left a part.
        if folder.exists() {
            std::fs::remove_dir_all(&folder).expect("a folder of ours");
        }
        std::fs::create_dir_all(&folder).expect("a folder");
        install(&folder);
        File::create(folder.join(COMPLETE)).expect("a file");
    }
    folder
}

/// Returns a folder with npm packages, as the lock file in `list` has them. The packages are hard links to shared files: programs
/// read them only.
pub(crate) fn npm(list: &Path) -> TempDir {
    const FILES: [&str; 2] = ["package.json", "package-lock.json"];
    let copy = |to: &Path| {
        for file in FILES {
            std::fs::copy(list.join(file), to.join(file)).expect("a copied file");
        }
    };
    let shared = installed("npm", &list.join(FILES[1]), |folder| {
        copy(folder);
        let mut command = Command::new("npm");
        command.args(["ci", "--ignore-scripts", "--no-audit", "--no-fund", "--prefer-offline"]);
        finished("npm can't install the packages", command.current_dir(folder).output());
    });
    let folder = tempfile::tempdir().expect("a folder");
    copy(folder.path());
    let copied = |how: &str| {
        let mut command = Command::new("cp");
        command.arg(how).arg(shared.join("node_modules")).arg(folder.path());
        command.stderr(Stdio::null()).status().expect("cp").success()
    };
    // The folder may be on another disk.
    let modules = folder.path().join("node_modules");
    if !copied("-al") {
        if modules.exists() {
            std::fs::remove_dir_all(&modules).expect("a folder of ours");
        }
        assert!(copied("-a"), "{} can't be copied", shared.display());
    }
    folder
}

/// Returns a folder in which `venv/bin/python` has the pinned packages of this list.
pub(crate) fn python(list: &Path) -> TempDir {
    let shared = installed("python", list, |folder| {
        let mut command = Command::new("python3");
        command.args(["-m", "venv"]).arg(folder.join("venv"));
        finished("python3 can't make an environment", command.output());
        let mut command = Command::new(folder.join("venv/bin/python"));
        command.args(["-m", "pip", "install", "--quiet", "--no-deps", "--no-compile"]);
        command.args(["--only-binary", ":all:", "--requirement"]).arg(list);
        finished("pip can't install the packages", command.output());
    });
    let folder = tempfile::tempdir().expect("a folder");
    std::os::unix::fs::symlink(shared.join("venv"), folder.path().join("venv")).expect("a link");
    folder
}

/// Starts a Next.js application in a folder with its packages, and waits until it listens.
pub(crate) async fn next_dev(folder: &Path, environment: &[(&str, &str)]) -> (Program, SocketAddr) {
    let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    let address = free.local_addr().expect("an address");
    drop(free);
    let mut command = Command::new(folder.join("node_modules/.bin/next"));
    command
        .args(["dev", "--hostname", "127.0.0.1", "--port", &address.port().to_string()])
        .env("NEXT_TELEMETRY_DISABLED", "1")
        .envs(environment.iter().copied());
    let mut program = Program::start(folder, &format!("next-{}", address.port()), &mut command);
    program.until_it_says("Ready in").await;
    (program, address)
}

/// A program of an application. Dropping it kills it, with all that it has started.
pub(crate) struct Program {
    child: Child,
    log: PathBuf,
}

impl Program {
    /// Starts a command in a folder, with its output in a file there.
    pub(crate) fn start(folder: &Path, name: &str, command: &mut Command) -> Self {
        let log = folder.join(format!("{name}.log"));
        let open = || -> File { OpenOptions::new().create(true).append(true).open(&log).expect("a log") };
        command.current_dir(folder).stdin(Stdio::null()).stdout(open()).stderr(open()).process_group(0);
        let child = command.spawn().unwrap_or_else(|error| panic!("{name}: {error}"));
        Self { child, log }
    }

    pub(crate) fn log(&self) -> String {
        read_to_string(&self.log).unwrap_or_default()
    }

    /// Waits until the program has printed this.
    pub(crate) async fn until_it_says(&mut self, text: &str) {
        until(&format!("the program says {text}"), || {
            let exit = self.child.try_wait().expect("a program of ours");
            assert!(exit.is_none(), "it ended ({exit:?}):\n{}", self.log());
            std::future::ready(self.log().contains(text))
        })
        .await;
    }

    /// Waits until the program ends by itself.
    pub(crate) async fn exit(&mut self) -> ExitStatus {
        let mut status = None;
        until("the program ends", || {
            status = self.child.try_wait().expect("a program of ours");
            std::future::ready(status.is_some())
        })
        .await;
        status.expect("an exit status")
    }

    /// `kill -9` of it and of all that it has started.
    pub(crate) fn kill(&mut self) {
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
