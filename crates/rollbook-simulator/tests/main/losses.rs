//! Lost events that are repaired from the API leave the rows of the truth, within the tolerance.

use std::collections::{BTreeMap, BTreeSet};

use rollbook_core::catalog::Resource;
use rollbook_core::compare::is_same_content;
use rollbook_core::event::observed;
use rollbook_core::json::Document;
use rollbook_core::merge::{SubjectState, from_parents};
use rollbook_core::source::RECONCILED;
use rollbook_core::store::RowView;
use rollbook_core::time::Timestamp;
use rollbook_simulator::history::History;
use rollbook_simulator::truth::{Expected, Tolerance};
use serde_json::{Map, Value};

use crate::history::{Known, change_of, small, view};

/// Time at which the API is read, after every event.
const READ_AT: Timestamp = Timestamp::from_millis(1_900_000_000_000);

type Rows = BTreeMap<(&'static str, String), Known>;

/// States of the subjects after all events but the lost ones.
fn delivered(history: &History, lost: &BTreeSet<usize>) -> Rows {
    let mut rows = Rows::new();
    let arrived = history.events.iter().enumerate().filter(|(index, _)| !lost.contains(index));
    for change in arrived.filter_map(|(_, event)| change_of(event)) {
        rows.entry((change.resource.table, change.id.clone())).or_default().merge(change);
    }
    rows
}

/// Applies a reading of the API: what is missing or differs is replaced, what Clerk lacks is deleted.
fn repair(history: &History, rows: &mut Rows) {
    let state = history.state();
    for resource in RECONCILED {
        for id in state.ids(resource.table) {
            let object = state.object(resource.table, &id).expect("a listed object");
            let row = rows.entry((resource.table, id)).or_default();
            if !row.is_same(resource, &object) {
                row.is_read = true;
                row.content = observed(resource, object, READ_AT).map(|(change, _)| change);
            }
        }
        let living: BTreeSet<String> = state.ids(resource.table).into_iter().collect();
        for ((_, id), row) in rows.iter_mut().filter(|((table, _), _)| *table == resource.table) {
            // A row that is deleted with a parent may get this time too: the parent's is not known here.
            if row.deleted_at.is_none() && !living.contains(id) {
                row.is_suspect = true;
            }
        }
    }
}

impl Known {
    fn is_same(&self, resource: &Resource, object: &Map<String, Value>) -> bool {
        let Some(row) = self.content.as_ref().and_then(|content| content.row.as_ref()) else { return false };
        let data = Document::read(row.data.as_bytes()).expect("JSON");
        let updated_at = object["updated_at"].as_i64().map(Timestamp::from_millis);
        row.updated_at == updated_at
            && is_same_content(resource, Document::from(object.clone()).value(), data.value())
    }
}

fn views(rows: &Rows) -> Vec<(&'static str, RowView)> {
    let read_at = READ_AT.as_millis();
    let own = |state: &Known| state.deleted_at;
    let known = |resource: &'static Resource, id: &str| {
        let state = rows.get(&(resource.table, id.to_owned()))?;
        let deleted_at = own(state).or(state.is_suspect.then_some(read_at));
        Some(SubjectState { deleted_at, ..SubjectState::default() })
    };
    let view_of = |((table, id), state): (&(&'static str, String), &Known)| {
        let Some(content) = &state.content else {
            return (*table, tombstone(id, state.deleted_at));
        };
        let row = content.row.as_ref().expect("content");
        let inherited = from_parents(content.resource, row, known).deleted_at;
        let deleted_at = own(state).or(inherited).or(state.is_suspect.then_some(read_at));
        let mut view = view(content, deleted_at);
        let synced_by = if state.is_read { "reconcile" } else { "msg_1" };
        view.columns.insert("synced_by".into(), synced_by.into());
        (*table, view)
    };
    rows.iter().map(view_of).collect()
}

fn tombstone(id: &str, deleted_at: Option<i64>) -> RowView {
    let at = deleted_at.map(|at| Timestamp::from_millis(at).to_string());
    let columns = Map::from_iter([("id".to_owned(), id.into()), ("deleted_at".to_owned(), at.into())]);
    RowView { id: id.to_owned(), columns }
}

#[test]
fn rows_that_are_repaired_from_the_api_are_the_truth_within_the_tolerance() {
    let (mut wrong, mut missing, mut deleted) = (0, 0, 0);
    for seed in 0..8 {
        let history = History::generate(&small(seed));
        for (before, per_mille) in [(0, 0), (200, 0), (0, 100), (300, 400), (0, 1000)] {
            let lost = history.losses(seed, before, per_mille);
            let mut rows = delivered(&history, &lost);
            let tolerance = history.tolerance(&lost);
            let unrepaired = history.truth.compare_repaired(views(&rows).into_iter(), &tolerance);
            assert!(unrepaired.is_equal() || !lost.is_empty(), "seed {seed}: {unrepaired:?}");
            wrong += usize::from(!unrepaired.is_equal());
            repair(&history, &mut rows);
            let comparison = history.truth.compare_repaired(views(&rows).into_iter(), &tolerance);
            assert!(comparison.is_equal(), "seed {seed}, {before}, {per_mille}: {comparison:?}");
            missing += tolerance.row.len();
            deleted += tolerance.deletion_time.len();
        }
    }
    assert!(wrong > 25 && missing > 10 && deleted > 10, "{wrong} {missing} {deleted}");
}

#[test]
fn without_losses_nothing_is_tolerated_in_rows_of_deliveries() {
    let history = History::generate(&small(1));
    assert_eq!(history.tolerance(&BTreeSet::new()), Tolerance::default());
    let mut rows = views(&delivered(&history, &BTreeSet::new()));
    let organization = rows.iter_mut().find(|(table, _)| *table == "organizations").expect("an organization");
    organization.1.columns.insert("members_count".into(), 99.into());
    let comparison = history.truth.compare_repaired(rows.into_iter(), &Tolerance::default());
    assert_eq!(comparison.different.len(), 1);
}

#[test]
fn a_repaired_row_may_differ_in_volatile_values_and_in_nothing_else() {
    let history = History::generate(&small(1));
    let mut rows = views(&delivered(&history, &BTreeSet::new()));
    let (_, row) = rows.iter_mut().find(|(table, _)| *table == "organizations").expect("an organization");
    row.columns.insert("synced_by".into(), "reconcile".into());
    row.columns.insert("members_count".into(), 99.into());
    row.columns["data"]["members_count"] = 99.into();
    assert!(history.truth.compare_repaired(rows.clone().into_iter(), &Tolerance::default()).is_equal());
    assert!(!history.truth.compare(rows.clone().into_iter()).is_equal());
    let (_, row) = rows.iter_mut().find(|(table, _)| *table == "organizations").expect("an organization");
    row.columns.insert("slug".into(), "other".into());
    row.columns["data"]["slug"] = "other".into();
    let comparison = history.truth.compare_repaired(rows.into_iter(), &Tolerance::default());
    assert_eq!(comparison.different.len(), 2);
}

#[test]
fn events_about_sessions_and_billing_are_never_lost() {
    let history = History::generate(&small(2));
    let lost = history.losses(1, history.events.len(), 1000);
    let is_kept = |event_type: &str| {
        ["session.", "subscription", "paymentAttempt.", "email.", "sms."]
            .iter()
            .any(|prefix| event_type.starts_with(prefix))
    };
    for (index, event) in history.events.iter().enumerate() {
        if is_kept(&event.event_type) {
            assert!(!history.is_repairable(index) && !lost.contains(&index), "{}", event.event_type);
        } else if !["user.deleted", "organizationDomain.deleted"].contains(&event.event_type.as_str()) {
            assert!(lost.contains(&index), "{}", event.event_type);
        }
    }
    assert!(!history.is_repairable(history.events.len()));
}

#[test]
fn the_deletion_of_a_domain_is_lost_only_if_the_instance_has_another_one_left() {
    let mut seen = [false; 2];
    for seed in 0..40 {
        let history = History::generate(&small(seed));
        let lost = history.losses(1, history.events.len(), 1000);
        let is_living = |expected: &Expected| matches!(expected, Expected::Live(_));
        let mut domains =
            history.truth.rows.iter().filter(|((table, _), _)| *table == "organization_domains");
        let has_domains = domains.any(|(_, expected)| is_living(expected));
        let is_deletion = |index: usize| history.events[index].event_type == "organizationDomain.deleted";
        if let Some(deletion) = (0..history.events.len()).find(|index| is_deletion(*index)) {
            assert_eq!(lost.contains(&deletion), has_domains, "seed {seed}");
            seen[usize::from(has_domains)] = true;
        }
    }
    assert_eq!(seen, [true; 2], "both kinds of histories are among them");
}
