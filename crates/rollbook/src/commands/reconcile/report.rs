//! A run as text: what it found, what it did, and what waits.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use rollbook_core::catalog::SUBSCRIPTION_ITEMS;
use rollbook_core::drift::Drift;
use rollbook_core::store::RunState;
use rollbook_operator::words::{many, span, thousands};
use rollbook_reconciler::{Approved, ResourceView, RunView};

use crate::output::Table;

/// Command that names what waits.
pub(super) const STATUS: &str = "rollbook reconcile status names it, with the command that settles it";

/// Formats a run: differences by resource and kind, then one sentence.
pub(super) fn text(run: &RunView) -> String {
    let text = table(&run.resources) + &notes(&run.resources);
    format!("{text}\n{}", sentence(run))
}

/// Formats what a run has read that did not reach its end.
pub(super) fn reached(resources: &[ResourceView]) -> String {
    table(resources) + &notes(resources)
}

/// Formats what a run could not settle, one line for each resource and reason.
pub(super) fn notes(resources: &[ResourceView]) -> String {
    let lines = resources
        .iter()
        .flat_map(|of| notes_of(of).into_iter().map(|note| format!("{}: {note}\n", of.resource)));
    lines.collect()
}

fn table(resources: &[ResourceView]) -> String {
    let kinds = Drift::COUNTED.map(|kind| kind.as_str().replace('_', " "));
    let mut headings = vec!["resource", "at Clerk", "read"];
    headings.extend(kinds.iter().map(String::as_str));
    headings.extend(["written", "held"]);
    let mut table = Table::new(&headings);
    for of in resources {
        let drift = Drift::COUNTED.map(|kind| of.drift.get(kind.as_str()).copied().unwrap_or_default());
        let numbers = [of.at_clerk, of.read].into_iter().chain(drift).chain([of.written, of.held]);
        table.row(std::iter::once(of.resource.clone()).chain(numbers.map(thousands)));
    }
    table.to_string()
}

fn notes_of(of: &ResourceView) -> Vec<String> {
    let note =
        |number: u64, one: &str, what: &str| (number > 0).then(|| format!("{}, {what}", many(number, one)));
    [
        note(
            of.refused,
            "row",
            "refused by a trigger or a constraint: the log names the table and the reason",
        ),
        note(
            of.unproven,
            "living row",
            "missing in Clerk's lists, and not proved to be absent: nothing was deleted",
        ),
        note(
            of.unreadable,
            "object",
            "without an id, of another type or marked as deleted in Clerk's answers: the list proves no absence",
        ),
        note(of.not_enabled, "row", "left as they are: Clerk says that the feature is not enabled"),
        note(
            of.pending,
            "child row or parent",
            "of which the deletion is not done yet: workers continue, and rollbook doctor names the reason",
        ),
        note(
            if of.resource == SUBSCRIPTION_ITEMS.table { of.drifted() } else { 0 },
            "difference",
            "counted and never repaired: Clerk's API shows items in another shape than the webhooks. The next webhook of an \
             item brings its row",
        ),
        (!of.taken_along.is_empty()).then(|| format!("its deletions take {} with them", along(&of.taken_along))),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// Names rows of other tables: `21 rows of organization_memberships or more`.
pub(super) fn along(rows: &BTreeMap<String, u64>) -> String {
    rows_of(rows, " or more")
}

fn rows_of(rows: &BTreeMap<String, u64>, bound: &str) -> String {
    let texts: Vec<String> =
        rows.iter().map(|(table, rows)| format!("{} of {table}{bound}", many(*rows, "row"))).collect();
    texts.join(" and ")
}

fn sentence(run: &RunView) -> String {
    let (read, drifted) = (run.sum(|of| of.read), run.sum(ResourceView::drifted));
    let (written, held) = (run.sum(|of| of.written), run.sum(|of| of.held));
    let took = run.finished_at.map_or(0, |at| at.as_millis() - run.started_at.as_millis());
    let read = format!("{} read in {}", many(read, "object"), span(took));
    let found = if drifted == 0 { "nothing differs".to_owned() } else { many(drifted, "difference") };
    if run.dry_run {
        let held =
            if held > 0 { format!("; {} would be held for you", thousands(held)) } else { String::new() };
        return format!("dry run: {read}, {found}{held}. Nothing was changed.");
    }
    let written = if written > 0 { format!(", {} written", many(written, "row")) } else { String::new() };
    let state = match run.state {
        RunState::Held => format!(
            "held: {} for you",
            if held > 0 { format!("{} wait", thousands(held)) } else { "something waits".to_owned() }
        ),
        state => state.as_str().to_owned(),
    };
    format!("{} {state}: {read}, {found}{written}.", run.run)
}

/// Formats an approval.
pub(super) fn approved(approved: &Approved) -> String {
    let Approved { deleted, alive, refused, unproven, pending, taken_along } = approved;
    let mut text = format!("{} deleted", many(*deleted, "row"));
    if !taken_along.is_empty() {
        _ = write!(text, ", and {} with them", rows_of(taken_along, ""));
    }
    let others = [
        (*alive, "present at Clerk after all, and not deleted"),
        (*refused, "refused"),
        (*unproven, "not proved to be absent now, and still held"),
        (*pending, "child rows or parents not done yet"),
    ];
    for (count, what) in others.into_iter().filter(|(count, _)| *count > 0) {
        _ = write!(text, "; {} {what}", thousands(count));
    }
    text
}
