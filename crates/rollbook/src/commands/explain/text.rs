//! A history as text.

use std::fmt::Write as _;

use rollbook_core::drift::Drift;
use rollbook_core::queue::MessageState;
use rollbook_core::time::Timestamp;
use rollbook_core::trace::Traceparent;
use rollbook_operator::explain::{
    AppliedDelivery, DeadMessage, DiscardedMessage, HeldSubject, History, Membership, Memberships, Message,
    Queued, Row, RowRef, State, Subject, UnfitColumn,
};
use rollbook_operator::lookup::{Match, Named};
use rollbook_operator::words::{a_kind, kind, many, span, thousands};
use serde_json::Value;

use super::pending;
use crate::output::{Table, harmless};

/// Formats a history.
pub(super) fn history(history: &History, now: Timestamp) -> String {
    let mut text = String::new();
    match &history.subject {
        Some(subject) => {
            _ = writeln!(text, "{}", heading(&history.id, subject));
            text.push_str(&found_by(history.named.as_ref()));
            row(&mut text, history, subject);
            if let Some(memberships) = subject.memberships.as_ref().filter(|_| history.is_known) {
                list(&mut text, subject, memberships);
            }
        }
        None => _ = writeln!(text, "{}: a delivery, named by its svix-id", harmless(&history.id)),
    }
    deliveries(&mut text, history);
    text.push_str(&waiting_for_operator(&history.held));
    text.push_str(&pending::text(&history.pending, history.subject_id()));
    match &history.queue {
        Ok(queued) => queue(&mut text, history, queued, now),
        Err(why) => _ = writeln!(text, "\nThe queue could not be read: {}", harmless(why)),
    }
    if !history.can_mean.is_empty() {
        text.push('\n');
    }
    for line in &history.can_mean {
        _ = writeln!(text, "{line}");
    }
    text
}

fn heading(id: &str, subject: &Subject) -> String {
    let id = harmless(id);
    match subject.resource {
        Some(resource) => format!("{id}: {} (table {})", a_kind(resource), resource.table),
        None => format!("{id}: of unknown kind"),
    }
}

/// Describes how the question named the subject, if not by its id.
fn found_by(named: Option<&Named>) -> String {
    let mut text = String::new();
    let Some(Named { by, also, is_cut_short }) = named else { return text };
    _ = writeln!(text, "Found by: {}", by.text());
    for Match { id, resource, by, .. } in also {
        _ = writeln!(text, "Also found: {} (table {}, {})", harmless(id), resource.table, by.text());
    }
    if *is_cut_short {
        text.push_str("The search for others ended early: there may be more.\n");
    }
    text
}

fn row(text: &mut String, history: &History, subject: &Subject) {
    if let Err(why) = &history.store {
        _ = writeln!(text, "\nThe row: unknown. The store could not be read: {}", harmless(why));
        return;
    }
    let Some(row) = &subject.row else {
        _ = writeln!(text, "\nThe row: none. No applied delivery has created one.");
        return;
    };
    _ = writeln!(text, "\nThe row: {}", state(row));
    let mut table = Table::new(&[]);
    for (name, value) in &row.columns {
        let shown = match value {
            Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        table.row([format!("  {name}"), shown, meaning(name).to_owned()]);
    }
    text.push_str(table.to_string().trim_start_matches('\n'));
    unfit(text, row);
}

/// Names the columns that are null because Clerk's value does not fit them.
fn unfit(text: &mut String, row: &Row) {
    if row.unfit.is_empty() {
        return;
    }
    text.push_str(
        "  These columns are null, because Clerk's value does not fit them. The column data has the value:\n",
    );
    for UnfitColumn { column, why } in &row.unfit {
        _ = writeln!(text, "  - {column}: {why}");
    }
}

/// Describes the state of a row in a sentence.
fn state(row: &Row) -> String {
    let at = row.deleted_at.as_deref().unwrap_or_default();
    let with = match &row.ended_with {
        Some(RowRef { resource, id }) => {
            format!(" with the {} {} that it belongs to", kind(resource), harmless(id))
        }
        None => String::new(),
    };
    match row.state {
        State::Alive => "alive.".to_owned(),
        State::Placeholder => format!(
            "a placeholder, made by {} for an application; the first delivery fills it in.",
            harmless(&row.synced_by)
        ),
        State::Erased => {
            format!(
                "erased{with}. An operator removed its content permanently; it counts as deleted at {at}."
            )
        }
        State::Deleted if row.has_content => {
            format!("deleted at {at}{with}. Its content is kept.")
        }
        State::Deleted => {
            format!("deleted at {at}{with}. No content is stored: it never arrived, or it was erased.")
        }
    }
}

fn meaning(column: &str) -> &'static str {
    match column {
        "created_at" | "updated_at" => "by Clerk's clock",
        "deleted_at" => "time of the deletion",
        "synced_at" => "when the row was last written here",
        "synced_by" => "what wrote its state: a delivery or a command",
        _ => "",
    }
}

fn list(text: &mut String, subject: &Subject, memberships: &Memberships) {
    let Memberships { listed, living, all, has_more } = memberships;
    let more = if *has_more { " or more" } else { "" };
    _ = writeln!(text, "\nMemberships: {} now, {}{more} in all", thousands(*living), thousands(*all));
    if listed.is_empty() {
        return;
    }
    let is_user = subject.resource.is_some_and(|resource| resource.table == "users");
    let other = if is_user { "  organization" } else { "  user" };
    let mut table = Table::new(&[other, "role", "since", "ended", "membership"]);
    for membership in listed {
        let Membership { id, organization_id, user_id, role, since, .. } = membership;
        let other = if is_user { organization_id } else { user_id };
        let or_none = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_owned());
        table.row([
            format!("  {}", or_none(other)),
            or_none(role),
            or_none(since),
            ended(membership),
            id.clone(),
        ]);
    }
    _ = write!(text, "{table}");
    if (listed.len() as u64) < *all {
        _ = writeln!(text, "  and {} more: raise --limit", thousands(*all - listed.len() as u64));
    }
}

fn ended(membership: &Membership) -> String {
    match (&membership.ended_at, &membership.ended_with) {
        (None, _) => "-".to_owned(),
        (Some(at), None) => at.clone(),
        (Some(at), Some(parent)) => format!("{at}, with its {}", kind(parent.resource)),
    }
}

fn deliveries(text: &mut String, history: &History) {
    if history.store.is_err() && history.subject.is_none() {
        _ = writeln!(text, "\nThe ledger entry: unknown. The store could not be read.");
    }
    if history.subject.is_some() && history.store.is_ok() {
        let omitted = if history.has_older { "; older ones are omitted: raise --limit" } else { "" };
        let number = many(history.deliveries.len() as u64, "entry");
        _ = writeln!(text, "\nApplied deliveries, oldest first ({number} in the ledger{omitted})");
    }
    for applied in &history.deliveries {
        delivery(text, applied, history.subject.is_none());
    }
    if !history.deliveries.is_empty() && !history.notes.is_empty() {
        text.push('\n');
    }
    for note in &history.notes {
        _ = writeln!(text, "  {note}");
    }
}

fn delivery(text: &mut String, applied: &AppliedDelivery, with_subject: bool) {
    let (id, event_type) = (harmless(applied.id.as_str()), harmless(&applied.event_type));
    _ = writeln!(text, "\n  {event_type} ({id}): {}", applied.outcome);
    if let Some(subject) = applied.subject_id.as_ref().filter(|_| with_subject) {
        let subject = harmless(subject);
        _ = writeln!(text, "    It is about {subject}; all about it: rollbook explain {subject}");
    }
    let event = if applied.run.is_some() { "read at Clerk" } else { "event" };
    _ = writeln!(text, "    {event:<16}{}", applied.event_at);
    let attempt = match applied.attempts {
        _ if applied.run.is_some() => String::new(),
        0 | 1 => ", at the first attempt".to_owned(),
        more => format!(", at attempt {more}"),
    };
    if applied.run.is_none() {
        let received = later(applied.received_after_ms);
        _ = writeln!(text, "    received        {}, {received}", applied.received_at);
    }
    let after = later(applied.applied_after_ms);
    _ = writeln!(text, "    applied         {}, {after}{attempt}", applied.applied_at);
    for sentence in &applied.reason.sentences {
        _ = writeln!(text, "    {}", harmless(sentence));
    }
}

fn waiting_for_operator(held: &[HeldSubject]) -> String {
    let mut text = String::new();
    for HeldSubject { run, table, kind, noted_at, fix } in held {
        let found = if *kind == Drift::NotDeleted.as_str() {
            format!("does not have it any more. Its deletion from {table} is held")
        } else {
            format!("has it, and its row in {table} is deleted")
        };
        let (run, fix) = (harmless(run), harmless(fix));
        _ = writeln!(
            text,
            "\nReconciliation {run} found at {noted_at} that Clerk {found}, and waits for you: {fix}"
        );
    }
    text
}

fn later(millis: i64) -> String {
    let after = span(millis);
    if millis < 0 { format!("{after} earlier (the clocks differ)") } else { format!("{after} later") }
}

fn queue(text: &mut String, history: &History, queued: &Queued, now: Timestamp) {
    if history.subject.is_some() {
        let scanned = many(queued.scanned, "message");
        let end = if queued.is_cut_short { "not the whole queue; raise --scan" } else { "the whole queue" };
        _ = writeln!(text, "\nIn the queue about it ({scanned} read, {end})");
        if !queued.has_something() {
            _ = writeln!(text, "  nothing");
        }
    }
    for message in &queued.messages {
        waiting(text, message, now);
    }
    for letter in &queued.dead_letters {
        dead_letter(text, letter);
    }
    for record in &queued.discards {
        discarded(text, record);
    }
    if queued.omitted > 0 {
        _ = writeln!(text, "  and {} more: raise --limit", many(queued.omitted, "message"));
    }
    if !queued.of_children.is_empty() {
        let types = queued.of_children.iter().map(|(event_type, number)| format!("{number} {event_type}"));
        let types = harmless(&types.collect::<Vec<_>>().join(", "));
        _ = writeln!(text, "  Also about objects that belong to it: {types}");
    }
}

fn waiting(text: &mut String, message: &Message, now: Timestamp) {
    let Message { id, event_type, state, received_at, traceparent, attempts } = message;
    let tries = many(u64::from(*attempts), "attempt");
    let state = match state {
        MessageState::Waiting if *attempts == 0 => "It waits for a worker; no attempt yet".to_owned(),
        MessageState::Waiting => format!("It waits for a worker; {tries} so far"),
        MessageState::Delayed { until } if *attempts == 0 => format!("It is not due before {until}"),
        MessageState::Delayed { until } => format!(
            "It failed; the next attempt is at {until}, in {}; {tries} so far. The queue does not store the reason: \
             search the workers' logs for this svix-id",
            span(until.as_millis().saturating_sub(now.as_millis()))
        ),
        MessageState::Leased { until } => {
            format!("Leased by a worker until {until} at the latest; {tries} before")
        }
    };
    _ = writeln!(text, "\n  {} ({}): not applied yet", type_of(event_type.as_deref()), harmless(id.as_str()));
    received(text, *received_at, *traceparent);
    _ = writeln!(text, "    {state}.");
}

fn received(text: &mut String, at: Timestamp, traceparent: Option<Traceparent>) {
    _ = writeln!(text, "    received        {at}");
    if let Some(traceparent) = traceparent {
        _ = writeln!(text, "    trace           {}", traceparent.trace_id());
    }
}

fn dead_letter(text: &mut String, letter: &DeadMessage) {
    let DeadMessage { id, event_type, reason, detail, received_at, traceparent, parked_at, attempts } =
        letter;
    let id = harmless(id.as_str());
    let tries = many(u64::from(*attempts), "attempt");
    _ = writeln!(text, "\n  {} ({id}): dead letter", type_of(event_type.as_deref()));
    received(text, *received_at, *traceparent);
    _ = writeln!(text, "    dead letter     {parked_at}, after {tries}");
    _ = writeln!(text, "    Reason: {reason}: {}", harmless(detail));
    _ = writeln!(text, "    When this is fixed: rollbook dead-letters redrive {id}");
}

fn discarded(text: &mut String, record: &DiscardedMessage) {
    let DiscardedMessage { discarded_at, parked_at, event_type, reason, detail, attempts } = record;
    let tries = many(u64::from(*attempts), "attempt");
    _ = writeln!(text, "\n  {}: discarded by an operator", type_of(event_type.as_deref()));
    _ = writeln!(text, "    dead letter     {parked_at}, after {tries}");
    _ = writeln!(text, "    discarded       {discarded_at}");
    _ = writeln!(text, "    Reason: {reason}: {}", harmless(detail));
}

fn type_of(event_type: Option<&str>) -> String {
    harmless(event_type.unwrap_or("an event of unknown type"))
}
