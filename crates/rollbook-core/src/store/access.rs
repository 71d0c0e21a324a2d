//! Reading of the rows by which an application decides what a user may do. A reader cannot write.
//!
//! All rows are current: not deleted, and with content. A placeholder row and an erased row count as absent. If a user has
//! several current memberships in one organization, the latest counts, as in the view `current_members`.

use async_trait::async_trait;

use super::{RowView, StoreError};

/// Maximum number of subscription items in a context: the latest.
pub const ITEMS_MAX: usize = 16;

/// Statuses of subscription items that are over, or never began. A status that is not listed counts as current.
pub const STATUSES_OVER: [&str; 4] = ["abandoned", "ended", "expired", "incomplete"];

/// Port of readers who authorize.
#[async_trait]
pub trait Access: Send + Sync {
    /// Returns the rows of a user, of an organization, and of what connects the two, all from one state of the store.
    async fn context(&self, user_id: &str, organization_id: Option<&str>) -> Result<ContextRows, StoreError>;

    /// Returns at most `limit` current memberships, each with the row of its other side, in the order of the ids of the
    /// other side, starting after `after`. The order of ids is the engine's.
    async fn members(
        &self,
        of: MembersOf<'_>,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<Member>, StoreError>;
}

/// Rows of a context.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ContextRows {
    /// The user.
    pub user: Option<RowView>,
    /// The organization.
    pub organization: Option<RowView>,
    /// The membership of the user in the organization.
    pub membership: Option<RowView>,
    /// The latest subscription of the organization, or of the user if no organization is given.
    pub subscription: Option<RowView>,
    /// Items of the same payer that are not over ([`STATUSES_OVER`]), the latest first, at most [`ITEMS_MAX`].
    pub items: Vec<RowView>,
}

/// Selection of memberships.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MembersOf<'a> {
    /// Members of the organization with this id. The other side is the user.
    Organization(&'a str),
    /// Organizations of the user with this id. The other side is the organization.
    User(&'a str),
}

impl<'a> MembersOf<'a> {
    /// Returns the selecting id.
    pub const fn id(self) -> &'a str {
        match self {
            Self::Organization(id) | Self::User(id) => id,
        }
    }

    /// Returns the column of the selecting id, and the column with the id of the other side.
    pub const fn columns(self) -> (&'static str, &'static str) {
        match self {
            Self::Organization(_) => ("organization_id", "user_id"),
            Self::User(_) => ("user_id", "organization_id"),
        }
    }

    /// Returns the resource of the other side.
    pub const fn other(self) -> &'static crate::catalog::Resource {
        match self {
            Self::Organization(_) => &crate::catalog::USERS,
            Self::User(_) => &crate::catalog::ORGANIZATIONS,
        }
    }
}

/// A current membership.
#[derive(Clone, Debug, PartialEq)]
pub struct Member {
    /// Row of the membership.
    pub membership: RowView,
    /// Row of the other side; `None` if it is not current.
    pub other: Option<RowView>,
}
