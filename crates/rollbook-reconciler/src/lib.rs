//! The reconciling face: reads Clerk's Backend API, compares it with the rows, and repairs what differs.
//!
//! Webhooks report what changes after the endpoint was created, if they arrive. A reconciliation also finds the objects that
//! existed before, and changes that never arrived. The first run is the backfill.
//!
//! Constraints:
//!
//! * Absence is never proof. A row that a page lacks is a suspect ([`proof`](self)); it is deleted only after a read of this
//!   object alone that answers 404, or for memberships and domains after two answers that agree, and only if the brake lets
//!   the whole run's deletions through.
//! * A row that was written within some minutes is never proved absent: Clerk's answer may be older than the row.
//! * A proof is used at once: before its deletion each row is read at Clerk again.
//! * An object of another type than was asked for, or one marked as deleted, is neither a row nor a proof.
//! * An error, an empty page or an outage deletes nothing.
//! * An error of one list does not keep the others from being read.
//! * Rows are written by the same merge as webhooks', and only if they differ: a second run writes nothing.
//! * Memory holds a bounded number of pages, bounded in bytes, never a list of all ids. Most of them wait as texts;
//!   few are decoded. The position is saved about once a second, so that a killed run goes on from there.
//! * An answer with a wrong time proves nothing ([`clocked`](self)): its time decides which webhooks a row beats.
//! * One run at a time, by a lock in the store that ends by itself.

mod approve;
mod batches;
mod begin;
mod brake;
mod cascades;
mod checks;
mod clocked;
mod compare;
mod context;
mod cursor_walk;
mod decoder;
mod deletions;
mod error;
mod instance;
mod metrics;
mod offset_walk;
mod page;
mod parts;
mod progress;
mod proof;
mod read_ahead;
mod readings;
mod reconciler;
mod resync;
mod room;
mod schedule;
mod settings;
mod status;
mod statuses;

pub use self::approve::Approved;
pub use self::context::Ports;
pub use self::error::ReconcileError;
pub use self::metrics::ReconcileMetrics;
pub use self::progress::{Progress, ResourceProgress};
pub use self::reconciler::{Reconciler, Resume, RunReport, RunRequest};
pub use self::resync::{ResyncOutcome, Resynced};
pub use self::schedule::Schedule;
pub use self::settings::{
    ABSENCE_MARGIN, ANSWER_TIME, CLOCK_BACK_MAX, CLOCK_SKEW_MAX, CLOCK_TOLERANCE, DELETIONS_MIN,
    DELETIONS_SHARE, INSTANCE_CHECKED_FOR, LOCK_FOR, MARGIN, PAGES_AT_ONCE_IN_BACKGROUND, PAGES_AT_ONCE_MAX,
    PAGES_AT_ONCE_MIN, REREAD_PAUSE, Settings,
};
pub use self::status::{LastWalk, ResourceView, RunView, Status, Waiting};
