//! Reading of files that hold settings, at the start and again while the process runs.
//!
//! Constraints:
//!
//! * Every reading is bounded in bytes. An error text has nothing of the content.
//! * A file that is read again is a regular file: what a process has opened once as a pipe keeps the text from then, and
//!   anything else, such as a folder or a device, is an error. It is not opened.
//! * Every reading is bounded in time: a file system that does not answer, or a pipe that nobody writes to, ends no reload and
//!   holds up no start for ever. No second thread waits for the same file.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, ErrorKind, Read as _};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError, mpsc};
use std::thread;
use std::time::Duration;

/// Maximum size of a file that holds one value, in bytes. Sixteen secrets take less.
const VALUE_MAX: u64 = 64 * 1024;
/// Maximum size of the configuration file, in bytes.
pub(super) const CONFIGURATION_MAX: u64 = 1024 * 1024;
/// Maximum time for one file while the process runs.
const PATIENCE: Duration = Duration::from_secs(5);
/// Maximum time for one file at the start. It may be a pipe of a program that asks a person, or that reads a vault.
const START_PATIENCE: Duration = Duration::from_secs(30);

/// Files that threads read now.
static BUSY: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());

/// Way of reading files. The default is that of the start. Without `Debug`, because the texts may be secrets.
#[derive(Clone)]
pub(super) struct Contents {
    /// Whether the process runs and has read its files before.
    is_again: bool,
    /// Maximum time for one file.
    patience: Duration,
    /// Texts of the files that can be read only once, such as pipes.
    once: BTreeMap<PathBuf, String>,
}

impl Default for Contents {
    fn default() -> Self {
        Self { is_again: false, patience: START_PATIENCE, once: BTreeMap::new() }
    }
}

impl Contents {
    /// Returns the way of reading the same files again.
    pub(super) fn again(&self) -> Self {
        Self { is_again: true, patience: PATIENCE, ..self.clone() }
    }

    /// Adds the files that another source has read.
    pub(super) fn join(&mut self, other: Self) {
        self.once.extend(other.once);
    }

    /// Returns the value in a file, without white space around it.
    ///
    /// # Errors
    /// The file can't be read, or is empty or too long. The text has the path.
    pub(super) fn value(&mut self, path: &Path) -> Result<String, String> {
        let name = path.display();
        let text = self.text(path, VALUE_MAX).map_err(|error| match error.kind() {
            ErrorKind::FileTooLarge => format!("{name} is {error}"),
            _ => format!("{name} can't be read ({error})"),
        })?;
        match text.trim() {
            "" => Err(format!("{name} is empty")),
            value => Ok(value.to_owned()),
        }
    }

    /// Returns the text of a file of at most so many bytes.
    pub(super) fn text(&mut self, path: &Path, max: u64) -> io::Result<String> {
        if self.is_again {
            let known = self.once.get(path).cloned();
            return in_time(path, self.patience, move |path| read_again(path, max, known));
        }
        let (text, is_regular) = in_time(path, self.patience, move |path| read(path, max))?;
        if !is_regular {
            self.once.insert(path.to_owned(), text.clone());
        }
        Ok(text)
    }
}

/// Returns the text of a file, and whether it is a regular file.
fn read(path: &Path, max: u64) -> io::Result<(String, bool)> {
    let file = File::open(path)?;
    let is_regular = file.metadata()?.is_file();
    let mut bytes = Vec::new();
    file.take(max + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > max {
        return Err(io::Error::new(ErrorKind::FileTooLarge, format!("longer than {max} bytes")));
    }
    let text = String::from_utf8(bytes);
    let text = text.map_err(|_| io::Error::new(ErrorKind::InvalidData, "it is not valid UTF-8"))?;
    Ok((text, is_regular))
}

/// Returns the text of a file that was read before. `known` is its text if it can be read only once.
fn read_again(path: &Path, max: u64, known: Option<String>) -> io::Result<String> {
    let found = path.metadata();
    match (found, known) {
        (Ok(found), _) if found.is_file() => read(path, max).map(|(text, _)| text),
        (_, Some(text)) => Ok(text),
        (Ok(_), None) => Err(io::Error::other("it is not a regular file any more")),
        (Err(error), None) => Err(error),
    }
}

/// Reads a file in a thread of its own, and waits for at most `limit`. While a thread still reads the file, the result is the
/// same error at once.
fn in_time<T: Send + 'static>(
    path: &Path,
    limit: Duration,
    read: impl FnOnce(&Path) -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    let late = || {
        let what = format!(
            "no answer within {limit:?}: its file system does not answer, or it is a pipe that nobody writes to"
        );
        io::Error::new(ErrorKind::TimedOut, what)
    };
    if !busy().insert(path.to_owned()) {
        return Err(late());
    }
    let (sender, receiver) = mpsc::channel();
    let own = path.to_owned();
    let started = thread::Builder::new().name("reading".to_owned()).spawn(move || {
        let result = read(&own);
        busy().remove(&own);
        // An error means that nobody waits any more.
        drop(sender.send(result));
    });
    if let Err(error) = started {
        busy().remove(path);
        return Err(error);
    }
    receiver.recv_timeout(limit).unwrap_or_else(|_| Err(late()))
}

fn busy() -> MutexGuard<'static, BTreeSet<PathBuf>> {
    // Each holder makes one change, so the set behind a poisoned lock is complete.
    BUSY.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::super::problem::Origin;
    use super::super::settings::Settings;
    use super::super::source::{Given, Values};
    use super::*;

    #[test]
    fn at_the_start_a_pipe_that_nobody_writes_to_is_a_problem_of_its_setting() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("tokens");
        assert!(Command::new("mkfifo").arg(&path).status().expect("mkfifo runs").success());
        let mut values = Values::default();
        values.contents.patience = Duration::from_millis(10);
        let (setting, mut problems) = (&Settings::api_tokens().about, Vec::new());
        let origin = Origin::Environment("ROLLBOOK_API_TOKENS_FILE".to_owned());
        let given = Given { setting, text: path.display().to_string(), origin };
        values.give(setting.key, true, given, &mut problems);
        let [problem] = &problems[..] else { panic!("{problems:?}") };
        let text = problem.to_string();
        for part in ["api_tokens", "ROLLBOOK_API_TOKENS_FILE", &*path.display().to_string(), "within 10ms"] {
            assert!(text.contains(part), "{part} is not in {text}");
        }
        assert!(values.get(setting.key).is_none());
        // The thread that waits is let go.
        std::fs::write(&path, "0").expect("it is written");
    }

    #[test]
    fn the_time_for_a_file_is_limited_at_the_start_and_again_later() {
        let start = Contents::default();
        assert_eq!((start.patience, start.again().patience), (START_PATIENCE, PATIENCE));
    }

    #[test]
    fn a_file_that_does_not_answer_is_an_error_in_time_and_no_second_thread_waits_for_it() {
        let path = Path::new("/a/mount/that/hangs");
        let (answer, answers) = mpsc::channel::<()>();
        let hung = in_time(path, Duration::from_millis(1), move |_| Ok(answers.recv().is_ok()));
        assert_eq!(hung.map_err(|error| error.kind()), Err(ErrorKind::TimedOut));
        let again = in_time(path, PATIENCE, |_| -> io::Result<()> { unreachable!("no thread is started") });
        assert_eq!(again.map_err(|error| error.kind()), Err(ErrorKind::TimedOut));
        assert!(in_time(Path::new("/another"), PATIENCE, |_| Ok(())).is_ok(), "no other file waits");
        drop(answer);
        while in_time(path, PATIENCE, |_| Ok(())).is_err() {
            thread::yield_now();
        }
    }

    #[test]
    fn a_file_is_read_up_to_its_limit_and_a_device_without_end_is_refused() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("value");
        let longest = "v".repeat(64 * 1024);
        for mut contents in [Contents::default(), Contents::default().again()] {
            std::fs::write(&path, &longest).expect("it is written");
            assert_eq!(contents.value(&path), Ok(longest.clone()));
            std::fs::write(&path, format!("{longest}v")).expect("it is written");
            assert_eq!(contents.value(&path), Err(format!("{} is longer than 65536 bytes", path.display())));
        }
        let error = Contents::default().value(Path::new("/dev/zero")).expect_err("it has no end");
        assert_eq!(error, "/dev/zero is longer than 65536 bytes");
    }
}
