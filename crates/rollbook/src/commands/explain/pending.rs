//! Pending work after a deletion, as text.

use std::fmt::Write as _;

use rollbook_core::catalog::find_resource;
use rollbook_core::store::PendingWork;
use rollbook_operator::explain::{Parent, Pending, PendingItem};
use rollbook_operator::words::{kind, many, thousands, time};

use crate::output::harmless;

/// Formats the pending work; empty if there is none.
pub(super) fn text(pending: &Pending, asked: &str) -> String {
    let mut text = String::new();
    if pending.is_empty() {
        return text;
    }
    let about = if pending.is_about_itself(asked) { "its row" } else { "its child rows" };
    _ = writeln!(text, "\nPending work on {about} ({} in all)", thousands(pending.total()));
    for item in &pending.listed {
        _ = writeln!(text, "  - {}{}", sentence(item), reason(item));
    }
    let more = pending.total().saturating_sub(pending.listed.len() as u64);
    if more > 0 {
        _ = writeln!(text, "  and {} more", thousands(more));
    }
    text
}

fn sentence(item: &PendingItem) -> String {
    let (id, table) = (harmless(&item.id), harmless(&item.table));
    let parent = |parent: &Parent| {
        let kind = find_resource(&parent.table).map_or_else(|| harmless(&parent.table), kind);
        format!("{kind} {}", harmless(&parent.id))
    };
    match (item.what, &item.parent, item.parent_erased) {
        (PendingWork::Children, ..) => {
            let was = if item.is_erased { "erased" } else { "deleted" };
            format!("not all child rows of {id}, which was {was}, are processed yet; workers continue")
        }
        (PendingWork::Row, Some(of), Some(true)) => {
            format!("{id} ({table}) still has content, although its {} was erased", parent(of))
        }
        (PendingWork::Row, Some(of), Some(false)) => {
            format!("{id} ({table}) does not show yet that its {} was deleted", parent(of))
        }
        (PendingWork::Row, ..) => {
            format!("{id} ({table}) does not show yet the deletion or erasure of its parent")
        }
        (PendingWork::Content, ..) => {
            format!("{id} ({table}) keeps content that is due to be erased (deleted_rows)")
        }
    }
}

fn reason(item: &PendingItem) -> String {
    let since = time(item.noted_at);
    let Some(why) = &item.error else { return format!(" (since {since})") };
    format!(
        ": {}; {} since {since}, next at {}",
        harmless(why),
        many(u64::from(item.attempts), "attempt"),
        item.next_try_at
    )
}

#[cfg(test)]
mod tests {
    use rollbook_core::time::Timestamp;

    use super::*;

    fn pending(what: PendingWork, id: &str, parent_erased: Option<bool>) -> Pending {
        let item = PendingItem {
            table: "organization_memberships".to_owned(),
            id: id.to_owned(),
            what,
            parent: parent_erased
                .map(|_| Parent { table: "organizations".to_owned(), id: "org_1".to_owned() }),
            parent_erased,
            is_erased: parent_erased == Some(true),
            noted_at: Some(Timestamp::from_seconds(1_800_000_000)),
            attempts: 2,
            next_try_at: Timestamp::from_seconds(1_800_000_010),
            error: Some("a trigger refuses the row".to_owned()),
        };
        Pending { parents: 1, rows: 2, listed: vec![item] }
    }

    #[test]
    fn a_row_that_refuses_is_shown_with_its_reason_and_its_next_attempt() {
        let shown = text(&pending(PendingWork::Row, "orgmem_250", Some(false)), "org_1");
        for part in
            ["orgmem_250", "a trigger refuses the row", "2 attempts", "2027-01-15T08:00:10", "and 2 more"]
        {
            assert!(shown.contains(part), "{shown}");
        }
    }

    #[test]
    fn an_unknown_time_is_shown_as_one() {
        let mut pending = pending(PendingWork::Row, "orgmem_250", Some(false));
        pending.listed[0].noted_at = None;
        let shown = text(&pending, "org_1");
        assert!(shown.contains("2 attempts since an unknown time, next at 2027"), "{shown}");
    }

    #[test]
    fn deletion_and_erasure_differ_and_so_do_parent_and_child() {
        for (what, erased, asked, words) in [
            (PendingWork::Row, Some(false), "org_1", "its organization org_1 was deleted"),
            (PendingWork::Row, Some(true), "org_1", "its organization org_1 was erased"),
            (PendingWork::Row, None, "org_1", "the deletion or erasure of its parent"),
            (PendingWork::Children, Some(true), "org_1", "which was erased, are processed yet"),
            (PendingWork::Children, Some(false), "org_1", "which was deleted, are processed yet"),
            (PendingWork::Row, Some(true), "org_1", "Pending work on its child rows"),
            (PendingWork::Row, Some(true), "orgmem_1", "Pending work on its row"),
            (PendingWork::Content, None, "orgmem_1", "Pending work on its row"),
        ] {
            let shown = text(&pending(what, "orgmem_1", erased), asked);
            assert!(shown.contains(words), "{words}\n{shown}");
        }
    }

    #[test]
    fn nothing_is_shown_without_pending_work() {
        assert_eq!(text(&Pending::default(), "org_1"), "");
    }
}
