//! Reads of the reconciler: states, contents, and rows that are not deleted.

use std::time::Duration;

use rollbook_core::catalog::{ORGANIZATION_MEMBERSHIPS, ORGANIZATIONS, ROLES, Resource, USERS};
use rollbook_core::change::Applied::{Deleted, Inserted};
use rollbook_core::merge::{Content, SubjectState};
use rollbook_core::source::{Lookup, RECONCILED, Window};
use rollbook_core::store::Living;
use rollbook_core::time::{Clock as _, Timestamp};
use serde_json::{Map, Value, json};

use super::reconciling::{data_of, reading_of};
use super::{Mirror, StoreHarness};
use crate::events::{START, deleted, event, membership, user};

const LIMIT: usize = 100;

fn at(offset: i64) -> Timestamp {
    Timestamp::from_millis(START + offset)
}

/// Returns the event of a user that was created at this offset, or at no known time.
fn born(id: &str, created_at: Option<i64>) -> (String, Value) {
    let mut data = user(id, START);
    data["created_at"] = created_at.map_or(Value::Null, |at| json!(START + at));
    (format!("msg_{id}"), event("user.created", START, &data))
}

async fn bear<H: StoreHarness>(mirror: &Mirror<H>, users: &[(&str, Option<i64>)]) {
    let events: Vec<(String, Value)> = users.iter().map(|(id, created_at)| born(id, *created_at)).collect();
    let events: Vec<(&str, Value)> = events.iter().map(|(id, event)| (id.as_str(), event.clone())).collect();
    assert!(mirror.apply(&events).await.iter().all(|applied| *applied == Inserted));
}

/// Returns the ids of living users of a window, written before `untouched_since`, after a row.
async fn living<H: StoreHarness>(
    mirror: &Mirror<H>,
    window: Window,
    untouched_since: Timestamp,
    after: Option<&Living>,
    limit: usize,
) -> Vec<Living> {
    let found = mirror.harness.store().living(&USERS, window, untouched_since, after, limit).await;
    found.expect("the store lists living rows")
}

fn ids(found: &[Living]) -> Vec<&str> {
    found.iter().map(|row| row.lookup.id.as_str()).collect()
}

async fn undated<H: StoreHarness>(
    mirror: &Mirror<H>,
    resource: &'static Resource,
    after: Option<&str>,
    limit: usize,
) -> Vec<Lookup> {
    let found = mirror.harness.store().undated(resource, later(mirror), after, limit).await;
    found.expect("the store lists rows without a time")
}

/// A time after every write so far.
fn later<H: StoreHarness>(mirror: &Mirror<H>) -> Timestamp {
    mirror.harness.clock().now().plus(Duration::from_millis(1))
}

async fn count<H: StoreHarness>(mirror: &Mirror<H>, resource: &'static Resource) -> u64 {
    mirror.harness.store().count_living(resource).await.expect("the store counts")
}

pub async fn the_states_of_subjects_are_those_of_the_merge_and_the_unknown_have_none(
    mirror: Mirror<impl StoreHarness>,
) {
    bear(&mirror, &[("user_1", None), ("user_2", None)]).await;
    let end = event("user.deleted", START + 7, &deleted("user", "user_2"));
    assert_eq!(mirror.apply_one("msg_end", end).await, Deleted);
    let gone = [(&USERS, "user_3".to_owned())];
    mirror.harness.store().erase(&gone, at(9)).await.expect("the store erases");
    let asked = ["user_1", "user_2", "user_3", "user_4"];
    let mut heads = mirror.harness.store().heads(&USERS, &asked).await.expect("the store reads");
    heads.sort_by(|one, other| one.id.cmp(&other.id));
    let version = |head: &SubjectState| match head.content {
        Content::At(version) => (version.updated_at, version.event_at),
        other => panic!("{other:?}"),
    };
    assert_eq!(heads.iter().map(|head| head.id.as_str()).collect::<Vec<_>>(), &asked[..3]);
    assert_eq!((version(&heads[0].state), heads[0].state.deleted_at), ((START, START), None));
    assert_eq!((version(&heads[1].state), heads[1].state.deleted_at), ((START, START), Some(START + 7)));
    assert_eq!(heads[2].state, SubjectState::default().erased_by_operator(at(9)));
    assert_eq!(mirror.harness.store().heads(&USERS, &[]).await, Ok(Vec::new()));
}

pub async fn the_states_of_a_whole_page_are_read_at_once(mirror: Mirror<impl StoreHarness>) {
    let names: Vec<String> = (0..500).map(|number| format!("user_{number:03}")).collect();
    bear(&mirror, &names.iter().map(|id| (id.as_str(), None)).collect::<Vec<_>>()).await;
    let asked: Vec<&str> = names.iter().map(String::as_str).collect();
    let heads = mirror.harness.store().heads(&USERS, &asked).await.expect("the store reads");
    assert_eq!(heads.len(), 500);
}

pub async fn contents_are_the_stored_objects_and_rows_without_content_have_none(
    mirror: Mirror<impl StoreHarness>,
) {
    bear(&mirror, &[("user_1", None), ("user_2", None)]).await;
    for id in ["user_2", "user_3"] {
        mirror.apply_one(id, event("user.deleted", START + 7, &deleted("user", id))).await;
    }
    let joined = membership("orgmem_1", "org_1", "user_4", START);
    mirror.apply_one("msg_m", event("organizationMembership.created", START, &joined)).await;
    let gone = [(&USERS, "user_4".to_owned())];
    mirror.harness.store().erase(&gone, at(9)).await.expect("the store erases");
    let asked = ["user_1", "user_2", "user_3", "user_4", "user_5"];
    let contents = mirror.harness.store().contents(&USERS, &asked).await.expect("the store reads");
    let mut contents: Vec<(String, Map<String, Value>)> =
        contents.into_iter().map(|(id, text)| (id, serde_json::from_str(&text).expect("JSON"))).collect();
    contents.sort_by(|one, other| one.0.cmp(&other.0));
    let expected = |id: &str| (id.to_owned(), data_of(&born(id, None).1));
    assert_eq!(contents, [expected("user_1"), expected("user_2")], "a deleted row keeps its content");
    let child = mirror.harness.store().contents(&ORGANIZATION_MEMBERSHIPS, &["orgmem_1"]).await;
    assert_eq!(child, Ok(Vec::new()), "its user is erased");
}

pub async fn living_rows_are_in_the_order_of_their_creation_and_ties_in_that_of_their_ids(
    mirror: Mirror<impl StoreHarness>,
) {
    bear(
        &mirror,
        &[
            ("user_c", Some(5)),
            ("user_B", Some(5)),
            ("user_a", Some(9)),
            ("user_d", Some(5)),
            ("user_e", None),
        ],
    )
    .await;
    let since = later(&mirror);
    let all = living(&mirror, Window::ALL, since, None, LIMIT).await;
    assert_eq!(
        ids(&all),
        ["user_B", "user_c", "user_d", "user_a"],
        "the order of ids is that of their bytes"
    );
    assert_eq!(all[3], Living { created_at: at(9), lookup: Lookup { id: "user_a".into(), ..bare() } });
    let first = living(&mirror, Window::ALL, since, None, 2).await;
    assert_eq!(ids(&first), ["user_B", "user_c"]);
    let rest = living(&mirror, Window::ALL, since, Some(&first[1]), 2).await;
    assert_eq!(ids(&rest), ["user_d", "user_a"]);
    assert_eq!(living(&mirror, Window::ALL, since, Some(&rest[1]), 2).await, []);
    assert_eq!(living(&mirror, Window::ALL, since, None, 0).await, []);
}

fn bare() -> Lookup {
    Lookup { id: String::new(), organization_id: None, user_id: None }
}

pub async fn a_window_contains_its_beginning_and_not_its_end(mirror: Mirror<impl StoreHarness>) {
    bear(&mirror, &[("user_4", Some(4)), ("user_5", Some(5)), ("user_6", Some(6)), ("user_7", Some(7))])
        .await;
    let since = later(&mirror);
    let window = Window { from: at(5), to: at(7) };
    let found = living(&mirror, window, since, None, LIMIT).await;
    assert_eq!(ids(&found), ["user_5", "user_6"]);
    let before = Living { created_at: at(4), lookup: Lookup { id: "user_9".into(), ..bare() } };
    assert_eq!(living(&mirror, window, since, Some(&before), LIMIT).await, found, "after a row before it");
    let within = living(&mirror, window, since, Some(&found[0]), LIMIT).await;
    assert_eq!(ids(&within), ["user_6"]);
    assert_eq!(living(&mirror, Window { from: at(5), to: at(5) }, since, None, LIMIT).await, []);
}

pub async fn rows_of_extreme_times_are_in_the_window_of_all_times(mirror: Mirror<impl StoreHarness>) {
    let last = 253_402_207_200_000;
    bear(&mirror, &[("user_1", Some(-START)), ("user_2", Some(last - START))]).await;
    let all = living(&mirror, Window::ALL, later(&mirror), None, LIMIT).await;
    let times: Vec<i64> = all.iter().map(|row| row.created_at.as_millis()).collect();
    assert_eq!(times, [0, last]);
}

pub async fn rows_that_were_written_since_are_not_listed(mirror: Mirror<impl StoreHarness>) {
    let began_at = mirror.harness.clock().now();
    bear(&mirror, &[("user_1", Some(1)), ("user_2", None)]).await;
    let store = mirror.harness.store();
    for (since, expected) in [(began_at, false), (began_at.plus(Duration::from_millis(1)), true)] {
        assert_eq!(!living(&mirror, Window::ALL, since, None, LIMIT).await.is_empty(), expected);
        let undated = store.undated(&USERS, since, None, LIMIT).await.expect("the store reads");
        assert_eq!(!undated.is_empty(), expected);
    }
    mirror.harness.clock().advance(Duration::from_millis(1));
    mirror.apply_one("msg_late", event("user.updated", START + 1, &user("user_1", START + 1))).await;
    assert_eq!(living(&mirror, Window::ALL, began_at.plus(Duration::from_millis(1)), None, LIMIT).await, []);
}

pub async fn a_living_row_names_its_parents_and_a_deleted_one_is_not_listed(
    mirror: Mirror<impl StoreHarness>,
) {
    for (id, organization) in [("orgmem_1", "org_1"), ("orgmem_2", "org_2"), ("orgmem_3", "org_1")] {
        let joined = membership(id, organization, "user_1", START);
        mirror.apply_one(id, event("organizationMembership.created", START, &joined)).await;
    }
    let left = membership("orgmem_3", "org_1", "user_1", START);
    mirror.apply_one("msg_left", event("organizationMembership.deleted", START + 1, &left)).await;
    let end = event("organization.deleted", START + 2, &deleted("organization", "org_2"));
    mirror.apply_one("msg_end", end).await;
    mirror.work_off().await;
    let store = mirror.harness.store();
    let found = store.living(&ORGANIZATION_MEMBERSHIPS, Window::ALL, later(&mirror), None, LIMIT).await;
    let lookup = Lookup {
        id: "orgmem_1".into(),
        organization_id: Some("org_1".into()),
        user_id: Some("user_1".into()),
    };
    let created_at = Timestamp::from_millis(START - 3_600_000);
    assert_eq!(found, Ok(vec![Living { created_at, lookup }]));
    assert_eq!(count(&mirror, &ORGANIZATION_MEMBERSHIPS).await, 1);
    assert_eq!(count(&mirror, &ORGANIZATIONS).await, 0);
}

pub async fn every_reconciled_resource_lists_and_counts_its_living_rows(mirror: Mirror<impl StoreHarness>) {
    for resource in RECONCILED {
        let id = format!("of_{}", resource.table);
        for (number, created_at) in [(1, json!(START)), (2, Value::Null)] {
            let object = json!({ "id": format!("{id}_{number}"), "created_at": created_at });
            assert_eq!(mirror.apply_changes(&[reading_of(resource, &object, START)]).await, [Inserted]);
        }
        let store = mirror.harness.store();
        let found = store.living(resource, Window::ALL, later(&mirror), None, LIMIT).await;
        assert_eq!(ids(&found.expect("the store lists living rows")), [format!("{id}_1")]);
        let without = undated(&mirror, resource, None, LIMIT).await;
        assert_eq!(without, [Lookup { id: format!("{id}_2"), ..bare() }]);
        assert_eq!(count(&mirror, resource).await, 2, "{resource:?}");
    }
}

pub async fn living_rows_without_a_time_are_in_the_order_of_their_ids(mirror: Mirror<impl StoreHarness>) {
    bear(&mirror, &[("user_c", None), ("user_B", None), ("user_a", Some(1)), ("user_d", None)]).await;
    mirror.apply_one("msg_end", event("user.deleted", START + 1, &deleted("user", "user_d"))).await;
    let names = |found: Vec<Lookup>| found.into_iter().map(|lookup| lookup.id).collect::<Vec<_>>();
    assert_eq!(names(undated(&mirror, &USERS, None, LIMIT).await), ["user_B", "user_c"]);
    assert_eq!(names(undated(&mirror, &USERS, None, 1).await), ["user_B"]);
    assert_eq!(names(undated(&mirror, &USERS, Some("user_B"), LIMIT).await), ["user_c"]);
    assert_eq!(undated(&mirror, &USERS, Some("user_c"), LIMIT).await, []);
    assert_eq!((count(&mirror, &USERS).await, count(&mirror, &ROLES).await), (3, 0));
}
