//! Rewrites a file so that it holds no bytes of removed data.
//!
//! Deleted and overwritten data stays in the file's free space and in its log until that space is used again.
//! VACUUM writes all current data into new pages. A truncating checkpoint copies them over the old pages and
//! empties the log.

use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use rusqlite::Connection;

use crate::connection::{self, BUSY_PAUSE};
use crate::fault::Fault;

/// Time for which others may read or copy the log before it can be emptied.
const LOG_WAIT: Duration = Duration::from_secs(5);

/// Rewrites the file. Other processes may have it open: their commits wait meanwhile, and fail after some
/// seconds. Needs free space of the file's size.
///
/// # Errors
/// The file could not be rewritten. Removed data may still be in the file or its log.
pub(crate) fn rewrite(path: &Path) -> Result<(), String> {
    let connection = connection::open(path).map_err(|fault| fault.to_string())?;
    vacuum(&connection, LOG_WAIT).map_err(|fault| fault.to_string())
}

/// Rewrites the file, and tries for `wait` to empty its log.
fn vacuum(connection: &Connection, wait: Duration) -> Result<(), Fault> {
    // The copy is in memory or in a temporary file, and holds only current data.
    connection.execute_batch("VACUUM")?;
    // The next attempts do not wait within SQLite: it would hold up those who write while it waits for those who read.
    connection.busy_timeout(Duration::ZERO)?;
    let begun = Instant::now();
    let empty = || connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get(0));
    let mut is_busy: bool = empty()?;
    while is_busy && begun.elapsed() < wait {
        thread::sleep(BUSY_PAUSE);
        is_busy = empty()?;
    }
    if is_busy {
        return Err(Fault::Unavailable(
            "the file is rewritten, but its log could not be emptied: others read or copy it".into(),
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &str = "sunniva@holt.example";

    fn bytes_hold(folder: &Path) -> bool {
        let files = std::fs::read_dir(folder).expect("a folder").flatten();
        let held = |path: &Path| {
            let bytes = std::fs::read(path).expect("a file");
            bytes.windows(SECRET.len()).any(|window| window == SECRET.as_bytes())
        };
        files.map(|entry| entry.path()).any(|path| held(&path))
    }

    #[test]
    fn a_rewritten_file_holds_no_removed_data_even_while_others_have_it_open() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("a.db");
        let other = connection::open(&path).expect("a file");
        let body = SECRET.repeat(1_000);
        other.execute_batch("CREATE TABLE t (id INTEGER PRIMARY KEY, body TEXT) STRICT").expect("a table");
        for id in 0..50 {
            other.execute("INSERT INTO t VALUES (?1, ?2)", (id, &body)).expect("a row");
        }
        other.execute_batch("DELETE FROM t WHERE id > 0; UPDATE t SET body = 'gone'").expect("it goes");
        assert!(bytes_hold(folder.path()), "the control: removed is not yet gone");
        rewrite(&path).expect("it is rewritten");
        assert!(!bytes_hold(folder.path()));
        let kept: String = other.query_row("SELECT body FROM t", [], |row| row.get(0)).expect("a row");
        assert_eq!(kept, "gone");
    }

    #[test]
    fn a_log_that_another_process_reads_is_not_reported_as_empty() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("a.db");
        let other = connection::open(&path).expect("a file");
        other.execute_batch("CREATE TABLE t (id INTEGER) STRICT; BEGIN; SELECT * FROM t").expect("a reader");
        other.query_row("SELECT count(*) FROM t", [], |row| row.get::<_, i64>(0)).expect("it reads");
        let ours = connection::open(&path).expect("a file");
        let error = vacuum(&ours, Duration::from_millis(20)).expect_err("the log is read").to_string();
        assert!(error.contains("could not be emptied"), "{error}");
    }
}
