//! The reason for what a delivery did, in words.

use rollbook_core::catalog::{RESOURCES, find_event};

use super::why::{Told, Why};
use crate::words::{kind, span};

/// Tables in which an application may make a row before its first delivery (`ensure_user`, `ensure_organization`).
const PLACEHOLDERS: [&str; 2] = ["users", "organizations"];

impl Why {
    /// A short name, for programs.
    pub(super) const fn code(&self) -> &'static str {
        match self {
            Self::First => "first",
            Self::Newer => "newer",
            Self::FillsIn => "fills_in",
            Self::Ends => "ends",
            Self::EndsLater => "ends_later",
            Self::Older { .. } => "older",
            Self::Removed { .. } => "removed",
            Self::Same { .. } => "same",
            Self::NoTable => "no_table",
            Self::NeverKept => "never_stored",
            Self::EarlierLife => "earlier_life",
            Self::NoTime => "no_time",
        }
    }
}

impl Told {
    /// What it did and why, in sentences.
    pub(super) fn sentences(&self) -> Vec<String> {
        let mut sentences = vec![self.reason()];
        if self.is_last {
            sentences.push("The row is as this delivery left it.".to_owned());
        }
        if self.is_gone && matches!(self.why, Why::First | Why::Newer | Why::FillsIn) {
            sentences.push("The row shows nothing of it: its content is removed for good.".to_owned());
        }
        sentences
    }

    fn reason(&self) -> String {
        let resource = find_event(&self.line.event_type).map(|(resource, _)| resource);
        let what = resource.map_or("row".to_owned(), kind);
        match &self.why {
            // The ledger does not say which: ensure_user and ensure_organization write no line of it.
            Why::First if resource.is_some_and(|one| PLACEHOLDERS.contains(&one.table)) => {
                format!("It brought the first content of the {what}: it made the row, or filled its placeholder.")
            }
            Why::First => "It made the row.".to_owned(),
            Why::Newer => "It is newer than what the row had, and changed it.".to_owned(),
            Why::FillsIn => format!(
                "The {what} was deleted already. This tells, newer than anything before, what it was like; it stays \
                 deleted."
            ),
            Why::Ends => format!("It says that the {what} is gone.{}", self.ends_too()),
            Why::EndsLater => format!(
                "The {what} was deleted already; by this it was so later, and deleted_at is the later time now."
            ),
            Why::Older { .. } => self.older(&what),
            Why::Removed { by } => {
                let by = by.as_ref().map(|by| format!(" ({by})")).unwrap_or_default();
                format!(
                    "The {what} is deleted{by}, and what it was like has been removed for good: nothing brings it \
                     back. Nothing changed."
                )
            }
            Why::Same { like, is_end } => {
                let like = like.as_ref().map(|like| format!(" ({like} had said the same)")).unwrap_or_default();
                let known = if *is_end { "that it ended at this moment was known" } else { "exactly this had been applied" };
                format!("A duplicate: {known} already{like}. Nothing changed.")
            }
            Why::NoTable => "No table is for events of this type: nothing is kept of it but this line.".to_owned(),
            Why::NeverKept => {
                "It holds a message to a person, often a one-time password: nothing is kept of it but this line."
                    .to_owned()
            }
            Why::EarlierLife => format!(
                "Clerk made it before the {what} was erased here: what is from then is ignored for good."
            ),
            Why::NoTime => "Its time is 1970, before anything that happened at Clerk: it is ignored.".to_owned(),
        }
    }

    fn older(&self, what: &str) -> String {
        let Why::Older { than, is_end } = &self.why else { return String::new() };
        let known = if *is_end { "a later end of it" } else { "something newer" };
        let Some(rival) = than else {
            return format!(
                "It came too late: of this {what} {known} was known already, by a delivery that is not among these \
                 lines. Nothing changed."
            );
        };
        let than = match rival.made_later_by {
            1.. => format!("Clerk made {} {} after it", rival.id, span(rival.made_later_by)),
            0 => format!("Clerk made {} at the same moment, and counts it as the later one", rival.id),
            _ => format!("Clerk made {} before it, but with a later updated_at", rival.id),
        };
        format!(
            "It came too late: of this {what} {known} was known already. {than}, and that was applied at {}. Nothing \
             changed.",
            rival.applied_at
        )
    }

    /// What ended with it.
    fn ends_too(&self) -> String {
        let Some((parent, _)) = find_event(&self.line.event_type) else { return String::new() };
        let ends = |link: &rollbook_core::catalog::Link| link.cascades && link.parent == parent;
        let tables: Vec<&str> = RESOURCES
            .into_iter()
            .filter(|resource| resource.links.iter().any(ends))
            .map(|resource| resource.table)
            .collect();
        if tables.is_empty() {
            return String::new();
        }
        format!(" What hangs on it shows deleted_at too, whenever it comes: {}.", tables.join(", "))
    }
}
