//! Cascades to child rows of deleted parents.

use rollbook_core::catalog::{
    ORGANIZATION_DOMAINS, ORGANIZATION_INVITATIONS, ORGANIZATION_MEMBERSHIPS, Resource, SESSIONS,
    SUBSCRIPTIONS,
};
use rollbook_core::change::Applied::{Deleted, Inserted, Stale, Unchanged, Updated};
use rollbook_core::time::Timestamp;
use serde_json::{Value, json};

use super::deleting::{assert_bare, erase_the_deleted};
use super::{Mirror, StoreHarness};
use crate::events::{START, deleted, event, membership};

/// Returns one child row of each kind for `user_1` or `org_1`: its table, its id, its event, and whether it
/// is deleted with its user and with its organization.
fn children() -> Vec<(&'static Resource, &'static str, Value, [bool; 2])> {
    let child = |resource, id, event_type: &str, data: Value, ends| {
        let mut data = data;
        data["id"] = json!(id);
        data["updated_at"] = json!(START);
        (resource, id, event(event_type, START, &data), ends)
    };
    let payer = json!({ "user_id": "user_1", "organization_id": "" });
    let of_organization = json!({ "organization_id": "org_1", "email_address": "ines@work.example" });
    vec![
        child(
            &ORGANIZATION_MEMBERSHIPS,
            "orgmem_1",
            "organizationMembership.created",
            membership("orgmem_1", "org_1", "user_1", START),
            [true, true],
        ),
        child(
            &ORGANIZATION_INVITATIONS,
            "orginv_1",
            "organizationInvitation.created",
            of_organization.clone(),
            [false, true],
        ),
        child(
            &ORGANIZATION_DOMAINS,
            "orgdmn_1",
            "organizationDomain.created",
            of_organization,
            [false, true],
        ),
        child(&SESSIONS, "sess_1", "session.created", json!({ "user_id": "user_1" }), [true, false]),
        child(&SUBSCRIPTIONS, "csub_1", "subscription.created", json!({ "payer": payer }), [false, false]),
    ]
}

fn user_deleted(at: i64) -> Value {
    event("user.deleted", START + at, &deleted("user", "user_1"))
}

fn organization_deleted(at: i64) -> Value {
    event("organization.deleted", START + at, &deleted("organization", "org_1"))
}

fn moment(at: i64) -> Value {
    json!(Timestamp::from_millis(START + at).to_string())
}

/// Asserts the `deleted_at` of each child.
async fn assert_ended<H: StoreHarness>(mirror: &Mirror<H>, user: Option<i64>, organization: Option<i64>) {
    for (resource, id, _, [with_user, with_organization]) in children() {
        let ends = [user.filter(|_| with_user), organization.filter(|_| with_organization)];
        let expected = ends.into_iter().flatten().min().map_or(Value::Null, moment);
        assert_eq!(mirror.row(resource, id).await["deleted_at"], expected, "{id}");
    }
}

async fn create_children<H: StoreHarness>(mirror: &Mirror<H>) {
    let events: Vec<(&str, Value)> = children().into_iter().map(|(_, id, event, _)| (id, event)).collect();
    assert_eq!(mirror.apply(&events).await, [Inserted; 5]);
}

pub async fn child_rows_of_a_user_are_deleted_with_it(mirror: Mirror<impl StoreHarness>) {
    create_children(&mirror).await;
    assert_ended(&mirror, None, None).await;
    mirror.apply_one("msg_1", user_deleted(7)).await;
    assert_ended(&mirror, Some(7), None).await;
}

pub async fn child_rows_of_an_organization_are_deleted_with_it(mirror: Mirror<impl StoreHarness>) {
    create_children(&mirror).await;
    mirror.apply_one("msg_1", organization_deleted(7)).await;
    assert_ended(&mirror, None, Some(7)).await;
    mirror.apply_one("msg_2", user_deleted(5)).await;
    assert_ended(&mirror, Some(5), Some(7)).await;
}

pub async fn a_child_that_arrives_after_its_parents_deletion_is_deleted_too(
    mirror: Mirror<impl StoreHarness>,
) {
    mirror.apply(&[("msg_1", organization_deleted(7)), ("msg_2", user_deleted(9))]).await;
    create_children(&mirror).await;
    assert_ended(&mirror, Some(9), Some(7)).await;
}

pub async fn parents_and_children_may_come_in_one_batch(mirror: Mirror<impl StoreHarness>) {
    let mut batch: Vec<(&str, Value)> = children().into_iter().map(|(_, id, event, _)| (id, event)).collect();
    batch.insert(2, ("msg_1", organization_deleted(7)));
    batch.push(("msg_2", user_deleted(9)));
    mirror.apply(&batch).await;
    assert_ended(&mirror, Some(9), Some(7)).await;
}

pub async fn a_newer_child_does_not_undo_its_parents_deletion(mirror: Mirror<impl StoreHarness>) {
    create_children(&mirror).await;
    mirror.apply_one("msg_1", user_deleted(7)).await;
    let data = membership("orgmem_1", "org_1", "user_1", START + 50);
    let updated = event("organizationMembership.updated", START + 50, &data);
    assert_eq!(mirror.apply_one("msg_2", updated).await, Updated);
    assert_ended(&mirror, Some(7), None).await;
}

pub async fn a_newer_child_that_names_no_parents_keeps_those_that_are_known_whichever_comes_first(
    mirror: Mirror<impl StoreHarness>,
) {
    let named = |id: &str| {
        let data = membership(id, "org_1", "user_1", START);
        event("organizationMembership.created", START, &data)
    };
    let bare = |id: &str| {
        let mut data = membership(id, "org_1", "user_1", START + 5);
        (data["public_user_data"], data["role"]) = (Value::Null, json!("org:owner"));
        event("organizationMembership.updated", START + 5, &data)
    };
    let (first, second) = ("orgmem_1", "orgmem_2");
    assert_eq!(mirror.apply_one("msg_1", named(first)).await, Inserted);
    assert_eq!(mirror.apply_one("msg_2", bare(first)).await, Updated);
    assert_eq!(mirror.apply_one("msg_3", bare(second)).await, Inserted);
    assert_eq!(mirror.apply_one("msg_4", named(second)).await, Updated);
    assert_eq!(mirror.apply_one("msg_4", named(second)).await, Stale, "no parent is left to learn");
    for id in [first, second] {
        let row = mirror.row(&ORGANIZATION_MEMBERSHIPS, id).await;
        assert_eq!((&row["user_id"], &row["role"]), (&json!("user_1"), &json!("org:owner")), "{id}");
    }
    mirror.apply_one("msg_5", user_deleted(7)).await;
    for id in [first, second] {
        assert_eq!(mirror.row(&ORGANIZATION_MEMBERSHIPS, id).await["deleted_at"], moment(7), "{id}");
    }
    // If the parent was deleted before, the row is deleted as soon as the parent becomes known.
    assert_eq!(
        mirror.apply(&[("msg_6", bare("orgmem_3")), ("msg_7", named("orgmem_3"))]).await,
        [Inserted, Updated]
    );
    assert_eq!(mirror.row(&ORGANIZATION_MEMBERSHIPS, "orgmem_3").await["deleted_at"], moment(7));
    assert_eq!(mirror.apply_one("msg_8", bare("orgmem_4")).await, Inserted);
    assert_eq!(mirror.apply_one("msg_9", named("orgmem_4")).await, Updated);
    assert_eq!(mirror.row(&ORGANIZATION_MEMBERSHIPS, "orgmem_4").await["deleted_at"], moment(7));
}

pub async fn a_childs_own_end_says_when(mirror: Mirror<impl StoreHarness>) {
    create_children(&mirror).await;
    let data = membership("orgmem_1", "org_1", "user_1", START);
    let left = event("organizationMembership.deleted", START + 9, &data);
    mirror.apply_one("msg_1", user_deleted(7)).await;
    assert_eq!(mirror.apply_one("msg_2", left).await, Deleted);
    let deleted_at = mirror.row(&ORGANIZATION_MEMBERSHIPS, "orgmem_1").await["deleted_at"].clone();
    assert_eq!(deleted_at, moment(9));
}

pub async fn a_redelivered_deletion_of_a_parent_changes_no_child(mirror: Mirror<impl StoreHarness>) {
    create_children(&mirror).await;
    mirror.apply_one("msg_1", user_deleted(7)).await;
    let before = mirror.row(&SESSIONS, "sess_1").await;
    mirror.harness.clock().advance(std::time::Duration::from_secs(1));
    assert_eq!(mirror.apply_one("msg_1", user_deleted(7)).await, Unchanged);
    assert_eq!(mirror.row(&SESSIONS, "sess_1").await, before);
}

pub async fn child_rows_of_the_erased_keep_only_the_ids_of_their_parents(
    mut mirror: Mirror<impl StoreHarness>,
) {
    erase_the_deleted(&mut mirror).await;
    create_children(&mirror).await;
    mirror.apply_one("msg_1", user_deleted(7)).await;
    let links = ["organization_id", "user_id"];
    assert_bare(&mirror, &ORGANIZATION_MEMBERSHIPS, "orgmem_1", START + 7, &links).await;
    assert_bare(&mirror, &SESSIONS, "sess_1", START + 7, &["user_id"]).await;
    let paid = mirror.row(&SUBSCRIPTIONS, "csub_1").await;
    assert!(!paid["data"].is_null() && paid["deleted_at"].is_null(), "billing rows stay");
    // Neither a late child nor a newer version restores content.
    let late = membership("orgmem_2", "org_1", "user_1", START);
    mirror.apply_one("msg_2", event("organizationMembership.created", START, &late)).await;
    let newer = membership("orgmem_1", "org_1", "user_1", START + 50);
    mirror.apply_one("msg_3", event("organizationMembership.updated", START + 50, &newer)).await;
    for id in ["orgmem_1", "orgmem_2"] {
        assert_bare(&mirror, &ORGANIZATION_MEMBERSHIPS, id, START + 7, &links).await;
    }
}

pub async fn an_earlier_deletion_that_comes_late_is_shown_with_a_redelivered_later_one(
    mirror: Mirror<impl StoreHarness>,
) {
    create_children(&mirror).await;
    mirror.apply_one("msg_1", organization_deleted(8)).await;
    let batch = [("msg_2", user_deleted(5)), ("msg_1", organization_deleted(8))];
    assert_eq!(mirror.apply(&batch).await, [Deleted, Unchanged]);
    assert_ended(&mirror, Some(5), Some(8)).await;
}
