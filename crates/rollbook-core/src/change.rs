//! A change: what one delivery, or one reading of Clerk's API, says about one subject, at one version.

use crate::catalog::{LINKS_MAX, Resource};
use crate::delivery::MessageId;
use crate::drift::Drift;
use crate::time::Timestamp;

/// Total order of the changes of one subject, compared field by field. It is a pure function of the signed
/// body: neither Rollbook's clock nor the time of delivery has an influence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version {
    /// Whether the subject is deleted. First in the order, so that a deletion wins over every update: Clerk
    /// never reuses an id, and no late update restores a deleted user, whatever its timestamps say.
    pub is_deleted: bool,
    /// `data.updated_at`, or the event time if it is missing; zero for a delete. Milliseconds.
    pub updated_at: i64,
    /// Event time: `timestamp` of the envelope. Milliseconds.
    pub event_at: i64,
    /// Hash of the stored content, 128 bits; zero for a delete. Equal versions mean equal content.
    pub hash: [u8; 16],
}

/// Effect of one delivery or reading on the tables.
#[derive(Clone, Debug, PartialEq)]
pub struct Change {
    /// Source of the change.
    pub origin: Origin,
    /// Effect of the change.
    pub effect: Effect,
}

/// Source of a change: the part of it that the ledger stores.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A webhook of Clerk, delivered by Svix.
    Delivery {
        /// Message id (`svix-id`).
        message_id: MessageId,
        /// Event type.
        event_type: String,
        /// Event time.
        event_at: Timestamp,
        /// Time at which the receiver had read the delivery.
        received_at: Timestamp,
        /// Number of times the message has been leased.
        attempt: u32,
    },
    /// A reading of Clerk's API.
    Reconcile {
        /// Key of the ledger entry: `reconcile:`, the run, the table and the subject's id.
        entry_id: MessageId,
        /// The run.
        run: String,
        /// Whether the resource has had no complete walk before this run.
        is_backfill: bool,
        /// Reason for the change.
        cause: Drift,
        /// Time of the observation; the event time of its version.
        read_at: Timestamp,
    },
}

impl Origin {
    /// Value of `synced_by` in rows that a reading of Clerk's API wrote.
    pub const RECONCILE: &str = "reconcile";

    /// Creates the origin of a change that the reconciliation `run` makes to one subject.
    pub fn reconcile(run: &str, subject: &SubjectChange, cause: Drift, read_at: Timestamp) -> Self {
        let id = format!("{}:{run}:{}:{}", Self::RECONCILE, subject.resource.table, subject.id);
        let (entry_id, run) = (MessageId::new(id), run.to_owned());
        Self::Reconcile { entry_id, run, is_backfill: false, cause, read_at }
    }

    /// Returns the same origin, as part of a backfill or not.
    #[must_use]
    pub fn in_backfill(mut self, yes: bool) -> Self {
        if let Self::Reconcile { is_backfill, .. } = &mut self {
            *is_backfill = yes;
        }
        self
    }

    /// Returns the cause of its lines in the change feed: the `svix-id`, or the run.
    pub fn feed_cause(&self) -> &str {
        match self {
            Self::Delivery { message_id, .. } => message_id.as_str(),
            Self::Reconcile { run, .. } => run,
        }
    }

    /// Returns the key of the ledger entry: the message id of a delivery.
    pub const fn entry_id(&self) -> &MessageId {
        match self {
            Self::Delivery { message_id, .. } => message_id,
            Self::Reconcile { entry_id, .. } => entry_id,
        }
    }

    /// Returns the value of `synced_by` in the rows that the change writes.
    pub fn synced_by(&self) -> &str {
        match self {
            Self::Delivery { message_id, .. } => message_id.as_str(),
            Self::Reconcile { .. } => Self::RECONCILE,
        }
    }

    /// Returns the event type; of a reading, `reconcile.` and the kind of drift.
    pub fn event_type(&self) -> &str {
        match self {
            Self::Delivery { event_type, .. } => event_type,
            Self::Reconcile { cause, .. } => cause.event_type(),
        }
    }

    /// Returns the event time.
    pub const fn event_at(&self) -> Timestamp {
        match self {
            Self::Delivery { event_at, .. } => *event_at,
            Self::Reconcile { read_at, .. } => *read_at,
        }
    }

    /// Returns the time at which Rollbook had read the change.
    pub const fn received_at(&self) -> Timestamp {
        match self {
            Self::Delivery { received_at, .. } => *received_at,
            Self::Reconcile { read_at, .. } => *read_at,
        }
    }

    /// Returns the number of times the message has been leased; one for a reading.
    pub const fn attempt(&self) -> u32 {
        match self {
            Self::Delivery { attempt, .. } => *attempt,
            Self::Reconcile { .. } => 1,
        }
    }
}

/// Effect of a change.
#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    /// No effect except a ledger entry: the type is not in the catalog, or its content is never stored.
    Ignore {
        /// Id of the event's subject, if it is known and may be stored.
        subject_id: Option<String>,
    },
    /// The subject is created, updated or deleted.
    Merge(Box<SubjectChange>),
}

/// New state of a subject, according to one change.
#[derive(Clone, Debug, PartialEq)]
pub struct SubjectChange {
    /// Resource of the subject, and so its table.
    pub resource: &'static Resource,
    /// Clerk's id.
    pub id: String,
    /// Position in the order of the subject's changes.
    pub version: Version,
    /// Content; `None` if the subject is deleted.
    pub row: Option<Row>,
}

impl SubjectChange {
    /// Returns the id of each parent that the content names, in the order of the resource's links.
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

/// Content of a row that is not deleted.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// Values of the resource's columns, in the same order.
    pub values: Vec<Field>,
    /// `data.created_at`.
    pub created_at: Option<Timestamp>,
    /// `data.updated_at`.
    pub updated_at: Option<Timestamp>,
    /// The object as JSON, with sorted keys and without white space.
    pub data: String,
}

/// Value of a typed column.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Field {
    /// No value, or no value that fits the column.
    Null,
    /// Text without NUL.
    Text(String),
    /// Integer.
    Integer(i64),
    /// Boolean.
    Bool(bool),
    /// Timestamp.
    Time(Timestamp),
    /// JSON, with sorted keys and without white space.
    Json(String),
}

impl Field {
    /// Returns the text if the value is a text.
    pub fn text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            _ => None,
        }
    }
}

impl Change {
    /// Returns the id of the change's subject, if known.
    pub fn subject_id(&self) -> Option<&str> {
        match &self.effect {
            Effect::Ignore { subject_id } => subject_id.as_deref(),
            Effect::Merge(subject_change) => Some(&subject_change.id),
        }
    }

    /// Returns the name of the table for metrics, or `none`.
    pub fn resource_name(&self) -> &'static str {
        match &self.effect {
            Effect::Ignore { .. } => "none",
            Effect::Merge(subject_change) => subject_change.resource.table,
        }
    }
}

crate::named! {
    /// Outcome of a change.
    pub enum Applied {
        /// The first change of its subject.
        Inserted = "inserted",
        /// Newer than the stored state.
        Updated = "updated",
        /// The subject is now deleted.
        Deleted = "deleted",
        /// Older than the stored state: nothing changed.
        Stale = "stale",
        /// Equal to the stored state: nothing changed.
        Unchanged = "unchanged",
        /// No table for the type, or at or below the erasure floor: nothing changed.
        Ignored = "ignored",
    }
}

impl Applied {
    /// Returns whether the change writes anything.
    pub const fn advances(self) -> bool {
        matches!(self, Self::Inserted | Self::Updated | Self::Deleted)
    }
}
