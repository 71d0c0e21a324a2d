//! The state of the reconciliation as text.

use std::fmt::Write as _;

use rollbook_core::drift::Drift;
use rollbook_core::time::Timestamp;
use rollbook_operator::words::{span, thousands};
use rollbook_reconciler::{ResourceView, RunView, Status, Waiting};

use super::report::{along, notes};
use crate::output::{Table, harmless};

/// Formats the state.
pub(super) fn text(status: &Status) -> String {
    let mut text = String::new();
    if status.runs.is_empty() {
        text.push_str("No reconciliation has run yet. Begin one: rollbook reconcile\n");
    } else {
        text.push_str(&runs(&status.runs));
    }
    // Writing to a String can't fail.
    let nothing = if status.waiting.is_empty() { " nothing" } else { "" };
    _ = writeln!(text, "\nWaiting for you:{nothing}");
    for waiting in &status.waiting {
        text.push_str(&item(waiting));
    }
    let mut table = Table::new(&["resource", "complete since", "last walk", "drift", "numbers equal"]);
    for of in &status.resources {
        let or_never = |at: Option<Timestamp>| at.map_or_else(|| "never".to_owned(), |at| at.to_string());
        let drift = of.drift.map_or_else(|| "-".to_owned(), thousands);
        table.row([
            of.resource.to_owned(),
            or_never(of.complete_since),
            or_never(of.last_walk_at),
            drift,
            or_never(of.numbers_equal_at),
        ]);
    }
    _ = write!(text, "\n{table}");
    text
}

fn runs(runs: &[RunView]) -> String {
    let headings = ["run", "state", "began", "took", "read", "drift", "written", "held"];
    let table = Table::new(&headings).with(runs.iter().map(|run| {
        let end = run.finished_at.unwrap_or(run.saved_at);
        [
            run.run.clone(),
            run.state.as_str().to_owned(),
            run.started_at.to_string(),
            span(end.as_millis().saturating_sub(run.started_at.as_millis())),
            thousands(run.sum(|of| of.read)),
            thousands(run.sum(ResourceView::drifted)),
            thousands(run.sum(|of| of.written)),
            thousands(run.sum(|of| of.held)),
        ]
    }));
    let mut text = table.to_string();
    if let Some(last) = runs.iter().find(|run| run.finished_at.is_some()) {
        text.push_str(&notes(&last.resources));
    }
    if let Some((run, error)) = runs.first().and_then(|run| Some((run, run.error.as_ref()?))) {
        _ = writeln!(text, "{}: {}", harmless(&run.run), harmless(error));
    }
    text
}

fn item(waiting: &Waiting) -> String {
    let Waiting { run, resource, kind, count, ids, taken_along, fix } = waiting;
    let what = match kind {
        Drift::NotDeleted => "not at Clerk any more, and not deleted here",
        Drift::WronglyDeleted => "deleted here, and present at Clerk",
        _ if ids.is_empty() => "at Clerk without a usable id, of another type, or marked as deleted",
        _ => "different at Clerk: a trigger or constraint prevents the change",
    };
    let mut names = harmless(&ids.join(", "));
    if !ids.is_empty() && (ids.len() as u64) < *count {
        _ = write!(names, " and {} more (--limit)", thousands(*count - ids.len() as u64));
    }
    if !taken_along.is_empty() {
        _ = write!(names, "\n    with them: {}", along(taken_along));
    }
    let names = if names.is_empty() { names } else { format!("    {names}\n") };
    format!(
        "  {} of {resource}: {what} ({})\n{names}    → {}\n",
        thousands(*count),
        harmless(run),
        harmless(fix)
    )
}
