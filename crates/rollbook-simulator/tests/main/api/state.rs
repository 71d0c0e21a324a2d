//! The state that the API serves follows the history, and can be edited.

use std::collections::BTreeSet;

use rollbook_core::time::Timestamp;
use rollbook_simulator::state::TABLES;
use rollbook_simulator::truth::Expected;

use super::{Stage, history};

#[test]
fn the_state_at_the_end_has_the_living_subjects_of_the_truth() {
    let history = history();
    let state = history.state();
    for table in TABLES {
        let subjects = history.truth.rows.iter().filter(|((of, _), _)| *of == table);
        let live = subjects.filter(|(_, expected)| matches!(expected, Expected::Live(_)));
        assert_eq!(state.ids(table), live.map(|((_, id), _)| id.clone()).collect::<Vec<_>>(), "{table}");
    }
}

#[test]
fn a_state_that_is_stepped_event_by_event_is_the_state_after_each_event() {
    let history = history();
    let mut stepped = history.state_after(0);
    assert!(TABLES.iter().all(|table| stepped.ids(table).is_empty()));
    for events in 1..=history.events.len() {
        stepped.advance_to(events);
        if events % 50 == 0 {
            let fresh = history.state_after(events);
            for table in TABLES {
                assert_eq!(stepped.ids(table), fresh.ids(table), "{table} after {events}");
                for id in fresh.ids(table) {
                    assert_eq!(stepped.object(table, &id), fresh.object(table, &id));
                }
            }
        }
    }
    // It never goes back.
    let users = stepped.ids("users");
    stepped.advance_to(0);
    assert_eq!(stepped.ids("users"), users);
}

#[tokio::test]
async fn nested_copies_are_as_new_as_their_objects() {
    let stage = Stage::new(history().state()).await;
    let memberships = stage.get("/organization_memberships?limit=500").await.json();
    for membership in memberships["data"].as_array().expect("a list") {
        let id = membership["organization"]["id"].as_str().expect("an id");
        let organization = stage.get(&format!("/organizations/{id}")).await.json();
        assert_eq!(membership["organization"]["name"], organization["name"]);
    }
}

#[tokio::test]
async fn organizations_have_their_member_count_only_if_asked() {
    let stage = Stage::new(history().state()).await;
    assert_eq!(stage.get("/organizations").await.json()["data"][0].get("members_count"), None);
    let asked = stage.get("/organizations?include_members_count=true").await.json();
    let organization = &asked["data"][0];
    let id = organization["id"].as_str().expect("an id");
    let members = stage.get(&format!("/organizations/{id}/memberships")).await;
    assert_eq!(organization["members_count"], members.total());
    let one = stage.get(&format!("/organizations/{id}?include_members_count=true")).await.json();
    assert_eq!(&one, organization);
}

#[tokio::test]
async fn what_a_hook_changes_after_a_page_is_on_later_pages_only() {
    let stage = Stage::new(history().state()).await;
    let users = stage.get("/users?limit=500&order_by=created_at").await.ids();
    let (first, last) = (users[0].clone(), users[users.len() - 1].clone());
    let objects = stage.state.clone();
    let (removed, copied) = (last.clone(), first.clone());
    stage.api.controls().after_each_page(move |request| {
        assert_eq!(request.path, "/users");
        let mut objects = objects.lock().expect("no panic");
        objects.remove("users", &removed);
        objects.insert_copy("users", &copied, "user_new", Timestamp::from_millis(1_900_000_000_000));
    });
    let before = stage.get("/users?limit=500&order_by=created_at").await.ids();
    assert_eq!(before, users);
    let after: BTreeSet<String> = stage.get("/users?limit=500").await.ids().into_iter().collect();
    assert!(after.contains("user_new") && !after.contains(&last));
    assert_eq!(after.len(), users.len());
}

#[test]
fn a_removed_parent_takes_its_children_along() {
    let mut state = history().state();
    let membership = state.object("organization_memberships", &state.ids("organization_memberships")[0]);
    let membership = membership.expect("a membership");
    let organization = membership["organization"]["id"].as_str().expect("an id");
    assert!(state.remove("organizations", organization));
    assert!(!state.remove("organizations", organization));
    for id in state.ids("organization_memberships") {
        let other = state.object("organization_memberships", &id).expect("a membership");
        assert_ne!(other["organization"]["id"], organization);
    }
    assert!(
        !state
            .ids("organization_memberships")
            .contains(&membership["id"].as_str().expect("an id").to_owned())
    );
}
