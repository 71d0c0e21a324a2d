//! Work that is done and taken back: nothing of it is kept, whatever else its transaction commits.

use rusqlite::Connection;

/// Runs `work` in a savepoint and rolls it back.
pub(crate) fn rolled_back<T>(
    connection: &Connection,
    work: impl FnOnce() -> rusqlite::Result<T>,
) -> rusqlite::Result<T> {
    connection.execute_batch("SAVEPOINT rehearsal")?;
    let done = work();
    // Some errors have rolled back everything, and the savepoint with it: then the first error is the one to report.
    let ended = connection.execute_batch("ROLLBACK TO rehearsal; RELEASE rehearsal");
    let done = done?;
    ended?;
    Ok(done)
}
