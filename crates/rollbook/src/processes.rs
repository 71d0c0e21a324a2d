//! Processes that use the same SQLite files: each has a marker next to the file of its queue or store.
//!
//! Constraints:
//!
//! * Several processes may use the same files (decision 0314). A marker refuses nothing: it lets a process and `doctor` say
//!   who the others are.
//! * A marker is locked as long as its process lives. The kernel removes the lock however the process ends, so that the
//!   marker of a killed process never counts. The next process or `doctor` removes it.
//! * No error here prevents a start, such as one of a file system without locks.

use std::fmt;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use rollbook_core::time::Clock;
use serde::{Deserialize, Serialize};

use crate::config::Config;
use crate::faces::Faces;
use crate::file_modes::folder_of;

/// Part of a marker's name, after the name of the file.
const MARKER: &str = ".process-";
/// Maximum length of a marker that is read, in bytes.
const LENGTH_MAX: u64 = 4096;
/// Maximum number of markers that are read.
const MARKERS_MAX: usize = 1_000;
/// Number of times that a marker is written. Whoever finds it before it is locked removes it.
const TRIES: usize = 5;

/// A process that uses the files.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Process {
    command: Command,
    pid: u32,
    ops: String,
    since: String,
}

/// Command of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Command {
    Serve,
    Receive,
    Work,
}

impl Command {
    const fn of(faces: Faces) -> Self {
        match (faces.receiver, faces.worker) {
            (true, true) => Self::Serve,
            (true, false) => Self::Receive,
            (false, _) => Self::Work,
        }
    }

    const fn faces(self) -> Faces {
        Faces { receiver: !matches!(self, Self::Work), worker: !matches!(self, Self::Receive) }
    }
}

impl fmt::Display for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { command, pid, ops, since } = self;
        write!(f, "rollbook {} (process {pid}, ops port {ops}, since {since})", command.faces().command())
    }
}

impl Process {
    /// Returns this process.
    pub(crate) fn this(faces: Faces, ops: impl fmt::Display, clock: &dyn Clock) -> Self {
        Self {
            command: Command::of(faces),
            pid: std::process::id(),
            ops: ops.to_string(),
            since: clock.now().to_string(),
        }
    }

    /// Returns whether the process has one of these faces.
    pub(crate) const fn shares(&self, faces: Faces) -> bool {
        let own = self.command.faces();
        (own.receiver && faces.receiver) || (own.worker && faces.worker)
    }

    /// Returns the faces of the process.
    pub(crate) const fn faces(&self) -> Faces {
        self.command.faces()
    }

    /// Returns the number of the process.
    pub(crate) const fn pid(&self) -> u32 {
        self.pid
    }
}

/// Marker of this process. Dropping it removes it.
#[derive(Debug)]
pub(crate) struct Marker {
    path: PathBuf,
    _locked: File,
}

impl Drop for Marker {
    fn drop(&mut self) {
        // A marker that stays is not locked any more, and counts for nothing.
        drop(std::fs::remove_file(&self.path));
    }
}

/// Logs the other processes that use the same files, and returns the marker of this one.
pub(crate) fn announce(config: &Config, faces: Faces, process: &Process) -> Option<Marker> {
    let file = shared_file(config, faces)?;
    let (same, different): (Vec<_>, Vec<_>) = others(file).into_iter().partition(|other| other.shares(faces));
    for other in different {
        tracing::info!("the files of {} are also used by {other}", folder_of(file).display());
    }
    for other in same {
        tracing::warn!(
            fix = format!("if it is still running since an earlier start: kill {}", other.pid()),
            "the files of {} are also used by {other}, which receives or works too: this is right only while one \
             process replaces the other",
            folder_of(file).display()
        );
    }
    place(file, process)
        .inspect_err(|error| tracing::debug!("no marker next to {}: {error}", file.display()))
        .ok()
}

/// Returns the file of which all processes of an installation that have these faces know: of the queue, else of the store.
pub(crate) fn shared_file(config: &Config, faces: Faces) -> Option<&Path> {
    faces.parts().iter().find_map(|part| part.place(config).file())
}

/// Returns the living processes that use this file, and removes markers of others.
pub(crate) fn others(file: &Path) -> Vec<Process> {
    let Some(prefix) = prefix(file) else { return Vec::new() };
    let entries = std::fs::read_dir(folder_of(file)).into_iter().flatten().flatten();
    let markers =
        entries.filter(|entry| entry.file_name().to_str().is_some_and(|name| name.starts_with(&prefix)));
    let mut found: Vec<Process> =
        markers.take(MARKERS_MAX).filter_map(|entry| living(&entry.path())).collect();
    found.sort_by(|one, other| (&one.since, one.pid).cmp(&(&other.since, other.pid)));
    found
}

/// Returns the process of a marker. Removes the marker if its process has ended.
fn living(path: &Path) -> Option<Process> {
    let marker = File::open(path).ok()?;
    match marker.try_lock_shared() {
        Err(TryLockError::WouldBlock) => {}
        Ok(()) => {
            drop(std::fs::remove_file(path));
            return None;
        }
        Err(TryLockError::Error(_)) => return None,
    }
    // One that is written at this moment is not complete.
    serde_json::from_reader(io::Read::take(marker, LENGTH_MAX)).ok()
}

/// Writes a locked marker next to a file.
fn place(file: &Path, process: &Process) -> io::Result<Marker> {
    let prefix = prefix(file).ok_or(io::ErrorKind::InvalidFilename)?;
    for _ in 0..TRIES {
        let random: String = std::iter::repeat_with(fastrand::alphanumeric).take(8).collect();
        let path = folder_of(file).join(format!("{prefix}{}-{random}", process.pid));
        let mut marker = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
        marker.try_lock()?;
        let is_there = std::fs::metadata(&path).is_ok_and(|found| {
            marker.metadata().is_ok_and(|own| (own.dev(), own.ino()) == (found.dev(), found.ino()))
        });
        if is_there {
            marker.write_all(&serde_json::to_vec(process)?)?;
            return Ok(Marker { path, _locked: marker });
        }
    }
    Err(io::ErrorKind::NotFound.into())
}

fn prefix(file: &Path) -> Option<String> {
    Some(format!("{}{MARKER}", file.file_name()?.to_str()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::SystemClock;

    const WORK: Faces = Faces { receiver: false, worker: true };
    const RECEIVE: Faces = Faces { receiver: true, worker: false };

    fn files(folder: &Path) -> usize {
        std::fs::read_dir(folder).expect("a folder").count()
    }

    #[test]
    fn a_marker_counts_while_its_process_lives_and_is_removed_after_it() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("queue.db");
        let process = Process::this(Faces::ALL, "127.0.0.1:9464", &SystemClock);
        let marker = place(&file, &process).expect("a marker");
        assert_eq!(others(&file), [process]);
        assert_eq!(others(&folder.path().join("other.db")), [], "another file has markers of its own");
        let path = marker.path.clone();
        drop(marker);
        assert_eq!((others(&file), files(folder.path())), (Vec::new(), 0));
        // A killed process leaves its marker without a lock.
        std::fs::write(&path, "{}").expect("a file");
        assert_eq!((others(&file), files(folder.path())), (Vec::new(), 0));
    }

    #[test]
    fn a_marker_that_can_not_be_read_names_nobody() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("queue.db");
        let torn = folder.path().join("queue.db.process-1-torn");
        std::fs::write(&torn, "{\"command\":\"ser").expect("a file");
        let locked = File::open(&torn).expect("it opens");
        locked.lock().expect("a lock");
        assert_eq!((others(&file), files(folder.path())), (Vec::new(), 1));
    }

    #[test]
    fn processes_share_a_face_unless_one_receives_and_the_other_works() {
        for (one, other, shares) in [
            (Faces::ALL, Faces::ALL, true),
            (Faces::ALL, WORK, true),
            (RECEIVE, Faces::ALL, true),
            (WORK, WORK, true),
            (RECEIVE, WORK, false),
        ] {
            let [first, second] = [one, other].map(|faces| Process::this(faces, "127.0.0.1:1", &SystemClock));
            assert_eq!((first.shares(other), second.shares(one)), (shares, shares), "{first} {second}");
        }
    }
}
