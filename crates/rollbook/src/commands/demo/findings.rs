//! What the demo found out.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use rollbook_core::catalog;
use rollbook_core::store::{FullStore, RowView, StoreError};
use rollbook_simulator::history::History;
use rollbook_simulator::sender::Report;
use rollbook_simulator::truth::Comparison;
use serde_json::Value;

use super::counts::Counts;
use super::naive::Naive;
use super::repair::Repair;

/// Rows in one question to the store.
const PAGE: usize = 1000;
/// Rows that are shown.
const PEEK: usize = 5;

/// Everything the report is made of.
pub(crate) struct Findings {
    /// Deliveries, the doubled ones included.
    pub(crate) deliveries: usize,
    /// Events, each delivered at least once.
    pub(crate) events: usize,
    /// Events that were never delivered.
    pub(crate) lost: usize,
    /// Rows compared with the truth before the reconciliation.
    pub(crate) by_webhooks: Comparison,
    /// What the reconciliation did.
    pub(crate) repair: Repair,
    /// What a nightly job would have done, if asked for.
    pub(crate) naive: Option<Naive>,
    /// How many types of events there were.
    pub(crate) event_types: usize,
    /// Deliveries of an event that was older than one delivered before.
    pub(crate) out_of_order: usize,
    /// What the sender saw.
    pub(crate) sent: Report,
    /// What the worker did.
    pub(crate) counts: Vec<Counts>,
    /// Messages that were parked.
    pub(crate) dead_letters: u64,
    /// How long after the first delivery the last was applied.
    pub(crate) applied_after: Duration,
    /// Rows of the truth that live.
    pub(crate) living: usize,
    /// Rows of the truth that are deleted.
    pub(crate) deleted: usize,
    /// The rows held against the truth.
    pub(crate) comparison: Comparison,
    /// A few of the rows.
    pub(crate) peek: Vec<Person>,
    /// How long it all took.
    pub(crate) took: Duration,
}

impl Findings {
    /// Whether everything was acknowledged, nothing was parked, and every row is right.
    pub(crate) fn passed(&self) -> bool {
        self.sent.acknowledged.len() == self.deliveries
            && self.dead_letters == 0
            && self.comparison.is_equal()
    }

    /// How many deliveries were acknowledged in a second, on average.
    #[expect(clippy::cast_precision_loss, reason = "far fewer than 2^52")]
    pub(crate) fn acknowledged_per_second(&self) -> f64 {
        self.sent.acknowledged.len() as f64 / self.sent.elapsed.as_secs_f64().max(0.001)
    }
}

/// A membership with the names behind it. Invented, like all of the history.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Person {
    /// The user's id.
    pub(crate) id: String,
    /// First and last name.
    pub(crate) name: String,
    /// The primary address.
    pub(crate) email: String,
    /// The organization's name.
    pub(crate) organization: String,
    /// The role in it.
    pub(crate) role: String,
}

/// How many types of events there are in a history.
pub(crate) fn event_types(history: &History) -> usize {
    history.events.iter().map(|event| event.event_type.as_str()).collect::<BTreeSet<_>>().len()
}

/// How many deliveries come after one of a younger event. Events are numbered by age.
pub(crate) fn out_of_order(order: &[usize]) -> usize {
    let mut youngest = 0;
    order
        .iter()
        .filter(|event| {
            let late = **event < youngest;
            youngest = youngest.max(**event);
            late
        })
        .count()
}

/// Every row of every table.
pub(crate) async fn read_rows(store: &dyn FullStore) -> Result<Vec<(&'static str, RowView)>, StoreError> {
    let mut rows: Vec<(&'static str, RowView)> = Vec::new();
    for resource in catalog::RESOURCES {
        let mut after: Option<String> = None;
        loop {
            let page = store.rows(resource, after.as_deref(), PAGE).await?;
            let whole = page.len() == PAGE;
            after = page.last().map(|row| row.id.clone());
            rows.extend(page.into_iter().map(|row| (resource.table, row)));
            if !whole {
                break;
            }
        }
    }
    Ok(rows)
}

/// The first few who are a living member of a living organization and have a name and an address, and
/// whose name is written from left to right: the others are as right, but turn the line around.
pub(crate) fn peek(rows: &[(&'static str, RowView)]) -> Vec<Person> {
    let of = |table: &'static str| {
        rows.iter().filter(move |(of, row)| *of == table && !row.is_deleted()).map(|(_, row)| row)
    };
    let by_id = |table: &'static str| of(table).map(|row| (row.id.as_str(), row)).collect::<HashMap<_, _>>();
    let (users, organizations) = (by_id("users"), by_id("organizations"));
    let mut seen = BTreeSet::new();
    let people = of("organization_memberships").filter_map(|membership| {
        let user = users.get(text(membership, "user_id")?)?;
        let organization = organizations.get(text(membership, "organization_id")?)?;
        let person = Person {
            id: user.id.clone(),
            name: format!("{} {}", text(user, "first_name")?, text(user, "last_name")?),
            email: text(user, "primary_email_address")?.to_owned(),
            organization: text(organization, "name")?.to_owned(),
            role: text(membership, "role")?.to_owned(),
        };
        let plain = [&person.name, &person.organization].into_iter().all(|name| is_left_to_right(name));
        (plain && seen.insert(user.id.clone())).then_some(person)
    });
    people.take(PEEK).collect()
}

/// Neither Hebrew nor Arabic nor their neighbours.
fn is_left_to_right(text: &str) -> bool {
    !text
        .chars()
        .any(|c| matches!(c, '\u{590}'..='\u{8ff}' | '\u{fb1d}'..='\u{fdff}' | '\u{fe70}'..='\u{feff}'))
}

fn text<'a>(row: &'a RowView, column: &str) -> Option<&'a str> {
    row.columns.get(column).and_then(Value::as_str).filter(|text| !text.is_empty())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_delivery_is_out_of_order_when_a_younger_event_came_before() {
        assert_eq!(out_of_order(&[0, 1, 2, 2]), 0);
        assert_eq!(out_of_order(&[2, 0, 1, 3, 2]), 3);
    }

    #[test]
    fn a_peek_joins_members_to_their_names_and_passes_the_deleted_over() {
        let row = |id: &str, columns: Value| RowView {
            id: id.to_owned(),
            columns: columns.as_object().cloned().unwrap_or_default(),
        };
        let user = |id, deleted_at: Value| {
            let columns = json!({ "first_name": "Ada", "last_name": "B", "primary_email_address": "a@b.example", "deleted_at": deleted_at });
            ("users", row(id, columns))
        };
        let member = |id, user| {
            let columns = json!({ "user_id": user, "organization_id": "org_1", "role": "org:admin" });
            ("organization_memberships", row(id, columns))
        };
        let organization = ("organizations", row("org_1", json!({ "name": "Acme" })));
        let rows = [
            organization,
            user("u1", Value::Null),
            user("u2", json!("now")),
            member("m1", "u1"),
            member("m2", "u2"),
        ];
        let people = peek(&rows);
        assert_eq!(people.len(), 1);
        assert_eq!((people[0].id.as_str(), people[0].organization.as_str()), ("u1", "Acme"));
    }
}
