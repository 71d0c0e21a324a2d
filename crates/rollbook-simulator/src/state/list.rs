//! Lists of a state: filters, order and position.

use std::cmp::Ordering;
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde_json::{Map, Value};

use super::{ClerkState, parent};
use crate::api::objects::{Filter, Listing, Objects, Order, Query, UnknownCursor};
use crate::event::INSTANCE_ID;

type Object = Map<String, Value>;

/// The mutex is held for one request only, so a test can change the state between two.
impl Objects for Mutex<ClerkState> {
    fn instance_id(&self) -> String {
        INSTANCE_ID.to_owned()
    }

    fn list(&self, table: &'static str, query: &Query) -> Result<Listing, UnknownCursor> {
        locked(self).list(table, query)
    }

    fn get(&self, table: &'static str, id: &str, with_members_count: bool) -> Option<String> {
        let state = locked(self);
        let object = state.find(table, id).map(|object| state.shaped(table, object, with_members_count))?;
        Some(Value::from(object).to_string())
    }
}

fn locked(state: &Mutex<ClerkState>) -> MutexGuard<'_, ClerkState> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

impl ClerkState {
    fn list(&self, table: &'static str, query: &Query) -> Result<Listing, UnknownCursor> {
        let all = self.objects.get(table).into_iter().flat_map(|objects| objects.values());
        let mut objects: Vec<&Object> =
            all.map(AsRef::as_ref).filter(|object| self.passes(object, &query.filter)).collect();
        objects.sort_by(|one, other| compare(one, other, &query.order));
        let total = objects.len();
        let start = match &query.after {
            // A cursor that no longer exists still has a position only if Clerk remembers it, which it does not say.
            Some(id) => {
                let cursor = self.find(table, id).ok_or(UnknownCursor)?;
                objects.partition_point(|object| compare(object, cursor, &query.order) != Ordering::Greater)
            }
            None => usize::try_from(query.offset).unwrap_or(usize::MAX),
        };
        let page = objects.into_iter().skip(start).take(query.limit);
        let shaped = page.map(|object| self.listed(table, object, query));
        let objects = shaped.map(|object| Value::from(object).to_string()).collect();
        Ok(Listing { objects, total: u64::try_from(total).unwrap_or(u64::MAX) })
    }

    fn passes(&self, object: &Object, filter: &Filter) -> bool {
        let text = |key: &str| object.get(key).and_then(Value::as_str);
        let created_at = object.get("created_at").and_then(Value::as_i64).unwrap_or_default();
        let id = text("id").unwrap_or_default();
        let is_member = |organizations: &Vec<String>| {
            self.objects.get("organization_memberships").into_iter().flat_map(|all| all.values()).any(|one| {
                parent(one, "users") == Some(id)
                    && parent(one, "organizations").is_some_and(|of| organizations.iter().any(|id| id == of))
            })
        };
        filter.created_before.is_none_or(|time| created_at < time)
            && filter.created_after.is_none_or(|time| created_at > time)
            && filter.ids.permits(Some(id))
            && filter.users.permits(parent(object, "users"))
            && filter.organization.as_ref().is_none_or(|id| parent(object, "organizations") == Some(id))
            && filter.members_of.as_ref().is_none_or(is_member)
            && (filter.statuses.is_empty() || filter.statuses.iter().any(|one| text("status") == Some(one)))
            && !(filter.is_paid && is_free(object))
    }
}

/// Returns whether a subscription item has a free plan.
fn is_free(item: &Object) -> bool {
    item.get("plan").and_then(|plan| plan.get("amount")).and_then(Value::as_i64) == Some(0)
}

/// Compares by the key of the order and then by id, because an order must be total for paging.
fn compare(one: &Object, other: &Object, order: &Order) -> Ordering {
    let values = (one.get(&order.key), other.get(&order.key));
    let by_key = match (values.0.and_then(Value::as_i64), values.1.and_then(Value::as_i64)) {
        (None, None) => values.0.and_then(Value::as_str).cmp(&values.1.and_then(Value::as_str)),
        numbers => numbers.0.cmp(&numbers.1),
    };
    let id = |object: &Object| object.get("id").and_then(Value::as_str).unwrap_or_default().to_owned();
    let ascending = by_key.then_with(|| id(one).cmp(&id(other)));
    if order.descending { ascending.reverse() } else { ascending }
}
