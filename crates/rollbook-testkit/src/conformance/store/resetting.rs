//! An operator's reset of a row, and the fresh reading that revives it.

use rollbook_core::catalog::{
    ORGANIZATION_MEMBERSHIPS, ORGANIZATIONS, Resource, SESSIONS, SUBSCRIPTIONS, USERS,
};
use rollbook_core::change::Applied::{self, Deleted, Ignored, Inserted, Stale, Updated};
use rollbook_core::store::{Reset, RetentionLimits};
use rollbook_core::time::Timestamp;
use serde_json::{Value, json};

use super::deleting::{assert_bare, erase_the_deleted};
use super::reconciling::reading_of;
use super::{Mirror, StoreHarness};
use crate::events::{START, deleted, event, membership, organization, user};

fn moment(at: i64) -> Value {
    json!(Timestamp::from_millis(START + at).to_string())
}

/// Resets a row that has the state that it has now. Returns the floor after [`START`]; `None` if there is no row.
pub(super) async fn reset<H: StoreHarness>(
    mirror: &Mirror<H>,
    resource: &'static Resource,
    id: &str,
) -> Option<i64> {
    let store = mirror.harness.store();
    let state = store.heads(resource, &[id]).await.expect("the store reads").pop().map(|head| head.state);
    let done = store.reset(resource, id, &state.unwrap_or_default()).await.expect("the store resets");
    mirror.work_off().await;
    match done {
        Reset::Done(floor) => Some(floor.as_millis() - START),
        Reset::Changed => None,
    }
}

pub async fn a_row_that_has_changed_since_it_was_read_is_not_reset(mirror: Mirror<impl StoreHarness>) {
    create(&mirror).await;
    let store = mirror.harness.store();
    let state = async || store.heads(&USERS, &["user_1"]).await.expect("the store reads")[0].state;
    assert_eq!(end(&mirror, "user", "user_1", 7).await, Deleted);
    let read = state().await;
    assert_eq!(end(&mirror, "user", "user_1", 9).await, Deleted, "a later deletion arrives meanwhile");
    let line = mirror.row(&USERS, "user_1").await;
    assert_eq!(store.reset(&USERS, "user_1", &read).await, Ok(Reset::Changed));
    assert_eq!(mirror.row(&USERS, "user_1").await, line, "nothing is written");
    let read = state().await;
    let done = Reset::Done(Timestamp::from_millis(START + 9));
    for _ in 0..2 {
        // A command that lost its answer repeats the call.
        assert_eq!(store.reset(&USERS, "user_1", &read).await, Ok(done));
    }
    assert_eq!(store.reset(&USERS, "user_2", &read).await, Ok(Reset::Changed), "there is no row");
}

pub async fn the_living_children_of_parents_are_counted_up_to_a_limit(mirror: Mirror<impl StoreHarness>) {
    create(&mirror).await;
    for (number, organization) in [(2, "org_1"), (3, "org_1"), (4, "org_2")] {
        let (id, user) = (format!("orgmem_{number}"), format!("user_{number}"));
        let joined = membership(&id, organization, &user, START);
        mirror.apply_one(&format!("msg_{id}"), event("organizationMembership.created", START, &joined)).await;
    }
    let left = membership("orgmem_3", "org_1", "user_3", START);
    mirror.apply_one("msg_left", event("organizationMembership.deleted", START + 5, &left)).await;
    let store = mirror.harness.store();
    for (parent, ids, limit, expected) in [
        (&ORGANIZATIONS, &["org_1"][..], 10, 2),
        (&ORGANIZATIONS, &["org_1", "org_2", "org_3"], 10, 3),
        (&ORGANIZATIONS, &["org_1", "org_2"], 2, 2),
        (&ORGANIZATIONS, &[], 10, 0),
        (&USERS, &["user_1", "user_4", "user_3"], 10, 2),
        (&SESSIONS, &["sess_1"], 10, 0),
    ] {
        let found = store.count_children(&ORGANIZATION_MEMBERSHIPS, parent, ids, limit).await;
        assert_eq!(found, Ok(expected), "{parent:?} {ids:?}");
    }
    assert_eq!(store.count_children(&SESSIONS, &USERS, &["user_1"], 10).await, Ok(1));
    assert_eq!(store.count_children(&SUBSCRIPTIONS, &USERS, &["user_1"], 10).await, Ok(0), "they outlive it");
}

async fn create<H: StoreHarness>(mirror: &Mirror<H>) {
    let subscription =
        json!({ "id": "csub_1", "status": "active", "payer": { "user_id": "user_1" }, "updated_at": START });
    let applied = mirror
        .apply(&[
            ("msg_1", event("organization.created", START, &organization("org_1", START))),
            ("msg_2", event("user.created", START, &user("user_1", START))),
            (
                "msg_3",
                event(
                    "organizationMembership.created",
                    START,
                    &membership("orgmem_1", "org_1", "user_1", START),
                ),
            ),
            ("msg_4", event("session.created", START, &json!({ "id": "sess_1", "user_id": "user_1" }))),
            ("msg_5", event("subscription.created", START, &subscription)),
        ])
        .await;
    assert_eq!(applied, [Inserted; 5]);
}

async fn end<H: StoreHarness>(mirror: &Mirror<H>, object: &str, id: &str, at: i64) -> Applied {
    let gone = event(&format!("{object}.deleted"), START + at, &deleted(object, id));
    let applied = mirror.apply_one(&format!("msg_end_{id}_{at}"), gone).await;
    mirror.work_off().await;
    applied
}

pub async fn a_row_that_was_reset_is_empty_and_a_fresh_reading_revives_it(mirror: Mirror<impl StoreHarness>) {
    create(&mirror).await;
    assert_eq!(end(&mirror, "user", "user_1", 7).await, Deleted);
    assert_eq!(reset(&mirror, &USERS, "user_1").await, Some(7));
    let row = mirror.row(&USERS, "user_1").await;
    assert_eq!(
        (&row["synced_by"], &row["deleted_at"], &row["data"]),
        (&json!("reset"), &Value::Null, &Value::Null)
    );
    assert_eq!(end(&mirror, "user", "user_1", 7).await, Ignored, "a replay of the deletion");
    let late = event("user.updated", START + 7, &user("user_1", START + 99));
    assert_eq!(mirror.apply_one("msg_late", late).await, Ignored);
    let object = user("user_1", START);
    let read = |at| [reading_of(&USERS, &object, START + at)];
    assert_eq!(mirror.apply_changes(&read(7)).await, [Ignored], "a reading at the floor");
    assert_eq!(mirror.apply_changes(&read(8)).await, [Inserted]);
    let row = mirror.row(&USERS, "user_1").await;
    assert_eq!((&row["first_name"], &row["deleted_at"]), (&json!("Ines"), &Value::Null));
    assert_eq!(end(&mirror, "user", "user_1", 9).await, Deleted, "a later deletion counts");
    assert_eq!(mirror.row(&USERS, "user_1").await["deleted_at"], moment(9));
}

pub async fn a_row_that_a_deletion_alone_has_made_can_be_reset(mirror: Mirror<impl StoreHarness>) {
    assert_eq!(reset(&mirror, &USERS, "user_1").await, None);
    assert_eq!(mirror.find(&USERS, "user_1").await, None, "an unknown subject gets no row");
    assert_eq!(end(&mirror, "user", "user_1", 7).await, Deleted);
    for _ in 0..2 {
        assert_eq!(reset(&mirror, &USERS, "user_1").await, Some(7));
    }
    assert_eq!(mirror.row(&USERS, "user_1").await["deleted_at"], Value::Null);
}

pub async fn child_rows_no_longer_show_the_deletion_of_a_parent_that_was_reset(
    mirror: Mirror<impl StoreHarness>,
) {
    create(&mirror).await;
    end(&mirror, "user", "user_1", 7).await;
    end(&mirror, "organization", "org_1", 9).await;
    let children = async |expected: [Value; 2]| {
        let shown = [
            mirror.row(&ORGANIZATION_MEMBERSHIPS, "orgmem_1").await["deleted_at"].clone(),
            mirror.row(&SESSIONS, "sess_1").await["deleted_at"].clone(),
        ];
        assert_eq!(shown, expected);
    };
    children([moment(7), moment(7)]).await;
    assert_eq!(reset(&mirror, &USERS, "user_1").await, Some(7));
    children([moment(9), Value::Null]).await;
    // A replay of the deletion, or of a child, does not bring it back.
    assert_eq!(end(&mirror, "user", "user_1", 7).await, Ignored);
    children([moment(9), Value::Null]).await;
    assert_eq!(reset(&mirror, &ORGANIZATIONS, "org_1").await, Some(9));
    children([Value::Null, Value::Null]).await;
    assert_eq!(mirror.row(&ORGANIZATION_MEMBERSHIPS, "orgmem_1").await["role"], "org:admin");
    assert_eq!(end(&mirror, "user", "user_1", 11).await, Deleted);
    children([moment(11), moment(11)]).await;
}

pub async fn a_child_that_was_reset_keeps_the_ids_of_its_parents_and_shows_their_deletion(
    mirror: Mirror<impl StoreHarness>,
) {
    create(&mirror).await;
    let left = membership("orgmem_1", "org_1", "user_1", START);
    let left = event("organizationMembership.deleted", START + 5, &left);
    assert_eq!(mirror.apply_one("msg_left", left).await, Deleted);
    end(&mirror, "organization", "org_1", 7).await;
    assert_eq!(reset(&mirror, &ORGANIZATION_MEMBERSHIPS, "orgmem_1").await, Some(5));
    let links = ["organization_id", "user_id"];
    assert_bare(&mirror, &ORGANIZATION_MEMBERSHIPS, "orgmem_1", START + 7, &links).await;
    assert_eq!(reset(&mirror, &ORGANIZATIONS, "org_1").await, Some(7));
    assert_eq!(mirror.row(&ORGANIZATION_MEMBERSHIPS, "orgmem_1").await["deleted_at"], Value::Null);
    let object = membership("orgmem_1", "org_1", "user_1", START);
    let reading = reading_of(&ORGANIZATION_MEMBERSHIPS, &object, START + 6);
    assert_eq!(mirror.apply_changes(&[reading]).await, [Inserted]);
    assert_eq!(mirror.row(&ORGANIZATION_MEMBERSHIPS, "orgmem_1").await["role"], "org:admin");
}

pub async fn children_that_lost_their_content_with_a_parent_get_it_from_a_fresh_reading(
    mut mirror: Mirror<impl StoreHarness>,
) {
    erase_the_deleted(&mut mirror).await;
    create(&mirror).await;
    assert_eq!(end(&mirror, "organization", "org_1", 7).await, Deleted);
    let links = ["organization_id", "user_id"];
    assert_bare(&mirror, &ORGANIZATION_MEMBERSHIPS, "orgmem_1", START + 7, &links).await;
    assert_eq!(reset(&mirror, &ORGANIZATIONS, "org_1").await, Some(7));
    let object = organization("org_1", START);
    assert_eq!(mirror.apply_changes(&[reading_of(&ORGANIZATIONS, &object, START + 8)]).await, [Inserted]);
    // The same content at the same version: no later version would come.
    let object = membership("orgmem_1", "org_1", "user_1", START);
    mirror.apply_changes(&[reading_of(&ORGANIZATION_MEMBERSHIPS, &object, START)]).await;
    let row = mirror.row(&ORGANIZATION_MEMBERSHIPS, "orgmem_1").await;
    assert_eq!((&row["role"], &row["deleted_at"]), (&json!("org:admin"), &Value::Null));
}

pub async fn a_row_that_an_operator_erased_stays_erased_after_a_reset(mirror: Mirror<impl StoreHarness>) {
    create(&mirror).await;
    let at = Timestamp::from_millis(START + 100);
    mirror.harness.store().erase(&[(&USERS, "user_1".into())], at).await.expect("the store erases");
    assert_eq!(reset(&mirror, &USERS, "user_1").await, Some(100));
    let object = user("user_1", START);
    assert_eq!(mirror.apply_changes(&[reading_of(&USERS, &object, START + 101)]).await, [Stale]);
    assert_bare(&mirror, &USERS, "user_1", START + 100, &[]).await;
    // A child of theirs may be reset, and its content stays erased with theirs.
    reset(&mirror, &ORGANIZATION_MEMBERSHIPS, "orgmem_1").await;
    let object = membership("orgmem_1", "org_1", "user_1", START);
    mirror.apply_changes(&[reading_of(&ORGANIZATION_MEMBERSHIPS, &object, START + 101)]).await;
    let links = ["organization_id", "user_id"];
    assert_bare(&mirror, &ORGANIZATION_MEMBERSHIPS, "orgmem_1", START + 100, &links).await;
}

/// An operator's erasure takes along what outlives the subject, such as payments. A deletion does not.
pub async fn a_deletion_after_a_reset_erases_no_more_than_any_deletion(
    mut mirror: Mirror<impl StoreHarness>,
) {
    create(&mirror).await;
    let outlives = async |mirror: &Mirror<_>| mirror.row(&SUBSCRIPTIONS, "csub_1").await["status"].clone();
    let object = user("user_1", START);
    // Content that retention erases.
    end(&mirror, "user", "user_1", 7).await;
    reset(&mirror, &USERS, "user_1").await;
    mirror.apply_changes(&[reading_of(&USERS, &object, START + 8)]).await;
    end(&mirror, "user", "user_1", 9).await;
    let due = RetentionLimits {
        ledger_before: None,
        deleted_before: Some(Timestamp::from_millis(START + 10)),
        changes_before: None,
        limit: 10,
    };
    let step = mirror.harness.store().retain(&due).await.expect("the store retains");
    assert_eq!(step.rows, 1);
    mirror.work_off().await;
    assert_eq!(outlives(&mirror).await, "active");
    // Content that a deletion erases.
    assert_eq!(reset(&mirror, &USERS, "user_1").await, Some(9));
    erase_the_deleted(&mut mirror).await;
    assert_eq!(mirror.apply_changes(&[reading_of(&USERS, &object, START + 11)]).await, [Inserted]);
    assert_eq!(end(&mirror, "user", "user_1", 12).await, Deleted);
    assert_bare(&mirror, &USERS, "user_1", START + 12, &[]).await;
    let subscription = json!({ "id": "csub_1", "status": "ended", "payer": { "user_id": "user_1" }, "updated_at": START + 1 });
    let update = event("subscription.updated", START + 13, &subscription);
    assert_eq!(mirror.apply_one("msg_ended", update).await, Updated);
    assert_eq!(outlives(&mirror).await, "ended");
}

pub async fn child_rows_of_a_reset_parent_that_are_many_are_revived_too(mirror: Mirror<impl StoreHarness>) {
    const MANY: usize = 1_200;
    let member = |number: usize| {
        let id = format!("orgmem_{number:04}");
        let joined = membership(&id, "org_1", &format!("user_{number}"), START);
        (id, event("organizationMembership.created", START, &joined))
    };
    let events: Vec<(String, Value)> = (0..MANY).map(member).collect();
    let events: Vec<(&str, Value)> = events.iter().map(|(id, event)| (id.as_str(), event.clone())).collect();
    mirror.apply(&events).await;
    assert_eq!(end(&mirror, "organization", "org_1", 7).await, Deleted);
    let store = mirror.harness.store();
    assert_eq!(store.count_living(&ORGANIZATION_MEMBERSHIPS).await, Ok(0));
    assert_eq!(reset(&mirror, &ORGANIZATIONS, "org_1").await, Some(7));
    assert_eq!(store.count_living(&ORGANIZATION_MEMBERSHIPS).await, Ok(MANY as u64));
}
