//! Place of an open file: does its path still lead to it?
//!
//! A file that was removed, or replaced by another one, still takes commits through an open handle, and they are gone when
//! the process ends. Nothing may be acknowledged or applied there.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use rusqlite::Connection;

use crate::fault::Fault;

/// Path of an open file, and the file that it led to when it was opened.
pub(crate) struct Place {
    path: PathBuf,
    file: (u64, u64),
}

impl Place {
    /// Returns the place of a connection; `None` if it has no file.
    pub(crate) fn of(connection: &Connection) -> Option<Self> {
        let path = PathBuf::from(connection.path().filter(|path| !path.is_empty())?);
        let file = number(&path)?;
        Some(Self { path, file })
    }

    /// Fails if the path leads to no file or to another one.
    pub(crate) fn check(&self) -> Result<(), Fault> {
        match number(&self.path) {
            Some(found) if found == self.file => Ok(()),
            found => Err(Fault::Deployment(format!(
                "{} was {} while this process has it open, so nothing more is written to it. Fix: put the file back, or begin \
                 with an empty one, then restart the process; until then /proc/{}/fd still has the old one",
                self.path.display(),
                if found.is_some() { "replaced by another file" } else { "removed" },
                std::process::id()
            ))),
        }
    }
}

/// Returns the device and the number of a file.
fn number(path: &Path) -> Option<(u64, u64)> {
    std::fs::metadata(path).ok().map(|found| (found.dev(), found.ino()))
}
