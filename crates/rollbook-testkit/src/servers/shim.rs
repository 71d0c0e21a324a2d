//! A disk and a clock that misbehave: a library (`shim.c`) that the dynamic linker loads before the C library, in
//! a private server or in Rollbook itself, and that a test steers while it runs.
//!
//! * [`Shim::delay_syncs`], [`Shim::fail_syncs`], [`Shim::lie`]: flushes that are slow, fail, or do nothing.
//! * [`Shim::leave_room`]: a full disk. Overwriting goes on, growing does not.
//! * [`Shim::shift_clock`]: the wall clock steps. The monotonic clock does not.
//! * [`Shim::cut_power`]: what a power cut leaves of a folder: what its last successful flushes contained.
//!
//! Each fault is counted, so that a test can show that it happened.

use std::fs::{File, OpenOptions, Permissions};
use std::os::unix::fs::{FileExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use super::run;

const SOURCE: &str = include_str!("shim.c");

/// The numbers that the library shares with the test, in the order of `struct controls`.
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

/// What is recorded of each file when it is flushed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Record {
    /// The length: enough for a file that is only appended to, such as Redis's log.
    Length,
    /// All bytes: for files that are written in the middle, such as those of SQLite.
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
    /// Builds the library. It affects the files whose path contains this text.
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
        // Servers run as users of their own, and write here.
        for (name, mode) in [("", 0o777), ("controls", 0o666), ("synced", 0o777)] {
            let path = folder.path().join(name);
            std::fs::set_permissions(path, Permissions::from_mode(mode)).expect("rights");
        }
        let shim = Self { folder, files: files.to_owned(), controls };
        shim.leave_room(None);
        shim
    }

    /// The environment of a process that is to load it.
    pub fn environment(&self) -> [(&'static str, String); 3] {
        [
            ("LD_PRELOAD", self.folder.path().join("shim.so").display().to_string()),
            ("SHIM_FOLDER", self.folder.path().display().to_string()),
            ("SHIM_FILES", self.files.clone()),
        ]
    }

    /// The same as words before a command line.
    pub(super) fn command(&self) -> Vec<String> {
        let variables = self.environment().map(|(name, value)| format!("{name}={value}"));
        ["env".to_owned()].into_iter().chain(variables).collect()
    }

    /// Each flush takes this much longer.
    pub fn delay_syncs(&self, delay: Duration) {
        self.set(Control::SyncDelayMs, i64::try_from(delay.as_millis()).expect("short"));
    }

    /// The next flushes, so many, fail with `EIO`.
    pub fn fail_syncs(&self, count: i64) {
        self.set(Control::SyncFailures, count);
    }

    /// Files may grow by so many bytes in all; `None` for as many as they like.
    pub fn leave_room(&self, bytes: Option<u32>) {
        self.set(Control::Room, bytes.map_or(-1, i64::from));
    }

    /// The wall clock is ahead by so many seconds.
    pub fn shift_clock(&self, seconds: i64) {
        self.set(Control::ClockMs, seconds * 1000);
    }

    /// Flushes report success and do nothing from now on.
    pub fn lie(&self) {
        self.set(Control::Lies, 1);
    }

    /// From now on each flush leaves what a power cut would leave.
    pub fn record(&self, what: Record) {
        self.set(Control::Record, if what == Record::Length { 1 } else { 2 });
    }

    /// Flushes that were done.
    pub fn syncs(&self) -> i64 {
        self.get(Control::Syncs)
    }

    /// Flushes that failed on purpose.
    pub fn failed_syncs(&self) -> i64 {
        self.get(Control::FailedSyncs)
    }

    /// Writes that found no room.
    pub fn refused_writes(&self) -> i64 {
        self.get(Control::Refused)
    }

    /// How much of a file was flushed, where lengths are recorded.
    pub fn flushed_length(&self, name: &str) -> u64 {
        let length = std::fs::read_to_string(self.synced(name));
        length.ok().and_then(|length| length.parse().ok()).unwrap_or(0)
    }

    /// Leaves in a folder what a power cut would: of each file that this affects what was flushed of it. The
    /// processes that wrote there must have been killed. Returns how many bytes are gone from the ends.
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
                    _ = std::fs::copy(self.synced(&name), &path).expect("what was flushed");
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
        self.controls.write_all_at(&value.to_ne_bytes(), control as u64 * 8).expect("it is written");
    }

    fn get(&self, control: Control) -> i64 {
        let mut bytes = [0; 8];
        self.controls.read_exact_at(&mut bytes, control as u64 * 8).expect("it is read");
        i64::from_ne_bytes(bytes)
    }
}
