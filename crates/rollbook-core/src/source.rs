//! Port of Clerk's Backend API, the second source of changes after the webhooks.
//!
//! An implementation obeys the rate limit, repeats what a later try may answer, and decodes the two forms of
//! lists. It holds no policy: what an answer means for the rows is the reconciler's decision. An answer that
//! it cannot read is an error, never an empty list.

mod raw_object;

use std::fmt;

use async_trait::async_trait;

use crate::catalog::Resource;
use crate::json::Document;
use crate::time::Timestamp;

pub use self::raw_object::RawObject;

/// Maximum number of objects of a page. Above it Clerk silently sends ten.
pub const PAGE_MAX: usize = 500;

/// Maximum number of ids of one point read.
pub const LOOKUPS_MAX: usize = 100;

/// Clerk's Backend API.
#[async_trait]
pub trait Source: Send + Sync {
    /// Returns the instance that the key belongs to.
    async fn instance(&self) -> Result<Instance, SourceError>;

    /// Returns the number of living objects of a resource; of users, of those created in the window.
    async fn count(&self, resource: &'static Resource, window: Window) -> Result<u64, SourceError>;

    /// Returns one page of living objects in ascending order of `created_at`. Subscription items alone are in
    /// descending order, because Clerk has no other for them.
    async fn page(&self, resource: &'static Resource, request: &PageRequest) -> Result<Page, SourceError>;

    /// Returns one page of users in descending order of `updated_at`, from this offset, at most `limit`.
    async fn recently_updated_users(&self, offset: u64, limit: usize) -> Result<Page, SourceError>;

    /// Reads at most [`LOOKUPS_MAX`] objects by their ids, each with a result, in the same order. Absence is
    /// proved: the list leaves the object out, and a read of the object alone answers 404
    /// `resource_not_found` where Clerk has such a read. An empty list alone proves nothing.
    async fn fetch(
        &self,
        resource: &'static Resource,
        lookups: &[Lookup],
    ) -> Result<Vec<Fetched>, SourceError>;
}

/// Resources that a reconciliation reads, in the order of the walk: parents first. Sessions, payment attempts
/// and subscriptions have no list at Clerk.
pub static RECONCILED: [&Resource; 8] = {
    use crate::catalog::{
        ORGANIZATION_DOMAINS, ORGANIZATION_INVITATIONS, ORGANIZATION_MEMBERSHIPS, ORGANIZATIONS, PERMISSIONS,
        ROLES, USERS, WAITLIST_ENTRIES,
    };
    [
        &ORGANIZATIONS,
        &USERS,
        &ORGANIZATION_MEMBERSHIPS,
        &ORGANIZATION_INVITATIONS,
        &ORGANIZATION_DOMAINS,
        &ROLES,
        &PERMISSIONS,
        &WAITLIST_ENTRIES,
    ]
};

/// A Clerk instance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Instance {
    /// Id of the instance, as events name it.
    pub id: String,
    /// Kind of instance: `production` or `development`.
    pub environment: String,
    /// Time of Clerk's clock, from the `Date` header of the answer, in whole seconds.
    pub clock: Timestamp,
}

/// Half-open interval of `created_at`, in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// First time in the window.
    pub from: Timestamp,
    /// First time after the window.
    pub to: Timestamp,
}

impl Window {
    /// Every time.
    pub const ALL: Self =
        Self { from: Timestamp::from_millis(i64::MIN), to: Timestamp::from_millis(i64::MAX) };
}

/// Request for one page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PageRequest {
    /// Position of the page.
    pub position: Position,
    /// Maximum number of objects, at most [`PAGE_MAX`].
    pub limit: usize,
    /// Maximum size of the answer, in bytes. A larger one is [`SourceError::TooLarge`]. An implementation may have a
    /// lower limit of its own.
    pub bytes_max: usize,
}

/// Position of a page in a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Position {
    /// After the object with this id, or at the beginning, among those created in the window. Users only.
    After {
        /// Id of the last object of the page before.
        id: Option<String>,
        /// Window that the list is limited to.
        window: Window,
    },
    /// After this number of objects. All resources but users.
    Offset(u64),
}

/// One page of a list.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Page {
    /// Objects of the page, in the list's order.
    pub objects: Vec<RawObject>,
    /// Number of objects of the whole list, where Clerk gives it.
    pub total: Option<u64>,
    /// Time of Clerk's clock, from the `Date` header of the answer, in whole seconds.
    pub clock: Timestamp,
}

/// Request for one object by id, with the parents that some of Clerk's paths need.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lookup {
    /// Id of the object.
    pub id: String,
    /// Id of its organization, if known.
    pub organization_id: Option<String>,
    /// Id of its user, if known.
    pub user_id: Option<String>,
}

/// Proof of Clerk about an object.
#[derive(Clone, Debug, PartialEq)]
pub enum Presence {
    /// The object exists: its content.
    Exists(Document),
    /// The object does not exist.
    Absent,
    /// Nothing is proved, for this reason: the id can't be asked for, or two answers contradict each other.
    Unknown(&'static str),
}

/// Result of a point read.
#[derive(Clone, Debug, PartialEq)]
pub struct Fetched {
    /// Proof of Clerk about the object.
    pub presence: Presence,
    /// Time of Clerk's clock, from the `Date` header of the answer, in whole seconds.
    pub clock: Timestamp,
}

/// Reason why Clerk's API gave no usable answer. Texts name the request, never the key, an id or a body.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SourceError {
    /// Clerk refuses the key or the request: 401, 402, 403, 422. Manual action is needed.
    #[error("Clerk's API refuses the request: {0}")]
    Refused(String),
    /// The instance does not have this feature, such as organizations: 402 or 403 with such a code. The key
    /// is fine, and there is nothing to read. It proves no absence.
    #[error("the feature is not enabled in the Clerk instance: {0}")]
    NotEnabled(String),
    /// No answer within the time limit and the retries: unreachable, 429, 5xx.
    #[error("Clerk's API can't answer now: {0}")]
    Unavailable(String),
    /// The answer is not what Clerk documents: HTML, a truncated body, a list of another form.
    #[error("Clerk's API gave an answer that Rollbook can't read: {0}")]
    Unreadable(String),
    /// The answer is larger than the limit. A request for fewer objects may be answered.
    #[error("an answer of Clerk's API is too large: {0}")]
    TooLarge(String),
    /// The time of the answer, from its `Date` header, can't be right. The answer proves nothing.
    #[error("the clocks of Clerk's API and this machine do not agree: {0}")]
    Clock(String),
    /// Clerk has no way to read this about the resource.
    #[error("Clerk's API can't do this: {0}")]
    Unsupported(&'static str),
}

impl fmt::Display for Window {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} to {}", self.from, self.to)
    }
}
