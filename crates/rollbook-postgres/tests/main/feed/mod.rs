//! The change feed on Postgres, with concurrent workers, crashes and other sessions.

mod bell;
mod kills;
mod schema;

use std::sync::Arc;

use rollbook_core::store::{ChangeLine, Changes as _, ChangesQuery, LINES_MAX, Position, Store as _};
use rollbook_postgres::PostgresStore;
use rollbook_testkit::feed_audit;

use crate::world::World;

/// Gives all committed lines their positions.
async fn sequence(store: &PostgresStore) {
    while store.sequence().await.expect("the store gives positions").has_more {}
}

/// Returns all lines after a position.
async fn lines(store: &PostgresStore, after: Position) -> Vec<ChangeLine> {
    sequence(store).await;
    let (mut query, mut lines) =
        (ChangesQuery { after, limit: LINES_MAX, ..ChangesQuery::default() }, Vec::new());
    loop {
        let page = store.changes(&query).await.expect("the store reads the feed");
        lines.extend(page.lines);
        query.after = page.through;
        if page.through == page.last {
            return lines;
        }
    }
}

/// Ids of the subjects of lines.
fn ids(lines: &[ChangeLine]) -> Vec<&str> {
    lines.iter().map(|line| line.subject_id.as_str()).collect()
}

/// Asserts that the feed has every audited change once, and those of each row in the order of their numbers.
async fn assert_feed_is_audited(world: &World) {
    let schema = &world.settings.schema;
    assert_eq!(world.psql(&feed_audit::differences(schema)).await, "", "the audit and the feed differ");
    let found = world.psql(&feed_audit::positions(schema)).await;
    assert!(feed_audit::are_consecutive(&found), "{found}");
    assert_eq!(world.psql(&feed_audit::steps_back(schema)).await, "0\n", "times never decrease");
}

/// A store of its own for each worker, as separate processes have.
fn workers(world: &World, count: usize) -> Vec<Arc<PostgresStore>> {
    (0..count).map(|_| world.store()).collect()
}
