//! Results of the demo.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use rollbook_core::catalog;
use rollbook_core::store::{FullStore, RowView, StoreError};
use rollbook_simulator::history::History;
use rollbook_simulator::sender::Report;
use rollbook_simulator::truth::Comparison;
use serde_json::Value;

use super::changes::LastChanges;
use super::counts::Counts;
use super::naive::Naive;
use super::repair::Repair;

/// Rows in one read of the store.
const PAGE: usize = 1000;
/// Number of rows in the report.
const PEEK: usize = 5;

/// Data of the report.
pub(crate) struct Findings {
    /// Number of deliveries, duplicates included.
    pub(crate) deliveries: usize,
    /// Number of events, each delivered at least once.
    pub(crate) events: usize,
    /// Number of events that were never delivered.
    pub(crate) lost: usize,
    /// Comparison of the rows with the truth before the reconciliation.
    pub(crate) by_webhooks: Comparison,
    /// Result of the reconciliation.
    pub(crate) repair: Repair,
    /// Damage that a common nightly job would have done; `None` unless asked for.
    pub(crate) naive: Option<Naive>,
    /// Number of event types.
    pub(crate) event_types: usize,
    /// Number of deliveries that came after one of a later event.
    pub(crate) out_of_order: usize,
    /// Answers and durations that the sender measured.
    pub(crate) sent: Report,
    /// Outcomes that the worker counted.
    pub(crate) counts: Vec<Counts>,
    /// Dead letters.
    pub(crate) dead_letters: u64,
    /// Time from the first delivery to the last applied one.
    pub(crate) applied_after: Duration,
    /// Number of rows of the truth that are not deleted.
    pub(crate) living: usize,
    /// Number of rows of the truth that are deleted.
    pub(crate) deleted: usize,
    /// Comparison of the rows with the truth at the end.
    pub(crate) comparison: Comparison,
    /// Last lines of the change feed.
    pub(crate) changes: LastChanges,
    /// Sample rows.
    pub(crate) peek: Vec<Person>,
    /// Duration of the whole demo.
    pub(crate) took: Duration,
}

impl Findings {
    /// Returns whether every delivery was acknowledged, there is no dead letter, and every row is right.
    pub(crate) fn passed(&self) -> bool {
        self.sent.acknowledged.len() == self.deliveries
            && self.dead_letters == 0
            && self.comparison.is_equal()
    }

    /// Returns the mean number of acknowledged deliveries per second.
    #[expect(clippy::cast_precision_loss, reason = "far fewer than 2^52")]
    pub(crate) fn acknowledged_per_second(&self) -> f64 {
        self.sent.acknowledged.len() as f64 / self.sent.elapsed.as_secs_f64().max(0.001)
    }
}

/// Membership with the names of its user and organization. Invented, like the whole history.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Person {
    /// Id of the user.
    pub(crate) id: String,
    /// First and last name.
    pub(crate) name: String,
    /// Primary e-mail address.
    pub(crate) email: String,
    /// Name of the organization.
    pub(crate) organization: String,
    /// Role in the organization.
    pub(crate) role: String,
}

/// Returns the number of event types in a history.
pub(crate) fn event_types(history: &History) -> usize {
    history.events.iter().map(|event| event.event_type.as_str()).collect::<BTreeSet<_>>().len()
}

/// Returns the number of deliveries that come after one of a later event. Events are numbered by age.
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

/// Reads every row of every table.
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

/// Returns the first members of an organization that are not deleted and have a name and an address. Names
/// that are written from right to left are left out: a terminal would turn the whole line around.
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

/// Returns whether a text has no Hebrew, Arabic or related letters.
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
    fn a_delivery_is_out_of_order_if_a_later_event_came_before() {
        assert_eq!(out_of_order(&[0, 1, 2, 2]), 0);
        assert_eq!(out_of_order(&[2, 0, 1, 3, 2]), 3);
    }

    #[test]
    fn sample_rows_join_members_to_their_names_and_leave_out_the_deleted() {
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
