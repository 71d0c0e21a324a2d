//! A change: what one delivery says about one subject, at one version.

use std::fmt;

use crate::catalog::{LINKS_MAX, Resource};
use crate::delivery::MessageId;
use crate::time::Timestamp;

/// The total order of the changes of one subject, compared from left to right. It is a pure function
/// of the signed body: no clock of ours and no time of delivery has a part in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version {
    /// Whether the subject is deleted. First, so that it absorbs: Clerk never reuses an id, and no
    /// late update brings a deleted user back, whatever its times say.
    pub dead: bool,
    /// `data.updated_at`, or the event's time without it; zero for a delete. Milliseconds.
    pub updated_at: i64,
    /// The event's own time (`timestamp` of the envelope). Milliseconds.
    pub event_at: i64,
    /// 128 bits over the stored content; zero for a delete. Equal versions mean equal content.
    pub hash: [u8; 16],
}

/// What one delivery means for the tables.
#[derive(Clone, Debug, PartialEq)]
pub struct Change {
    /// Where it comes from.
    pub origin: Origin,
    /// What it does.
    pub effect: Effect,
}

/// Where a change comes from: what the ledger keeps of a delivery.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// The `svix-id`.
    pub message_id: MessageId,
    /// The event's type.
    pub event_type: String,
    /// The event's own time.
    pub event_at: Timestamp,
    /// When the receiver had read the delivery.
    pub received_at: Timestamp,
    /// How often the message has been leased.
    pub attempt: u32,
}

/// What a change does.
#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    /// Nothing but a line in the ledger: the type is not in the catalog, or its content is never kept.
    Ignore {
        /// Whose event it is, where that is known and may be kept.
        subject_id: Option<String>,
    },
    /// The subject looks like this, or is gone.
    Merge(Box<Assertion>),
}

/// What a change asserts about its subject.
#[derive(Clone, Debug, PartialEq)]
pub struct Assertion {
    /// The kind of subject: its table.
    pub resource: &'static Resource,
    /// Clerk's id.
    pub id: String,
    /// The place among the subject's changes.
    pub version: Version,
    /// The content; `None` where the subject is deleted.
    pub row: Option<Row>,
}

impl Assertion {
    /// The id of each parent that the content names, in the order of the resource's links.
    pub fn parents(&self) -> [Option<&str>; LINKS_MAX] {
        let mut ids = [None; LINKS_MAX];
        if let Some(row) = &self.row {
            for (id, link) in ids.iter_mut().zip(self.resource.links) {
                let columns = self.resource.columns.iter().zip(&row.values);
                *id = columns
                    .filter(|(column, _)| column.name == link.column)
                    .find_map(|(_, value)| value.text());
            }
        }
        ids
    }
}

/// The content of a living row.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// One value for each of the resource's columns, in their order.
    pub values: Vec<Field>,
    /// `data.created_at`.
    pub created_at: Option<Timestamp>,
    /// `data.updated_at`.
    pub updated_at: Option<Timestamp>,
    /// The whole object as JSON, with sorted keys and no white space.
    pub data: String,
}

/// A value of a typed column.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Field {
    /// Nothing there, or nothing that fits the column.
    Null,
    /// Text without NUL.
    Text(String),
    /// A whole number.
    Integer(i64),
    /// Yes or no.
    Bool(bool),
    /// A moment.
    Time(Timestamp),
    /// JSON, with sorted keys and no white space.
    Json(String),
}

impl Field {
    /// The text, where it is one.
    pub fn text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            _ => None,
        }
    }
}

impl Change {
    /// Whose row the change is about, where that is known.
    pub fn subject_id(&self) -> Option<&str> {
        match &self.effect {
            Effect::Ignore { subject_id } => subject_id.as_deref(),
            Effect::Merge(assertion) => Some(&assertion.id),
        }
    }

    /// The name of the table, for metrics; `none` where there is none.
    pub fn resource_name(&self) -> &'static str {
        match &self.effect {
            Effect::Ignore { .. } => "none",
            Effect::Merge(assertion) => assertion.resource.table,
        }
    }
}

/// What a change did.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Applied {
    /// The first that is known of its subject.
    Inserted,
    /// Newer than what was known.
    Updated,
    /// The subject is deleted now.
    Deleted,
    /// Older than what is known: nothing changed.
    Stale,
    /// Exactly what is known already: nothing changed.
    Unchanged,
    /// Of no table, or of an earlier life of the subject: nothing changed.
    Ignored,
}

impl Applied {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::Inserted, Self::Updated, Self::Deleted, Self::Stale, Self::Unchanged, Self::Ignored];

    /// Whether anything is written.
    pub const fn advances(self) -> bool {
        matches!(self, Self::Inserted | Self::Updated | Self::Deleted)
    }

    /// The name used in the ledger and in metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Inserted => "inserted",
            Self::Updated => "updated",
            Self::Deleted => "deleted",
            Self::Stale => "stale",
            Self::Unchanged => "unchanged",
            Self::Ignored => "ignored",
        }
    }

    /// The outcome with this name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|applied| applied.as_str() == name)
    }
}

impl fmt::Display for Applied {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
