//! Reads the change feed by SQL, and does its work in the transaction that moves its position.

use std::time::Duration;

use sqlx::postgres::{PgListener, PgPool, PgRow};
use sqlx::{PgConnection, Row as _};

/// Name of this reader: its row in app.readers.
const NAME: &str = "audit-trail";
const BATCH: i64 = 500;
/// LISTEN only says when to look, and a notification may be lost: the reader also looks this often.
const POLL: Duration = Duration::from_secs(5);

/// Your work, in the same transaction.
async fn handle(transaction: &mut PgConnection, change: &PgRow) -> sqlx::Result<()> {
    sqlx::query("INSERT INTO app.audit_trail (position, what) VALUES ($1, $2)")
        .bind(change.try_get::<i64, _>("position")?)
        .bind(format!(
            "{} {} {}",
            change.try_get::<&str, _>("resource")?,
            change.try_get::<&str, _>("subject_id")?,
            change.try_get::<&str, _>("kind")?
        ))
        .execute(transaction)
        .await?;
    Ok(())
}

/// Handles one batch. Returns whether there may be more.
async fn turn(pool: &PgPool) -> sqlx::Result<bool> {
    let mut transaction = pool.begin().await?;
    // The row's lock: a second process of this reader waits here, and then goes on from the new position.
    let position: i64 = sqlx::query_scalar("SELECT position FROM app.readers WHERE name = $1 FOR UPDATE")
        .bind(NAME)
        .fetch_one(&mut *transaction)
        .await?;
    let changes = sqlx::query(
        "SELECT position, resource, subject_id, kind FROM clerk.changes WHERE position > $1 ORDER BY position LIMIT $2",
    )
    .bind(position)
    .bind(BATCH)
    .fetch_all(&mut *transaction)
    .await?;
    let (removed_through, last_position): (i64, i64) =
        sqlx::query_as("SELECT removed_through, last_position FROM clerk.changes_state")
            .fetch_one(&mut *transaction)
            .await?;
    assert!(
        removed_through <= position && position <= last_position,
        "position {position} is not in the feed ({removed_through} to {last_position}): read the tables anew, \
         then set it to {last_position}"
    );
    for change in &changes {
        handle(&mut transaction, change).await?;
    }
    if let Some(last) = changes.last() {
        sqlx::query("UPDATE app.readers SET position = $1 WHERE name = $2")
            .bind(last.try_get::<i64, _>("position")?)
            .bind(NAME)
            .execute(&mut *transaction)
            .await?;
    }
    transaction.commit().await?;
    Ok(i64::try_from(changes.len()).is_ok_and(|count| count == BATCH))
}

/// Reads until an error, such as a lost connection: start it again then.
pub(crate) async fn read(database_url: &str) -> sqlx::Result<()> {
    let pool = PgPool::connect(database_url).await?;
    let mut listener = PgListener::connect(database_url).await?;
    listener.listen("rollbook_changes").await?;
    loop {
        while turn(&pool).await? {}
        if let Ok(notified) = tokio::time::timeout(POLL, listener.recv()).await {
            notified?;
        }
    }
}
