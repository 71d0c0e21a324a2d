//! Sentences about the limits of a history. They are part of the JSON.

use super::history::History;
use crate::words::duration;

/// Returns what the ledger does not show.
pub(super) fn notes(history: &History) -> Vec<String> {
    let mut notes = Vec::new();
    if !history.ledger.is_on {
        notes.push("The ledger is off (ledger = no): applied deliveries leave no entry.".to_owned());
    }
    if !history.pending.is_empty() {
        notes.push(history.pending.note(history.subject_id()));
    }
    let Some(subject) = history.subject.as_ref().filter(|_| history.store.is_ok()) else { return notes };
    if !history.deliveries.is_empty() {
        notes.push("A repeated delivery with the same svix-id has no entry of its own.".to_owned());
    }
    if let Some(kept_for) = history.ledger.kept_for {
        notes.push(format!(
            "Entries are kept for {} (ledger_kept_for): older deliveries are not shown.",
            duration(kept_for)
        ));
    }
    if subject.is_erased() {
        notes.push("Entries from before the erasure were removed with it.".to_owned());
    }
    notes
}

/// Returns possible causes of an id that is unknown.
pub(super) fn meanings(history: &History) -> Vec<String> {
    let dashboard = "Clerk's dashboard, Webhooks, shows under the endpoint's message attempts";
    let mut meanings = vec!["It is not known here. Possible causes:".to_owned()];
    if history.subject.is_some() {
        meanings.extend([
            format!("- No delivery about it has arrived. {dashboard} what was sent and how it was answered."),
            "- It belongs to another Clerk instance than the one that sends its events here, or it is mistyped.".to_owned(),
            "- Clerk has sent no events about it: it is older than the endpoint, or its events are not subscribed. rollbook \
             reconcile reads everything at Clerk, rollbook resync a single user or organization."
                .to_owned(),
        ]);
        return meanings;
    }
    meanings.push(format!(
        "- It never arrived. {dashboard} whether it was sent and how it was answered, and can send it again."
    ));
    if let Some(kept_for) = history.ledger.kept_for.filter(|_| history.ledger.is_on) {
        meanings.push(format!(
            "- It was applied longer ago than the ledger keeps an entry: {} (ledger_kept_for).",
            duration(kept_for)
        ));
    }
    meanings.push("- It was discarded, or its entry was removed when its subject was erased.".to_owned());
    meanings.push("- It arrived at another installation, with another queue and store.".to_owned());
    meanings
}
