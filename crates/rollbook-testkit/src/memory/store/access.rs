//! Rows by which an application decides, in memory.

use async_trait::async_trait;
use rollbook_core::catalog::{
    ORGANIZATION_MEMBERSHIPS, ORGANIZATIONS, Resource, SUBSCRIPTION_ITEMS, SUBSCRIPTIONS, USERS,
};
use rollbook_core::store::{
    Access, ContextRows, ITEMS_MAX, Member, MembersOf, RowView, STATUSES_OVER, StoreError,
};

use super::{MemoryStore, State};

fn is_current(row: &RowView) -> bool {
    !row.is_deleted() && !row.columns["data"].is_null()
}

fn text<'r>(row: &'r RowView, column: &str) -> Option<&'r str> {
    row.columns.get(column)?.as_str()
}

impl State {
    fn current(&self, resource: &'static Resource, id: &str) -> Option<RowView> {
        self.find(resource, id).map(|row| self.view(resource, id, row)).filter(is_current)
    }

    /// Returns the current rows with these values, the latest first.
    fn latest(&self, resource: &'static Resource, values: &[(&str, &str)]) -> Vec<RowView> {
        let fits = |row: &RowView| values.iter().all(|(column, value)| text(row, column) == Some(value));
        let mut rows: Vec<RowView> =
            self.views(resource).filter(|row| is_current(row) && fits(row)).collect();
        rows.sort_by(|one, other| {
            (text(other, "created_at"), &other.id).cmp(&(text(one, "created_at"), &one.id))
        });
        rows
    }

    fn membership(&self, user_id: &str, organization_id: &str) -> Option<RowView> {
        let of = [("user_id", user_id), ("organization_id", organization_id)];
        self.latest(&ORGANIZATION_MEMBERSHIPS, &of).into_iter().next()
    }
}

#[async_trait]
impl Access for MemoryStore {
    async fn context(&self, user_id: &str, organization_id: Option<&str>) -> Result<ContextRows, StoreError> {
        let state = self.state();
        let payer = organization_id.map_or(("user_id", user_id), |id| ("organization_id", id));
        let is_over =
            |row: &RowView| text(row, "status").is_none_or(|status| STATUSES_OVER.contains(&status));
        let items = state.latest(&SUBSCRIPTION_ITEMS, &[payer]).into_iter();
        Ok(ContextRows {
            user: state.current(&USERS, user_id),
            organization: organization_id.and_then(|id| state.current(&ORGANIZATIONS, id)),
            membership: organization_id.and_then(|id| state.membership(user_id, id)),
            subscription: state.latest(&SUBSCRIPTIONS, &[payer]).into_iter().next(),
            items: items.filter(|row| !is_over(row)).take(ITEMS_MAX).collect(),
        })
    }

    async fn members(
        &self,
        of: MembersOf<'_>,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<Member>, StoreError> {
        let state = self.state();
        let (column, other) = of.columns();
        let mut rows = state.latest(&ORGANIZATION_MEMBERSHIPS, &[(column, of.id())]);
        rows.retain(|row| text(row, other).is_some_and(|id| id > after.unwrap_or_default()));
        // The latest of each other side is the first, and the sort is stable.
        rows.sort_by(|one, two| text(one, other).cmp(&text(two, other)));
        rows.dedup_by(|second, first| text(second, other) == text(first, other));
        rows.truncate(limit);
        let member = |membership: RowView| Member {
            other: text(&membership, other).and_then(|id| state.current(of.other(), id)),
            membership,
        };
        Ok(rows.into_iter().map(member).collect())
    }
}
