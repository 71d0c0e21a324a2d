//! Content of deleted rows.

use rollbook_core::catalog::{ORGANIZATION_MEMBERSHIPS, RESOURCES, Resource, USERS, Verb};
use rollbook_core::change::Applied::{Deleted, Inserted, Stale, Unchanged, Updated};
use rollbook_core::merge::DeletedRows;
use rollbook_core::store::RetentionChoices;
use rollbook_core::time::Timestamp;
use serde_json::{Value, json};

use super::{Mirror, StoreHarness};
use crate::events::{START, deleted, event, membership, user};

/// Returns an event of `user_1` with this first name, updated and sent at this offset from the start.
fn named(name: &str, at: i64) -> Value {
    let mut data = user("user_1", START + at);
    data["first_name"] = json!(name);
    event("user.updated", START + at, &data)
}

fn user_deleted(at: i64) -> Value {
    event("user.deleted", START + at, &deleted("user", "user_1"))
}

pub(super) async fn erase_the_deleted<H: StoreHarness>(mirror: &mut Mirror<H>) {
    mirror
        .harness
        .keep(RetentionChoices { deleted_rows: DeletedRows::Erase, ..RetentionChoices::default() })
        .await;
}

/// Asserts that a row has only its id, `deleted_at`, `synced_at` and `synced_by`, and these links to erased
/// parents.
pub(super) async fn assert_bare<H: StoreHarness>(
    mirror: &Mirror<H>,
    resource: &'static Resource,
    id: &str,
    deleted_at: i64,
    links: &[&str],
) {
    let row = mirror.row(resource, id).await;
    assert_eq!(row["deleted_at"], json!(Timestamp::from_millis(deleted_at).to_string()));
    let left = row.iter().filter(|(_, value)| !value.is_null()).map(|(name, _)| name.as_str());
    let mut expected = vec!["deleted_at", "id", "synced_at", "synced_by"];
    expected.extend(links);
    expected.sort_unstable();
    assert_eq!(left.collect::<Vec<_>>(), expected, "{id}");
}

pub async fn a_deleted_row_keeps_its_content(mirror: Mirror<impl StoreHarness>) {
    mirror.apply_one("msg_1", named("Ines", 0)).await;
    let mut before = mirror.row(&USERS, "user_1").await;
    assert_eq!(mirror.apply_one("msg_2", user_deleted(7)).await, Deleted);
    before.insert("deleted_at".into(), json!(Timestamp::from_millis(START + 7).to_string()));
    before.insert("synced_by".into(), json!("msg_2"));
    assert_eq!(mirror.row(&USERS, "user_1").await, before);
}

pub async fn a_row_of_every_resource_can_be_deleted_in_the_batch_of_a_new_membership(
    mirror: Mirror<impl StoreHarness>,
) {
    for resource in RESOURCES {
        for end in resource.events.iter().filter(|event| event.verb == Verb::Delete) {
            let (id, member) = (format!("of_{}", end.name), format!("orgmem_{}", end.name));
            let gone = event(end.name, START + 7, &deleted("whatever", &id));
            let data = membership(&member, "org_1", "user_1", START);
            let joined = event("organizationMembership.created", START, &data);
            let batch = [(id.as_str(), gone), (&member, joined)];
            assert_eq!(mirror.apply(&batch).await, [Deleted, Inserted], "{}", end.name);
            assert_bare(&mirror, resource, &id, START + 7, &[]).await;
        }
    }
}

pub async fn nothing_revives_a_deleted_row(mirror: Mirror<impl StoreHarness>) {
    mirror.apply_one("msg_1", named("Ines", 5)).await;
    // A delete with its time cut to seconds is before the last update.
    let cut = event("user.deleted", START / 1000, &deleted("user", "user_1"));
    assert_eq!(mirror.apply_one("msg_2", cut).await, Deleted);
    let late = [("msg_3", 4, Stale), ("msg_4", 5, Unchanged), ("msg_5", 99_999, Updated)];
    for (id, at, outcome) in late {
        let name = if at == 5 { "Ines" } else { "late" };
        assert_eq!(mirror.apply_one(id, named(name, at)).await, outcome);
        let row = mirror.row(&USERS, "user_1").await;
        assert_eq!(row["deleted_at"], json!(Timestamp::from_millis(START / 1000 * 1000).to_string()));
    }
    assert_eq!(mirror.row(&USERS, "user_1").await["first_name"], "late", "the row has the latest content");
}

pub async fn a_late_event_fills_in_the_content_of_a_row_that_was_deleted_first(
    mirror: Mirror<impl StoreHarness>,
) {
    assert_eq!(mirror.apply_one("msg_2", user_deleted(7)).await, Deleted);
    assert_bare(&mirror, &USERS, "user_1", START + 7, &[]).await;
    assert_eq!(mirror.apply_one("msg_1", named("Ines", 0)).await, Updated);
    let row = mirror.row(&USERS, "user_1").await;
    assert_eq!((&row["first_name"], &row["synced_by"]), (&json!("Ines"), &json!("msg_1")));
    assert_eq!(row["deleted_at"], json!(Timestamp::from_millis(START + 7).to_string()));
}

pub async fn the_latest_of_several_deletions_sets_the_time(mirror: Mirror<impl StoreHarness>) {
    mirror.apply_one("msg_1", user_deleted(5)).await;
    let more = [("msg_2", 4, Stale), ("msg_3", 5, Unchanged), ("msg_4", 6, Deleted)];
    for (id, at, outcome) in more {
        assert_eq!(mirror.apply_one(id, user_deleted(at)).await, outcome);
    }
    assert_bare(&mirror, &USERS, "user_1", START + 6, &[]).await;
}

pub async fn an_erased_row_keeps_only_its_id_and_the_time(mut mirror: Mirror<impl StoreHarness>) {
    erase_the_deleted(&mut mirror).await;
    mirror.apply_one("msg_1", named("Ines", 0)).await;
    assert_eq!(mirror.apply_one("msg_2", user_deleted(7)).await, Deleted);
    assert_bare(&mirror, &USERS, "user_1", START + 7, &[]).await;
    assert_eq!(mirror.row(&USERS, "user_1").await["synced_by"], "msg_2");

    let data = membership("orgmem_1", "org_1", "user_2", START);
    mirror.apply_one("msg_3", event("organizationMembership.created", START, &data)).await;
    let whole = event("organizationMembership.deleted", START + 8, &data);
    assert_eq!(mirror.apply_one("msg_4", whole).await, Deleted, "although the event has the content");
    assert_bare(&mirror, &ORGANIZATION_MEMBERSHIPS, "orgmem_1", START + 8, &[]).await;
}

pub async fn erased_content_is_never_restored(mut mirror: Mirror<impl StoreHarness>) {
    erase_the_deleted(&mut mirror).await;
    mirror.apply_one("msg_1", user_deleted(7)).await;
    assert_eq!(mirror.apply_one("msg_2", named("late", 9)).await, Stale);
    let batch = [("msg_3", named("late", 10)), ("msg_4", user_deleted(11)), ("msg_5", named("late", 12))];
    assert_eq!(mirror.apply(&batch).await, [Stale, Deleted, Stale]);
    mirror.harness.keep(RetentionChoices::default()).await;
    assert_eq!(
        mirror.apply_one("msg_6", named("late", 13)).await,
        Stale,
        "also after the retention choice changes"
    );
    assert_bare(&mirror, &USERS, "user_1", START + 11, &[]).await;
}
