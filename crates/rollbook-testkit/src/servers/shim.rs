//! Faults of disk and clock: a library (`shim.c`) that the dynamic linker loads before the C library, in a
//! private server or in Rollbook itself. A test controls it while it runs.
//!
//! * [`Shim::delay_syncs`], [`Shim::fail_syncs`], [`Shim::lie`]: flushes that are slow, fail, or do nothing.
//! * [`Shim::leave_room`]: a full disk. Overwriting still works, growing does not.
//! * [`Shim::shift_clock`]: the wall clock jumps. The monotonic clock does not.
//! * [`Shim::cut_power`]: leaves in a folder what a power failure would leave: the content of the last
//!   successful flushes.
//!
//! Each fault is counted, so that a test can show that it happened.

use std::fs::{File, OpenOptions, Permissions};
use std::os::unix::fs::{FileExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use super::run;

const SOURCE: &str = include_str!("shim.c");

/// Numbers that the library shares with the test, in the order of `struct controls`.
#[derive(Clone, Copy, Debug)]
enum Control {
    SyncDelayMs,
    SyncFailures,
    Room,
    ClockMs,
    Lies,
    Record,
    Syncs,
    FailedSyncs,
    Refused,
}

const CONTROLS: u64 = 9;

/// Data recorded of each file when it is flushed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Record {
    /// Length: enough for a file that is only appended to, such as Redis's log.
    Length,
    /// All bytes: for files that are overwritten, such as those of SQLite.
    Bytes,
}

/// The library and its controls. Processes that loaded it must have ended before it is dropped.
#[derive(Debug)]
pub struct Shim {
    folder: tempfile::TempDir,
    files: String,
    controls: File,
}

impl Shim {
    /// Builds the library. It affects the files with a path that contains `files`.
    pub fn new(files: &str) -> Self {
        let anyone = Permissions::from_mode(0o755);
        let folder = tempfile::Builder::new().prefix("rollbook-shim-").permissions(anyone).tempdir();
        let folder = folder.expect("a folder");
        let source = folder.path().join("shim.c");
        std::fs::write(&source, SOURCE).expect("a file");
        let library = folder.path().join("shim.so");
        // ops/test installs the compiler.
        run(Command::new("cc")
            .args(["-shared", "-fPIC", "-O1", "-o"])
            .arg(&library)
            .arg(&source)
            .arg("-ldl"));
        let path = folder.path().join("controls");
        let controls = OpenOptions::new().read(true).write(true).create_new(true).open(&path);
        let controls = controls.expect("a file");
        controls.set_len(CONTROLS * 8).expect("zeros");
        std::fs::create_dir(folder.path().join("synced")).expect("a folder");
        // Servers run as users of their own and write here.
        for (name, mode) in [("", 0o777), ("controls", 0o666), ("synced", 0o777)] {
            let path = folder.path().join(name);
            std::fs::set_permissions(path, Permissions::from_mode(mode)).expect("rights");
        }
        let shim = Self { folder, files: files.to_owned(), controls };
        shim.leave_room(None);
        shim
    }

    /// Returns the environment of a process that must load the library.
    pub fn environment(&self) -> [(&'static str, String); 3] {
        [
            ("LD_PRELOAD", self.folder.path().join("shim.so").display().to_string()),
            ("SHIM_FOLDER", self.folder.path().display().to_string()),
            ("SHIM_FILES", self.files.clone()),
        ]
    }

    /// Returns the environment as words before a command line.
    pub(super) fn command(&self) -> Vec<String> {
        let variables = self.environment().map(|(name, value)| format!("{name}={value}"));
        ["env".to_owned()].into_iter().chain(variables).collect()
    }

    /// Delays each flush by this time.
    pub fn delay_syncs(&self, delay: Duration) {
        self.set(Control::SyncDelayMs, i64::try_from(delay.as_millis()).expect("short"));
    }

    /// Lets the next `count` flushes fail with `EIO`.
    pub fn fail_syncs(&self, count: i64) {
        self.set(Control::SyncFailures, count);
    }

    /// Limits the total growth of files, in bytes; `None` removes the limit.
    pub fn leave_room(&self, bytes: Option<u32>) {
        self.set(Control::Room, bytes.map_or(-1, i64::from));
    }

    /// Sets how far the wall clock is ahead, in seconds.
    pub fn shift_clock(&self, seconds: i64) {
        self.set(Control::ClockMs, seconds * 1000);
    }

    /// From now on flushes report success and do nothing.
    pub fn lie(&self) {
        self.set(Control::Lies, 1);
    }

    /// From now on each flush records what a power failure would leave.
    pub fn record(&self, what: Record) {
        self.set(Control::Record, if what == Record::Length { 1 } else { 2 });
    }

    /// Returns the number of successful flushes.
    pub fn syncs(&self) -> i64 {
        self.get(Control::Syncs)
    }

    /// Returns the number of flushes that the shim made fail.
    pub fn failed_syncs(&self) -> i64 {
        self.get(Control::FailedSyncs)
    }

    /// Returns the number of writes refused for lack of room.
    pub fn refused_writes(&self) -> i64 {
        self.get(Control::Refused)
    }

    /// Returns the flushed length of a file, if lengths are recorded.
    pub fn flushed_length(&self, name: &str) -> u64 {
        let length = std::fs::read_to_string(self.synced(name));
        length.ok().and_then(|length| length.parse().ok()).unwrap_or(0)
    }

    /// Leaves in a folder what a power failure would leave: the flushed part of each affected file. The
    /// processes that wrote there must have been killed. Returns the number of bytes lost at the ends of the
    /// files.
    pub fn cut_power(&self, folder: &Path, what: Record) -> u64 {
        let mut gone = 0;
        for entry in std::fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry")) {
            let path = entry.path();
            let name = entry.file_name().to_str().expect("a plain name").to_owned();
            if !path.is_file() || !path.to_str().is_some_and(|path| path.contains(&self.files)) {
                continue;
            }
            let before = entry.metadata().expect("a file").len();
            match what {
                Record::Length => {
                    let file = OpenOptions::new().write(true).open(&path).expect("a file");
                    file.set_len(before.min(self.flushed_length(&name))).expect("a shorter file");
                }
                Record::Bytes if self.synced(&name).exists() => {
                    _ = std::fs::copy(self.synced(&name), &path).expect("the flushed bytes");
                }
                Record::Bytes => std::fs::remove_file(&path).expect("a file that was never flushed"),
            }
            let left = path.metadata().map_or(0, |status| status.len());
            gone += before.saturating_sub(left);
        }
        gone
    }

    fn synced(&self, name: &str) -> PathBuf {
        self.folder.path().join("synced").join(name)
    }

    fn set(&self, control: Control, value: i64) {
        self.controls.write_all_at(&value.to_ne_bytes(), control as u64 * 8).expect("a written control");
    }

    fn get(&self, control: Control) -> i64 {
        let mut bytes = [0; 8];
        self.controls.read_exact_at(&mut bytes, control as u64 * 8).expect("a readable control");
        i64::from_ne_bytes(bytes)
    }
}
