//! Cause of a delivery's outcome as a short name and as text. Both are part of the JSON.

use rollbook_core::catalog::RESOURCES;
use rollbook_core::change::Applied;

use super::cause::{Cause, Explained};
use super::reading::{run_of, subject_of};
use crate::words::{kind, span};

/// Tables with placeholder rows (`ensure_user`, `ensure_organization`).
const PLACEHOLDERS: [&str; 2] = ["users", "organizations"];

impl Cause {
    /// Returns the stable name used in JSON.
    pub(super) const fn code(&self) -> &'static str {
        match self {
            Self::First => "first",
            Self::Newer => "newer",
            Self::FillsIn => "fills_in",
            Self::Deletes => "ends",
            Self::DeletesLater => "ends_later",
            Self::Older { .. } => "older",
            Self::Removed { .. } => "removed",
            Self::Same { .. } => "same",
            Self::Reconciled(_) => "reconciled",
            Self::NoTable => "no_table",
            Self::NeverStored => "never_stored",
            Self::BeforeErasure => "earlier_life",
            Self::NoTime => "no_time",
        }
    }
}

impl Explained {
    /// Returns what the delivery did and why, as sentences.
    pub(super) fn sentences(&self) -> Vec<String> {
        let mut sentences = vec![self.reason()];
        if self.is_last {
            sentences.push("No later delivery has changed the row.".to_owned());
        }
        if self.is_gone && matches!(self.cause, Cause::First | Cause::Newer | Cause::FillsIn) {
            sentences.push("The row does not show its content: the content was erased.".to_owned());
        }
        sentences
    }

    fn reason(&self) -> String {
        let resource = subject_of(&self.entry).map(|(resource, _)| resource);
        let what = resource.map_or("row".to_owned(), kind);
        match &self.cause {
            // The ledger does not show which: ensure_user and ensure_organization write no entry.
            Cause::First if resource.is_some_and(|one| PLACEHOLDERS.contains(&one.table)) => {
                format!("First content of the {what}: it created the row or filled its placeholder.")
            }
            Cause::First => "It created the row.".to_owned(),
            Cause::Newer => "It is newer than the content of the row and replaced it.".to_owned(),
            Cause::FillsIn => format!(
                "The {what} was already deleted. This is newer content than the row had and was stored; the {what} stays \
                 deleted."
            ),
            Cause::Deletes => format!("It deleted the {what}.{}", self.cascade()),
            Cause::DeletesLater => format!(
                "The {what} was already deleted. This event has a later deletion time, so deleted_at moved forward."
            ),
            Cause::Older { .. } => self.older(&what),
            Cause::Removed { by } => {
                let by = by.as_ref().map(|by| format!(" ({by})")).unwrap_or_default();
                format!(
                    "The {what} is deleted{by} and its content was erased; no delivery restores it. Nothing changed."
                )
            }
            Cause::Same { like, is_deletion } => {
                let like = like.as_ref().map(|like| format!(" (by {like})")).unwrap_or_default();
                let known = if *is_deletion { "this deletion was" } else { "the same content was" };
                format!("Duplicate: {known} already applied{like}. Nothing changed.")
            }
            Cause::Reconciled(reading) => {
                let cascade = if self.entry.outcome == Applied::Deleted { self.cascade() } else { String::new() };
                format!("{}{cascade}", reading.sentence(self.entry.outcome, &what))
            }
            Cause::NoTable => "No table stores events of this type: only this ledger entry is kept.".to_owned(),
            Cause::NeverStored => {
                "It contains a message to a person, often a one-time password: only this ledger entry is kept."
                    .to_owned()
            }
            Cause::BeforeErasure => format!(
                "The event is from before the {what} was erased here: such events are ignored."
            ),
            Cause::NoTime => "Its event time is 1970 or earlier, which is not valid: it is ignored.".to_owned(),
        }
    }

    fn older(&self, what: &str) -> String {
        let Cause::Older { than, is_deletion } = &self.cause else { return String::new() };
        let known = if *is_deletion { "a later deletion" } else { "newer content" };
        let Some(competitor) = than else {
            return format!(
                "It arrived late: {known} of this {what} was already applied, by a delivery that is not among these \
                 entries. Nothing changed."
            );
        };
        if let Some((run, _)) = run_of(competitor.id.as_str()) {
            return format!(
                "It arrived late: reconciliation {run} had read {known} of this {what} at Clerk, applied at {}. \
                 Nothing changed.",
                competitor.applied_at
            );
        }
        let than = match competitor.made_later_by {
            1.. => format!("{} was made by Clerk {} later", competitor.id, span(competitor.made_later_by)),
            0 => format!("{} was made by Clerk at the same time and counts as the later one", competitor.id),
            _ => format!("{} was made by Clerk earlier, but has a later updated_at", competitor.id),
        };
        format!(
            "It arrived late: {known} of this {what} was already applied. {than}, and was applied at {}. Nothing \
             changed.",
            competitor.applied_at
        )
    }

    /// Names the tables of the cascade.
    fn cascade(&self) -> String {
        let Some((parent, _)) = subject_of(&self.entry) else { return String::new() };
        let cascades = |link: &rollbook_core::catalog::Link| link.cascades && link.parent == parent;
        let tables: Vec<&str> = RESOURCES
            .into_iter()
            .filter(|resource| resource.links.iter().any(cascades))
            .map(|resource| resource.table)
            .collect();
        if tables.is_empty() {
            return String::new();
        }
        format!(" Its child rows are deleted too, also those that arrive later: {}.", tables.join(", "))
    }
}
