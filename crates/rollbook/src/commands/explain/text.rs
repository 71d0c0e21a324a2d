//! A story as text.

use std::fmt::Write as _;

use rollbook_core::queue::MessageState;
use rollbook_core::time::Timestamp;
use rollbook_core::trace::Traceparent;
use serde_json::Value;

use super::cascades;
use super::queue::{Parked, Seen, Waiting};
use super::row::{Membership, Row, State};
use super::story::{Ledger, Memberships, Story, Subject};
use super::why::Told;
use crate::output::{Table, harmless, thousands};
use crate::words::{a_kind, kind, many, span};

/// The whole story.
pub(super) fn tell(story: &Story) -> String {
    let mut text = String::new();
    match &story.subject {
        Some(subject) => {
            _ = writeln!(text, "{}", heading(&story.id, subject));
            row(&mut text, subject);
            if let Some(memberships) = subject.memberships.as_ref().filter(|_| story.knows_something()) {
                list(&mut text, subject, memberships);
            }
        }
        None => _ = writeln!(text, "{}: a delivery, by its svix-id", harmless(&story.id)),
    }
    deliveries(&mut text, story);
    text.push_str(&cascades::text(&story.cascades, story.subject_id()));
    match &story.queue {
        Ok(seen) => queue(&mut text, story, seen),
        Err(why) => _ = writeln!(text, "\nWhat is in the queue is not known: {}", harmless(why)),
    }
    if !story.knows_something() {
        text.push('\n');
        for line in meanings(story) {
            _ = writeln!(text, "{line}");
        }
    }
    text
}

fn heading(id: &str, subject: &Subject) -> String {
    let id = harmless(id);
    match subject.resource {
        Some(resource) => format!("{id}: {} (table {})", a_kind(resource), resource.table),
        None => format!("{id}: nothing here tells what it is"),
    }
}

fn row(text: &mut String, subject: &Subject) {
    let Some(row) = &subject.row else {
        _ = writeln!(text, "\nThe row: there is none. Nothing that has been applied so far made one.");
        return;
    };
    _ = writeln!(text, "\nThe row: {}", state(row));
    let mut table = Table::new(&[]);
    for (name, value) in &row.columns {
        let said = match value {
            Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        table.row([format!("  {name}"), said, meaning(name).to_owned()]);
    }
    text.push_str(table.to_string().trim_start_matches('\n'));
}

/// How the row is, in a sentence.
pub(super) fn state(row: &Row) -> String {
    let at = row.deleted_at.as_deref().unwrap_or_default();
    let with = match &row.ended_with {
        Some((parent, id)) => format!(" with the {} {} that it belongs to", kind(parent), harmless(id)),
        None => String::new(),
    };
    match row.state {
        State::Alive => "alive.".to_owned(),
        State::Place => format!(
            "only a place, made by {} for an application; the first delivery fills it in.",
            harmless(&row.synced_by)
        ),
        State::Erased => {
            format!(
                "erased{with}. An operator had its content removed for good; it counts as deleted at {at}."
            )
        }
        State::Deleted if row.has_content => {
            format!("deleted at {at}{with}. What it was like is kept.")
        }
        State::Deleted => {
            format!("deleted at {at}{with}. No content is stored: it never arrived, or it was erased.")
        }
    }
}

fn meaning(column: &str) -> &'static str {
    match column {
        "created_at" | "updated_at" => "by Clerk's clock",
        "deleted_at" => "since then it counts as deleted",
        "synced_at" => "when the row was last written here",
        "synced_by" => "what wrote its state: a delivery, or an operator's command",
        _ => "",
    }
}

fn list(text: &mut String, subject: &Subject, memberships: &Memberships) {
    let Memberships { listed, living, all, has_more } = memberships;
    let more = if *has_more { " or more" } else { "" };
    _ = writeln!(text, "\nMemberships: {} now, {}{more} ever", thousands(*living), thousands(*all));
    if listed.is_empty() {
        return;
    }
    let is_user = subject.resource.is_some_and(|resource| resource.table == "users");
    let other = if is_user { "  organization" } else { "  user" };
    let mut table = Table::new(&[other, "role", "since", "ended", "membership"]);
    for membership in listed {
        let Membership { id, organization_id, user_id, role, since, row } = membership;
        let other = if is_user { organization_id } else { user_id };
        let or_none = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_owned());
        table.row([format!("  {}", or_none(other)), or_none(role), or_none(since), ended(row), id.clone()]);
    }
    _ = write!(text, "{table}");
    if (listed.len() as u64) < *all {
        _ = writeln!(text, "  and {} more: raise --limit", thousands(*all - listed.len() as u64));
    }
}

fn ended(row: &Row) -> String {
    match (&row.deleted_at, &row.ended_with) {
        (None, _) => "-".to_owned(),
        (Some(at), None) => at.clone(),
        (Some(at), Some((parent, _))) => format!("{at}, with its {}", kind(parent)),
    }
}

fn deliveries(text: &mut String, story: &Story) {
    if story.subject.is_some() {
        let left_out = if story.has_older { "; older ones are left out: raise --limit" } else { "" };
        let number = many(story.deliveries.len() as u64, "line");
        _ = writeln!(text, "\nWhat was applied, the oldest first ({number} in the ledger{left_out})");
    }
    for told in &story.deliveries {
        delivery(text, told, story.subject.is_none());
    }
    let notes = notes(story);
    if !story.deliveries.is_empty() && !notes.is_empty() {
        text.push('\n');
    }
    for note in notes {
        _ = writeln!(text, "  {note}");
    }
}

fn delivery(text: &mut String, told: &Told, with_subject: bool) {
    let line = &told.line;
    let (id, event_type) = (harmless(line.message_id.as_str()), harmless(&line.event_type));
    _ = writeln!(text, "\n  {event_type} ({id}): {}", line.outcome);
    if let Some(subject) = line.subject_id.as_ref().filter(|_| with_subject) {
        let subject = harmless(subject);
        _ = writeln!(text, "    It is about {subject}; its whole story: rollbook explain {subject}");
    }
    _ = writeln!(text, "    Clerk made it   {}", line.event_at);
    _ = writeln!(
        text,
        "    it came         {}, {}",
        line.received_at,
        later(line.event_at, line.received_at)
    );
    let tries = match line.attempts {
        0 | 1 => "at the first try".to_owned(),
        more => format!("at try {more}"),
    };
    let applied = later(line.received_at, line.applied_at);
    _ = writeln!(text, "    it was applied  {}, {applied}, {tries}", line.applied_at);
    for sentence in told.sentences() {
        _ = writeln!(text, "    {}", harmless(&sentence));
    }
}

fn later(from: Timestamp, to: Timestamp) -> String {
    let millis = to.as_millis().saturating_sub(from.as_millis());
    let told = span(millis);
    if millis < 0 { format!("{told} earlier (two clocks differ)") } else { format!("{told} later") }
}

/// What the ledger can't tell.
pub(super) fn notes(story: &Story) -> Vec<String> {
    let Ledger { is_on, kept_for } = story.ledger;
    let mut notes = Vec::new();
    if !is_on {
        notes.push(
            "The ledger is off (ledger = no): what comes leaves no line, so nothing tells what came."
                .to_owned(),
        );
    }
    if !story.cascades.is_empty() {
        notes.push(story.cascades.note(story.subject_id()));
    }
    if story.subject.is_none() {
        return notes;
    }
    if !story.deliveries.is_empty() {
        notes.push("A delivery that comes again under the same svix-id has no line of its own.".to_owned());
    }
    if let Some(kept_for) = kept_for {
        let kept_for = span(i64::try_from(kept_for.as_millis()).unwrap_or(i64::MAX));
        notes.push(format!(
            "Lines are kept for {kept_for} (ledger_kept_for): what was applied before that is not told."
        ));
    }
    if story.subject.as_ref().is_some_and(Subject::is_erased) {
        notes.push("Lines from before it was erased are gone with it.".to_owned());
    }
    notes
}

fn queue(text: &mut String, story: &Story, seen: &Seen) {
    if story.subject.is_some() {
        let looked_at = many(seen.looked_at, "message");
        let end = if seen.is_cut_short {
            "and not to the end: there may be more; raise --scan"
        } else {
            "all there are"
        };
        _ = writeln!(text, "\nWhat is in the queue about it ({looked_at} looked at, {end})");
        if !seen.has_something() {
            _ = writeln!(text, "  nothing");
        }
    }
    for message in &seen.messages {
        waiting(text, message, story.now);
    }
    for letter in &seen.dead_letters {
        parked(text, letter);
    }
    if seen.untold > 0 {
        _ = writeln!(text, "  and {} more: raise --limit", many(seen.untold, "message"));
    }
    if !seen.of_its_own.is_empty() {
        let types = seen.of_its_own.iter().map(|(event_type, number)| format!("{number} {event_type}"));
        let types = harmless(&types.collect::<Vec<_>>().join(", "));
        _ = writeln!(text, "  Beside that, about what belongs to it: {types}");
    }
}

fn waiting(text: &mut String, message: &Waiting, now: Timestamp) {
    let Waiting { id, event_type, state, received_at, traceparent, attempts } = message;
    let tries = many(u64::from(*attempts), "try");
    let state = match state {
        MessageState::Waiting if *attempts == 0 => "It waits for a worker; none has tried it yet".to_owned(),
        MessageState::Waiting => format!("It waits for a worker; {tries} so far"),
        MessageState::Delayed { until } if *attempts == 0 => format!("It is not due before {until}"),
        MessageState::Delayed { until } => format!(
            "It failed, and waits for its next try until {until}, in {}; {tries} so far. The queue does not keep the \
             reason: the worker's log has it, with this svix-id",
            span(until.as_millis().saturating_sub(now.as_millis()))
        ),
        MessageState::Leased { until } => {
            format!("A worker has it, until {until} at the latest; {tries} before")
        }
    };
    _ = writeln!(text, "\n  {} ({}): not applied yet", type_of(event_type.as_deref()), harmless(id.as_str()));
    came(text, *received_at, *traceparent);
    _ = writeln!(text, "    {state}.");
}

fn came(text: &mut String, at: Timestamp, traceparent: Option<Traceparent>) {
    _ = writeln!(text, "    it came         {at}");
    if let Some(traceparent) = traceparent {
        _ = writeln!(text, "    in the trace    {}", traceparent.trace_id());
    }
}

fn parked(text: &mut String, letter: &Parked) {
    let Parked { id, event_type, reason, detail, received_at, traceparent, at, attempts } = letter;
    let id = harmless(id.as_str());
    let tries = many(u64::from(*attempts), "try");
    _ = writeln!(text, "\n  {} ({id}): parked as a dead letter", type_of(event_type.as_deref()));
    came(text, *received_at, *traceparent);
    _ = writeln!(text, "    it was parked   {at}, after {tries}");
    _ = writeln!(text, "    Why: {reason}: {}", harmless(detail));
    _ = writeln!(text, "    Once that is fixed: rollbook dead-letters redrive {id}");
}

fn type_of(event_type: Option<&str>) -> String {
    harmless(event_type.unwrap_or("an event of unknown type"))
}

/// What it can mean that nobody has heard of it.
pub(super) fn meanings(story: &Story) -> Vec<String> {
    let dashboard = "Clerk's dashboard, Webhooks, shows under the endpoint's message attempts";
    if story.subject.is_some() {
        return vec![
            "It is not known here. That can mean:".to_owned(),
            format!("- No delivery about it has come. {dashboard} what was sent, and what was answered."),
            "- It is of another Clerk instance than the one that sends its events here, or mistyped."
                .to_owned(),
            "- Clerk sends no events about it: it is older than the endpoint, or these are not subscribed."
                .to_owned(),
        ];
    }
    let mut meanings = vec![
        "It is not known here. That can mean:".to_owned(),
        format!(
            "- It never arrived. {dashboard} whether it was sent and what was answered, and can send it again."
        ),
    ];
    if let Some(kept_for) = story.ledger.kept_for.filter(|_| story.ledger.is_on) {
        let kept_for = span(i64::try_from(kept_for.as_millis()).unwrap_or(i64::MAX));
        meanings.push(format!(
            "- It was applied longer ago than the ledger keeps a line: {kept_for} (ledger_kept_for)."
        ));
    }
    meanings.push("- It was discarded, or its line was erased with the person whom it was about.".to_owned());
    meanings.push("- It came to another installation, with another queue and store than these.".to_owned());
    meanings
}
