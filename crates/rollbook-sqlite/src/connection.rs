//! Opens a file with the settings that make a commit durable, and checks that they hold.

use std::fs::OpenOptions;
use std::io::ErrorKind;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::time::Duration;

use rusqlite::Connection;
use rusqlite::config::DbConfig;

use crate::fault::Fault;

/// Interval of attempts to get the file's lock while another process holds it, such as `rollbook
/// dead-letters`. A process under load releases the lock for a small part of its time. SQLite's own waits
/// grow to 100 ms: they rarely hit that part, and end as "database is locked".
pub(crate) const BUSY_PAUSE: Duration = Duration::from_millis(2);
/// Maximum attempts to get the lock, about 5 s in all.
const BUSY_TRIES_MAX: i32 = 2_500;
/// Size of the write-ahead log in bytes from which it is copied into the file and begins anew. More than SQLite's 1,000 pages:
/// a page that changes often is then copied once.
pub(crate) const CHECKPOINT_BYTES: u32 = 16_384_000;
/// Size to which the log file is truncated after a copy, in bytes.
const LOG_BYTES_MAX: u32 = 64 << 20;
/// Size of the cache of prepared statements: more than there are.
const STATEMENTS_MAX: usize = 192;
/// Value of `PRAGMA synchronous` with which a commit waits for the disk.
const FULL: i64 = 2;

/// Opens the file with durable commits.
pub(crate) fn open(path: &Path) -> Result<Connection, Fault> {
    open_with(path, |_| Ok(()))
}

/// Opens the file for writes of rows. A statement with triggers keeps the pages that it changes until it ends: here in memory,
/// because it changes few. By default SQLite writes them to a file in `/var/tmp`, with two system calls for each page: that took a
/// third of the time of a write, and left personal data outside the data folder.
pub(crate) fn open_writer(path: &Path) -> Result<Connection, Fault> {
    let connection = open(path)?;
    connection.pragma_update(None, "temp_store", "MEMORY").map_err(|error| opening(path, error))?;
    Ok(connection)
}

/// Opens the file for work that only reads.
pub(crate) fn open_reader(path: &Path) -> Result<Connection, Fault> {
    let connection = open(path)?;
    connection.pragma_update(None, "query_only", true).map_err(|error| opening(path, error))?;
    keep_log_at_close(&connection)?;
    Ok(connection)
}

/// Lets a connection leave the log as it is, also if it is the last one that closes the file. Otherwise SQLite copies the log
/// into the file then, and removes it.
pub(crate) fn keep_log_at_close(connection: &Connection) -> Result<(), Fault> {
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
    Ok(())
}

/// Opens the file, or creates it with pages of this size.
pub(crate) fn make(path: &Path, page_bytes: u32) -> Result<Connection, Fault> {
    open_with(path, |connection| connection.pragma_update(None, "page_size", page_bytes))
}

fn open_with(
    path: &Path,
    prepare: impl FnOnce(&Connection) -> rusqlite::Result<()>,
) -> Result<Connection, Fault> {
    check_version(rusqlite::version_number())?;
    make_private(path)?;
    let mut connection = Connection::open(path).map_err(|error| opening(path, error))?;
    prepare(&connection).and_then(|()| set_up(&mut connection)).map_err(|error| opening(path, error))?;
    check(&connection)?;
    Ok(connection)
}

/// Creates the file if it is missing. Only its owner may read it, since it will hold personal data; SQLite
/// gives its log the same mode. An existing file keeps its mode and is not opened: closing it would drop the
/// locks of this process's other connections. A symbolic link with a missing target is followed, as SQLite
/// follows it: `create_new` takes it for an existing file, and SQLite would make the target readable for others.
fn make_private(path: &Path) -> Result<(), Fault> {
    let open = |options: &mut OpenOptions| options.write(true).mode(0o600).open(path);
    let opened = match open(OpenOptions::new().create_new(true)) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists && path.exists() => return Ok(()),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            open(OpenOptions::new().create(true).truncate(false))
        }
        other => other,
    };
    opened.map(drop).map_err(|error| Fault::Deployment(format!("{}: {error}", path.display())))
}

fn opening(path: &Path, error: rusqlite::Error) -> Fault {
    let place = |text: &str| format!("{}: {text}", path.display());
    match Fault::from(error) {
        Fault::Data(text) | Fault::Statement(text) | Fault::Deployment(text) | Fault::Unreadable(text) => {
            Fault::Deployment(place(&text))
        }
        Fault::Unavailable(text) => Fault::Unavailable(place(&text)),
        Fault::OutOfSpace(text) => Fault::OutOfSpace(place(&text)),
        Fault::Broken(text) => Fault::Broken(place(&text)),
    }
}

/// Waits for another process to release the lock. Returns whether to try again.
fn wait_for_lock(tries: i32) -> bool {
    std::thread::sleep(BUSY_PAUSE);
    tries < BUSY_TRIES_MAX
}

fn set_up(connection: &mut Connection) -> rusqlite::Result<()> {
    connection.busy_handler(Some(wait_for_lock))?;
    connection.set_prepared_statement_cache_capacity(STATEMENTS_MAX);
    // One plan per statement, independent of bound values: otherwise SQLite prepares some statements again
    // for each value.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
    let page_bytes: u32 = connection.query_row("PRAGMA page_size", [], |row| row.get(0))?;
    connection.execute_batch(&format!(
        "PRAGMA journal_mode = WAL;
         PRAGMA synchronous = FULL;
         PRAGMA foreign_keys = OFF;
         PRAGMA wal_autocheckpoint = {};
         PRAGMA journal_size_limit = {LOG_BYTES_MAX};",
        CHECKPOINT_BYTES / page_bytes.max(1),
    ))
}

/// Fails if a setting has no effect, such as `journal_mode` on some file systems.
fn check(connection: &Connection) -> Result<(), Fault> {
    let synchronous: i64 = connection.query_row("PRAGMA synchronous", [], |row| row.get(0))?;
    let journal_mode: String = connection.query_row("PRAGMA journal_mode", [], |row| row.get(0))?;
    if synchronous == FULL && journal_mode == "wal" {
        return Ok(());
    }
    Err(Fault::Deployment(format!(
        "SQLite would not be durable here (journal_mode={journal_mode}, synchronous={synchronous}); \
         put the file on a local disk"
    )))
}

/// Returns an error for an SQLite with the WAL-reset fault. Every SQLite up to 3.51.2 can corrupt or lose
/// commits if two connections write and checkpoint at the same time; fixed in 3.51.3 and, for older lines, in
/// 3.44.6 and 3.50.7.
fn check_version(number: i32) -> Result<(), Fault> {
    let fixed = number >= 3_051_003
        || (3_050_007..3_051_000).contains(&number)
        || (3_044_006..3_045_000).contains(&number);
    if fixed {
        return Ok(());
    }
    Err(Fault::Deployment(format!(
        "SQLite {}.{}.{} can lose commits (the WAL-reset fault); build with the bundled one, 3.51.3 or newer",
        number / 1_000_000,
        number / 1_000 % 1_000,
        number % 1_000
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_sqlite_with_the_wal_reset_fault_is_refused_and_a_fixed_one_is_not() {
        for faulty in [3_007_000, 3_040_001, 3_044_005, 3_045_000, 3_050_006, 3_051_000, 3_051_002] {
            assert!(matches!(check_version(faulty), Err(Fault::Deployment(_))), "{faulty}");
        }
        for fixed in [3_044_006, 3_050_007, 3_051_003, 3_053_000, rusqlite::version_number()] {
            assert_eq!(check_version(fixed), Ok(()), "{fixed}");
        }
    }

    #[test]
    fn sqlite_takes_no_lock_to_count_its_memory() {
        let connection = Connection::open_in_memory().expect("a database");
        let used = "SELECT sqlite_compileoption_used('DEFAULT_MEMSTATUS=0')";
        let is_used = connection.query_row(used, [], |row| row.get(0));
        let fix = "SQLite was built without .cargo/config.toml: run cargo inside the repository, and unset LIBSQLITE3_FLAGS";
        assert_eq!(is_used, Ok(true), "{fix}");
    }

    #[test]
    fn a_file_is_opened_durable() {
        let folder = tempfile::tempdir().expect("a folder");
        let connection = open(&folder.path().join("a.db")).expect("a file");
        assert_eq!(check(&connection), Ok(()));
    }

    #[test]
    fn only_the_owner_may_read_a_new_file_and_an_existing_one_keeps_its_mode() {
        use std::os::unix::fs::PermissionsExt as _;
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("a.db");
        let rights = || std::fs::metadata(&path).expect("a file").permissions().mode() & 0o777;
        drop(open(&path).expect("a file"));
        assert_eq!(rights(), 0o600);
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).expect("other rights");
        drop(open(&path).expect("a file"));
        assert_eq!(rights(), 0o640);
    }

    #[test]
    fn only_the_owner_may_read_a_file_made_through_a_dangling_link_and_its_log_and_index() {
        use std::os::unix::fs::PermissionsExt as _;
        let folder = tempfile::tempdir().expect("a folder");
        let (link, target) = (folder.path().join("a.db"), folder.path().join("elsewhere.db"));
        std::os::unix::fs::symlink(&target, &link).expect("a link");
        let connection = open(&link).expect("a file");
        connection.execute_batch("CREATE TABLE a (b)").expect("a table");
        for suffix in ["", "-wal", "-shm"] {
            let file = folder.path().join(format!("elsewhere.db{suffix}"));
            let mode = std::fs::metadata(&file).expect("a file").permissions().mode() & 0o777;
            assert_eq!(mode, 0o600, "{}", file.display());
        }
    }

    #[test]
    fn a_connection_that_would_not_wait_for_the_disk_is_refused() {
        let folder = tempfile::tempdir().expect("a folder");
        let connection = open(&folder.path().join("a.db")).expect("a file");
        connection.execute_batch("PRAGMA synchronous = NORMAL").expect("a setting");
        assert!(matches!(check(&connection), Err(Fault::Deployment(_))));
    }

    #[test]
    fn the_error_for_a_folder_in_place_of_a_file_names_the_path() {
        let folder = tempfile::tempdir().expect("a folder");
        let Err(Fault::Deployment(text)) = open(folder.path()) else { panic!("a folder is not a file") };
        assert!(text.contains(&folder.path().display().to_string()), "{text}");
    }
}
