//! What is left to do after a deletion: a large cascade under way, and rows that refuse their change.

use std::fmt::Write as _;

use rollbook_core::store::{Cascades, PendingCascade, PendingWork};
use serde_json::{Value, json};

use crate::output::{harmless, thousands};
use crate::words::many;

/// As text; empty where nothing is left.
pub(super) fn text(cascades: &Cascades) -> String {
    let mut text = String::new();
    if cascades.listed.is_empty() {
        return text;
    }
    _ = writeln!(text, "\nWhat is left to do after its deletion ({} in all)", thousands(total(cascades)));
    for line in &cascades.listed {
        let id = harmless(&line.id);
        let what = match line.what {
            PendingWork::Children => {
                format!("not all rows that hang on {id} were looked at yet; workers go on")
            }
            PendingWork::Row => {
                format!("{id} ({}) does not show its parent's deletion", harmless(&line.table))
            }
            PendingWork::Content => {
                format!("{id} ({}) keeps content that is due to be erased", harmless(&line.table))
            }
        };
        _ = writeln!(text, "  - {what}{}", reason(line));
    }
    let more = total(cascades).saturating_sub(cascades.listed.len() as u64);
    if more > 0 {
        _ = writeln!(text, "  and {} more", thousands(more));
    }
    text
}

fn total(cascades: &Cascades) -> u64 {
    cascades.parents + cascades.rows
}

fn reason(line: &PendingCascade) -> String {
    let Some(why) = &line.last_error else { return format!(" (since {})", line.noted_at) };
    format!(
        ": {}; {} since {}, next at {}",
        harmless(why),
        many(u64::from(line.attempts), "try"),
        line.noted_at,
        line.next_try_at
    )
}

/// For programs; `None` where nothing is left.
pub(super) fn json(cascades: &Cascades) -> Option<Value> {
    let listed = cascades.listed.iter().map(|line| {
        json!({
            "table": line.table,
            "id": line.id,
            "what": match line.what {
                PendingWork::Children => "children",
                PendingWork::Row => "row",
                PendingWork::Content => "content",
            },
            "parent": line.parent.as_ref().map(|(table, id)| json!({ "table": table, "id": id })),
            "noted_at": line.noted_at.to_string(),
            "attempts": line.attempts,
            "next_try_at": line.next_try_at.to_string(),
            "error": line.last_error,
        })
    });
    (total(cascades) > 0).then(|| {
        json!({ "parents": cascades.parents, "rows": cascades.rows, "listed": listed.collect::<Vec<_>>() })
    })
}

#[cfg(test)]
mod tests {
    use rollbook_core::time::Timestamp;

    use super::*;

    fn refused() -> Cascades {
        let listed = vec![PendingCascade {
            table: "organization_memberships".to_owned(),
            id: "orgmem_250".to_owned(),
            what: PendingWork::Row,
            parent: Some(("organizations".to_owned(), "org_1".to_owned())),
            noted_at: Timestamp::from_seconds(1_800_000_000),
            attempts: 2,
            next_try_at: Timestamp::from_seconds(1_800_000_010),
            last_error: Some("a trigger refuses the row".to_owned()),
        }];
        Cascades { parents: 1, rows: 2, listed }
    }

    #[test]
    fn a_row_that_refuses_is_named_with_its_reason_and_its_next_try() {
        let told = text(&refused());
        for part in
            ["orgmem_250", "a trigger refuses the row", "2 tries", "2027-01-15T08:00:10", "and 2 more"]
        {
            assert!(told.contains(part), "{told}");
        }
        assert_eq!(json(&refused()).expect("something is left")["listed"][0]["parent"]["id"], "org_1");
    }

    #[test]
    fn nothing_is_said_where_nothing_is_left() {
        assert_eq!(text(&Cascades::default()), "");
        assert_eq!(json(&Cascades::default()), None);
    }
}
