//! Part of the demo's report about the reconciliation.

use std::fmt::Write as _;

use rollbook_core::drift::Drift;
use rollbook_operator::words::thousands;
use rollbook_reconciler::ResourceProgress;
use serde_json::{Value, json};

use super::findings::Findings;
use super::repair::Repair;
use crate::output::{Style, span};

/// Formats the differences that the reconciliation found, by table and kind.
pub(super) fn repaired(findings: &Findings, style: Style) -> String {
    let repair = &findings.repair;
    let mut headings = format!("{:<26}", "what webhooks had missed");
    for kind in Drift::COUNTED {
        let _ = write!(headings, "{:>16}", kind.as_str());
    }
    let mut text = format!("\n  {}\n", style.dim(&headings));
    for of in repair.progress.resources.iter().filter(|of| of.drifted() > 0) {
        let _ = write!(text, "  {:<26}", of.table);
        for kind in Drift::COUNTED {
            let count = of.drift.get(kind.as_str()).copied().unwrap_or_default();
            let _ = write!(text, "{:>16}", if count == 0 { "·".to_owned() } else { thousands(count) });
        }
        text.push('\n');
    }
    text.push_str(
        "  missing: no row; stale: the row was older than Clerk's object; undated: another content at the same updated_at;\n  \
         wrongly_deleted: the row was deleted, the object was not; not_deleted: the reverse\n",
    );
    let _ = writeln!(
        text,
        "  read and repaired in {}, with {} requests to the simulated Clerk API",
        span(repair.took),
        thousands(repair.requests)
    );
    if let Some(approved) = &repair.approved {
        let _ = writeln!(
            text,
            "  many deletions at once waited for an approval; `reconcile approve` deleted {} rows, each confirmed again by Clerk",
            thousands(approved.deleted)
        );
    }
    if let Some(naive) = &findings.naive {
        let count = |number: usize| thousands(number as u64);
        let _ = writeln!(
            text,
            "\n  {}\n  of {} users: {} deleted that exist, {} rows overwritten with an older state, {} revived that are deleted",
            style
                .dim("what a nightly job would have done that reads one page and deletes the rest (--naive)"),
            count(naive.living),
            count(naive.wrongly_deleted),
            count(naive.overwritten),
            count(naive.brought_back)
        );
    }
    text
}

/// Returns the result as JSON.
pub(super) fn reconciliation(repair: &Repair) -> Value {
    let of_table = |of: &ResourceProgress| (of.table.clone(), json!(of.drift));
    json!({
        "seconds": repair.took.as_secs_f64(),
        "requests": repair.requests,
        "written": repair.progress.sum(|of| of.written),
        "approved": repair.approved.as_ref().map(|approved| approved.deleted),
        "drift": repair.progress.resources.iter().map(of_table).collect::<serde_json::Map<_, _>>(),
    })
}
