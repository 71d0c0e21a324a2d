//! Histories are reproducible, and their truth equals the result of the merge.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use rollbook_core::catalog::{self, Resource};
use rollbook_core::change::{Effect, Field, SubjectChange};
use rollbook_core::event::parse;
use rollbook_core::merge::{SubjectState, from_parents};
use rollbook_core::store::RowView;
use rollbook_core::time::Timestamp;
use rollbook_simulator::history::{Event, History, HistorySettings, INSTANCE_ID};
use rollbook_simulator::samples;
use rollbook_simulator::truth::Expected;
use serde_json::{Map, Value};

pub(crate) fn small(seed: u64) -> HistorySettings {
    HistorySettings { seed, users: 40, organizations: 8, changes: 600, ..HistorySettings::default() }
}

fn read(event: &Event) -> Value {
    serde_json::from_slice(&event.body).expect("a body is JSON")
}

/// The change that the event makes, according to the real parser.
pub(crate) fn change_of(event: &Event) -> Option<SubjectChange> {
    let parsed = parse(&event.body, Some(INSTANCE_ID)).expect("an event of the history can be read");
    assert_eq!((parsed.sanitized, parsed.mismatched), (0, 0), "{event:?}");
    match parsed.effect {
        Effect::Merge(assertion) => Some(*assertion),
        Effect::Ignore { .. } => None,
    }
}

fn value(field: &Field) -> Value {
    match field {
        Field::Null => Value::Null,
        Field::Text(text) => text.as_str().into(),
        Field::Integer(number) => (*number).into(),
        Field::Bool(yes) => (*yes).into(),
        Field::Time(at) => at.to_string().into(),
        Field::Json(json) => serde_json::from_str(json).expect("JSON"),
    }
}

/// State of a subject according to its events: the change with the greatest version, and the time of its deletion.
#[derive(Default)]
pub(crate) struct Known {
    pub(crate) content: Option<SubjectChange>,
    pub(crate) deleted_at: Option<i64>,
    /// Whether the content comes from a reading of the API.
    pub(crate) is_read: bool,
    /// Whether a reading of the API has shown that the object is deleted.
    pub(crate) is_suspect: bool,
}

impl Known {
    pub(crate) fn merge(&mut self, change: SubjectChange) {
        if change.version.is_deleted {
            self.deleted_at = self.deleted_at.max(Some(change.version.event_at));
        } else if self.content.as_ref().is_none_or(|known| known.version < change.version) {
            self.content = Some(change);
        }
    }
}

pub(crate) fn view(content: &SubjectChange, deleted_at: Option<i64>) -> RowView {
    let time = |at: Option<Timestamp>| at.map_or(Value::Null, |at| at.to_string().into());
    let mut columns = Map::from_iter([("id".to_owned(), Value::from(content.id.as_str()))]);
    if let Some(row) = &content.row {
        let names = content.resource.columns.iter().map(|column| column.name.to_owned());
        columns.extend(names.zip(row.values.iter().map(value)));
        columns.insert("created_at".into(), time(row.created_at));
        columns.insert("updated_at".into(), time(row.updated_at));
        columns.insert("deleted_at".into(), time(deleted_at.map(Timestamp::from_millis)));
        columns.insert("data".into(), serde_json::from_str(&row.data).expect("JSON"));
    }
    RowView { id: content.id.clone(), columns }
}

/// The rows that the greatest version of each subject leaves, read by the real parser.
fn replay(history: &History) -> Vec<(&'static str, RowView)> {
    let mut all: BTreeMap<(&str, String), Known> = BTreeMap::new();
    for change in history.events.iter().filter_map(change_of) {
        all.entry((change.resource.table, change.id.clone())).or_default().merge(change);
    }
    let known = |resource: &'static Resource, id: &str| {
        let state = all.get(&(resource.table, id.to_owned()))?;
        Some(SubjectState { deleted_at: state.deleted_at, ..SubjectState::default() })
    };
    let row = |state: &Known| {
        let content = state.content.as_ref().expect("every subject of a history has an event with content");
        let row = content.row.as_ref().expect("a change that is not a delete has content");
        let deleted_at = state.deleted_at.or(from_parents(content.resource, row, known).deleted_at);
        (content.resource.table, view(content, deleted_at))
    };
    all.values().map(row).collect()
}

#[test]
fn the_same_seed_gives_the_same_bytes_and_another_seed_others() {
    assert_eq!(History::generate(&small(7)), History::generate(&small(7)));
    assert_ne!(History::generate(&small(7)).events, History::generate(&small(8)).events);
}

#[test]
fn the_truth_is_what_the_greatest_version_of_each_subject_says() {
    for seed in 0..12 {
        let history = History::generate(&small(seed));
        let comparison = history.truth.compare(replay(&history).into_iter());
        assert!(comparison.is_equal(), "seed {seed}: {comparison:?}");
        assert_eq!(comparison.equal, history.truth.rows.len());
    }
}

#[test]
fn a_row_names_every_column_of_its_table() {
    let history = History::generate(&small(1));
    for ((table, id), expected) in &history.truth.rows {
        let columns = expected.columns();
        let resource = catalog::find_resource(table).expect("a table of the catalog");
        let all: BTreeSet<&str> = catalog::COMMON_COLUMNS
            .into_iter()
            .chain(resource.columns.iter().map(|column| column.name))
            .filter(|name| !["synced_at", "synced_by"].contains(name))
            .collect();
        assert_eq!(columns.keys().map(String::as_str).collect::<BTreeSet<_>>(), all, "{table} {id}");
    }
}

#[test]
fn for_one_subject_the_event_time_increases_and_updated_at_never_decreases() {
    let history = History::generate(&small(3));
    let mut last: HashMap<(&str, String), (i64, i64)> = HashMap::new();
    let (mut ties, mut same_moment) = (0, 0);
    for change in history.events.iter().filter_map(change_of) {
        let key = (change.resource.table, change.id.clone());
        let version = change.version;
        let known = last.get(&key).copied();
        if let Some((updated_at, event_at)) = known {
            assert!(version.event_at > event_at, "{key:?}");
            assert!(version.is_deleted || version.updated_at >= updated_at, "{key:?}");
            ties += usize::from(version.updated_at == updated_at);
        }
        same_moment += usize::from(
            last.iter().any(|(other, (_, event_at))| *other != key && *event_at == version.event_at),
        );
        last.insert(key, (version.updated_at, version.event_at));
    }
    assert!(ties > 20 && same_moment > 5, "ties {ties}, same moment {same_moment}");
}

#[test]
fn a_history_has_every_event_type_if_asked_and_otherwise_those_of_users_organizations_and_memberships() {
    let types = |settings: &HistorySettings| -> BTreeSet<String> {
        History::generate(settings).events.into_iter().map(|event| event.event_type).collect()
    };
    let all =
        types(&HistorySettings { users: 1, organizations: 0, changes: 1, ..HistorySettings::default() });
    assert_eq!(all, samples::event_types().map(str::to_owned).collect());

    let some = types(&HistorySettings { every_event_type: false, ..small(1) });
    assert_eq!(some.len(), 9);
    let prefixes = ["user.", "organization.", "organizationMembership."];
    assert!(some.iter().all(|event_type| prefixes.iter().any(|of| event_type.starts_with(of))), "{some:?}");
}

#[test]
fn users_rejoin_with_a_new_membership_and_some_memberships_are_deleted_with_a_parent_only() {
    let history = History::generate(&HistorySettings { changes: 3000, ..small(5) });
    let dead = |table: &'static str, id: &Value| {
        let key = (table, id.as_str().unwrap_or_default().to_owned());
        matches!(history.truth.rows.get(&key), Some(Expected::Deleted { .. }))
    };
    let mut lives: HashMap<(String, String), usize> = HashMap::new();
    for event in history.events.iter().filter(|event| event.event_type == "organizationMembership.created") {
        let data = &read(event)["data"];
        let key = (data["organization"]["id"].to_string(), data["public_user_data"]["user_id"].to_string());
        *lives.entry(key).or_default() += 1;
    }
    assert!(lives.values().any(|lives| *lives > 1));
    let with_own_event: BTreeSet<String> = history
        .events
        .iter()
        .filter(|event| event.event_type == "organizationMembership.deleted")
        .map(|event| read(event)["data"]["id"].as_str().unwrap_or_default().to_owned())
        .collect();
    let without_own_event = history.truth.rows.iter().filter(|((table, id), expected)| {
        let is_over = matches!(expected, Expected::Deleted { .. }) && !with_own_event.contains(id);
        let parents = expected.columns();
        let with_parent =
            || dead("users", &parents["user_id"]) || dead("organizations", &parents["organization_id"]);
        *table == "organization_memberships" && is_over && with_parent()
    });
    assert!(without_own_event.count() > 0);
    assert!(history.truth.deleted() > 20);
}

#[test]
fn the_default_history_has_the_configured_size_and_bodies_of_realistic_size() {
    let history = History::generate(&HistorySettings::default());
    assert!((9000..9100).contains(&history.events.len()), "{}", history.events.len());
    let sizes = |prefix: &str| -> usize {
        let bodies: Vec<usize> = history
            .events
            .iter()
            .filter(|event| event.event_type.starts_with(prefix) && !event.event_type.ends_with(".deleted"))
            .map(|event| event.body.len())
            .collect();
        bodies.iter().sum::<usize>() / bodies.len()
    };
    assert!((2000..2800).contains(&sizes("user.")), "{}", sizes("user."));
    assert!((1200..1900).contains(&sizes("organizationMembership.")), "{}", sizes("organizationMembership."));

    let ids: BTreeSet<&str> = history.events.iter().map(|event| event.id.as_str()).collect();
    assert_eq!(ids.len(), history.events.len());
    let signups = history.events.iter().filter(|event| event.event_type == "user.created").count();
    assert_eq!(signups, HistorySettings::default().users + 2);
    assert!(history.truth.live() > 1500 && history.truth.deleted() > 200, "{:?}", history.truth);
}

#[test]
fn a_tiny_history_is_generated_and_its_truth_is_right() {
    for (users, organizations, changes) in [(0, 0, 0), (1, 0, 50), (1, 1, 50), (2, 3, 200), (500, 0, 10)] {
        for every_event_type in [false, true] {
            let settings = HistorySettings {
                users,
                organizations,
                changes,
                every_event_type,
                ..HistorySettings::default()
            };
            let history = History::generate(&settings);
            assert!(history.events.len() >= changes.max(1));
            assert!(history.truth.compare(replay(&history).into_iter()).is_equal(), "{settings:?}");
        }
    }
}

#[test]
fn a_schedule_has_every_event_in_shuffled_order_and_the_requested_duplicates() {
    let history = History::generate(&small(1));
    let events = history.events.len();
    for (per_mille, least, most) in
        [(0, events, events), (300, events + 100, events + 270), (2000, 3 * events, 3 * events)]
    {
        let order = history.schedule(9, per_mille);
        assert!((least..=most).contains(&order.len()), "{per_mille}: {}", order.len());
        assert_eq!(order.iter().copied().collect::<BTreeSet<_>>(), (0..events).collect());
        assert_eq!(order, history.schedule(9, per_mille));
        assert_ne!(order, history.schedule(10, per_mille));
        // The average distance of a delivery from its place is a third of the length of the history.
        let distance: usize = order.iter().enumerate().map(|(place, event)| place.abs_diff(*event)).sum();
        assert!(distance / order.len() > events / 5, "{per_mille}");
    }
}
