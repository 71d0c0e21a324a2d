//! The last lines of the change feed: what an application would have been notified of.

use std::time::{Duration, Instant};

use rollbook_core::store::{ChangesQuery, FeedState, FullStore, Position};
use rollbook_operator::changes::ChangeView;
use rollbook_operator::words::thousands;

use crate::output::{Style, Table};

/// Number of lines in the report.
const SHOWN: Position = 5;
/// Maximum time for the last lines to get their positions. The worker looks for them every ten seconds.
const POSITIONED_WITHIN: Duration = Duration::from_secs(15);

/// The end of the feed.
#[derive(Default)]
pub(crate) struct LastChanges {
    /// Position of the last line.
    pub(crate) last: Position,
    /// The last lines; none if the feed is off.
    pub(crate) lines: Vec<ChangeView>,
}

/// Reads the last lines, once every committed change has its position.
pub(crate) async fn read(store: &dyn FullStore) -> anyhow::Result<LastChanges> {
    let began_at = Instant::now();
    let FeedState { last, removed_through, .. } = loop {
        let state = store.feed().await?;
        if state.waiting_for.is_none() || began_at.elapsed() > POSITIONED_WITHIN {
            break state;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    let after = last.saturating_sub(SHOWN).max(removed_through);
    let query = ChangesQuery { after, limit: usize::try_from(SHOWN)?, ..ChangesQuery::default() };
    let page = store.changes(&query).await?;
    Ok(LastChanges { last, lines: page.lines.into_iter().map(ChangeView::from).collect() })
}

/// Formats the last lines; empty if the feed is off.
pub(crate) fn text(changes: &LastChanges, style: Style) -> String {
    let LastChanges { last, lines } = changes;
    if lines.is_empty() {
        return String::new();
    }
    let heading = format!("last of {} changes", thousands(*last));
    let cells = |line: &ChangeView| {
        let (resource, id) = (line.resource.clone(), line.subject_id.clone());
        [line.position.to_string(), line.kind.to_string(), resource, id, line.origin.to_string()]
    };
    let table = Table::new(&[&heading, "kind", "resource", "id", "origin"]).with(lines.iter().map(cells));
    table.indented(style)
        + "  Each real change once, in the order of the commits: ops/REACTING.md has what to do with them.\n"
}

#[cfg(test)]
mod tests {
    use rollbook_core::store::{ChangeKind, ChangeOrigin};
    use rollbook_core::time::Timestamp;

    use super::*;

    #[test]
    fn the_last_changes_are_lines_and_a_feed_that_is_off_has_none() {
        let line = ChangeView {
            position: 4211,
            resource: "users".to_owned(),
            subject_id: "user_1".to_owned(),
            kind: ChangeKind::Created,
            changed: Vec::new(),
            origin: ChangeOrigin::Webhook,
            cause: None,
            event_at: None,
            at: Timestamp::from_millis(0),
        };
        let said = text(&LastChanges { last: 4211, lines: vec![line] }, Style::PLAIN);
        let line = said.lines().find(|line| line.contains("user_1")).expect("a line");
        assert!(said.contains("last of 4,211 changes"), "{said}");
        assert_eq!(
            line.split_whitespace().collect::<Vec<_>>(),
            ["4211", "created", "users", "user_1", "webhook"]
        );
        assert_eq!(text(&LastChanges::default(), Style::PLAIN), "");
    }
}
