//! Merging: which change wins.

use std::time::Duration;

use rollbook_core::catalog::{ORGANIZATION_MEMBERSHIPS, ORGANIZATIONS, USERS};
use rollbook_core::change::Applied::{self, Deleted, Inserted, Stale, Unchanged, Updated};
use rollbook_core::change::Change;
use rollbook_core::time::{Clock as _, Timestamp};
use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::{Mirror, StoreHarness};
use crate::events::{START, change_of, deleted, event, membership, organization, user};

/// Returns an event of `user_1` with this first name, updated and sent at these offsets from the start.
fn named(name: &str, updated_at: i64, event_at: i64) -> Value {
    let mut data = user("user_1", START + updated_at);
    data["first_name"] = json!(name);
    event("user.updated", START + event_at, &data)
}

fn user_deleted(event_at: i64) -> Value {
    event("user.deleted", START + event_at, &deleted("user", "user_1"))
}

async fn name_of<H: StoreHarness>(mirror: &Mirror<H>) -> Value {
    mirror.row(&USERS, "user_1").await["first_name"].clone()
}

pub async fn the_first_is_inserted_and_a_newer_one_updates(mirror: Mirror<impl StoreHarness>) {
    assert_eq!(mirror.apply_one("msg_1", named("Ines", 0, 0)).await, Inserted);
    mirror.harness.clock().advance(Duration::from_secs(1));
    assert_eq!(mirror.apply_one("msg_2", named("Inez", 1, 1)).await, Updated);
    assert_eq!(name_of(&mirror).await, "Inez");
    let row = mirror.row(&USERS, "user_1").await;
    assert_eq!(row["synced_by"], "msg_2");
    assert_eq!(row["synced_at"], json!(mirror.harness.clock().now().to_string()));
}

pub async fn an_older_one_is_stale_and_changes_nothing(mirror: Mirror<impl StoreHarness>) {
    mirror.apply_one("msg_1", named("new", 5, 5)).await;
    let before = mirror.row(&USERS, "user_1").await;
    mirror.harness.clock().advance(Duration::from_secs(1));
    assert_eq!(
        mirror.apply_one("msg_2", named("old", 4, 9)).await,
        Stale,
        "a late event time makes no difference"
    );
    assert_eq!(mirror.row(&USERS, "user_1").await, before);
}

pub async fn the_same_again_is_unchanged_and_writes_nothing(mirror: Mirror<impl StoreHarness>) {
    mirror.apply_one("msg_1", named("Ines", 0, 0)).await;
    let before = mirror.row(&USERS, "user_1").await;
    mirror.harness.clock().advance(Duration::from_secs(1));
    assert_eq!(mirror.apply_one("msg_1", named("Ines", 0, 0)).await, Unchanged);
    assert_eq!(mirror.apply_one("msg_2", named("Ines", 0, 0)).await, Unchanged, "under another svix-id");
    assert_eq!(mirror.row(&USERS, "user_1").await, before);
    mirror.apply_one("msg_3", user_deleted(1)).await;
    let before = mirror.row(&USERS, "user_1").await;
    assert_eq!(mirror.apply_one("msg_4", user_deleted(1)).await, Unchanged);
    assert_eq!(mirror.row(&USERS, "user_1").await, before);
}

pub async fn an_equal_updated_at_is_decided_by_the_event_and_then_by_the_content(
    mirror: Mirror<impl StoreHarness>,
) {
    mirror.apply_one("msg_1", named("first", 5, 6)).await;
    assert_eq!(mirror.apply_one("msg_2", named("later", 5, 7)).await, Updated);
    assert_eq!(mirror.apply_one("msg_1", named("first", 5, 6)).await, Stale);
    assert_eq!(name_of(&mirror).await, "later");
    // Only the content distinguishes these two; the same one wins in either order.
    let [one, other] = ["one", "other"].map(|name| named(name, 5, 8));
    mirror.apply_one("msg_3", one.clone()).await;
    mirror.apply_one("msg_4", other.clone()).await;
    let winner = name_of(&mirror).await;
    let again = mirror.apply(&[("msg_3", one), ("msg_4", other.clone()), ("msg_5", other)]).await;
    assert!(again.iter().all(|outcome| matches!(outcome, Stale | Unchanged)), "{again:?}");
    assert_eq!(name_of(&mirror).await, winner);
    assert_eq!(again.contains(&Unchanged), again.contains(&Stale), "one of them equals the stored row");
}

pub async fn a_removed_value_becomes_null(mirror: Mirror<impl StoreHarness>) {
    mirror.apply_one("msg_1", named("Ines", 0, 0)).await;
    let bare = json!({ "id": "user_1", "first_name": null, "updated_at": START + 1 });
    assert_eq!(mirror.apply_one("msg_2", event("user.updated", START + 1, &bare)).await, Updated);
    let row = mirror.row(&USERS, "user_1").await;
    for column in USERS.columns {
        assert_eq!(row[column.name], Value::Null, "{}", column.name);
    }
    assert_eq!((&row["created_at"], &row["data"]), (&Value::Null, &bare));
}

pub async fn a_membership_may_come_before_its_user_and_organization(mirror: Mirror<impl StoreHarness>) {
    let data = membership("orgmem_1", "org_1", "user_1", START);
    let created = event("organizationMembership.created", START, &data);
    assert_eq!(mirror.apply_one("msg_1", created).await, Inserted);
    let late = [
        ("msg_2", event("user.created", START - 5, &user("user_1", START - 5))),
        ("msg_3", event("organization.created", START - 6, &organization("org_1", START - 6))),
    ];
    assert_eq!(mirror.apply(&late).await, [Inserted, Inserted]);
    mirror.apply_one("msg_4", user_deleted(1)).await;
    let row = mirror.row(&ORGANIZATION_MEMBERSHIPS, "orgmem_1").await;
    assert_eq!((&row["user_id"], &row["organization_id"]), (&json!("user_1"), &json!("org_1")));
    assert_eq!(
        row["deleted_at"],
        json!(Timestamp::from_millis(START + 1).to_string()),
        "deleted with its user"
    );
}

pub async fn a_user_who_rejoins_gets_a_new_membership(mirror: Mirror<impl StoreHarness>) {
    let [old, new] = [("orgmem_1", 0), ("orgmem_2", 20)]
        .map(|(id, updated_at)| membership(id, "org_1", "user_1", START + updated_at));
    mirror.apply_one("msg_1", event("organizationMembership.created", START, &old)).await;
    let rejoined = event("organizationMembership.created", START + 20, &new);
    assert_eq!(mirror.apply_one("msg_3", rejoined).await, Inserted);
    let left = event("organizationMembership.deleted", START + 10, &old);
    assert_eq!(mirror.apply_one("msg_2", left).await, Deleted, "late");
    let deleted_at = |id| {
        let mirror = &mirror;
        async move { mirror.row(&ORGANIZATION_MEMBERSHIPS, id).await["deleted_at"].clone() }
    };
    assert_eq!(deleted_at("orgmem_1").await, json!(Timestamp::from_millis(START + 10).to_string()));
    assert_eq!(deleted_at("orgmem_2").await, Value::Null);
}

pub async fn an_address_may_move_between_users_in_any_order(mirror: Mirror<impl StoreHarness>) {
    let with = |id: &str, address: &str, at: i64| {
        let mut data = user(id, START + at);
        data["email_addresses"][1]["email_address"] = json!(address);
        data["username"] = json!(address);
        event("user.updated", START + at, &data)
    };
    mirror
        .apply(&[("msg_1", with("user_1", "a@x.example", 0)), ("msg_2", with("user_2", "b@x.example", 0))])
        .await;
    // The event of the user who takes the address arrives before that of the user who gives it up.
    assert_eq!(mirror.apply_one("msg_4", with("user_2", "a@x.example", 2)).await, Updated);
    assert_eq!(mirror.apply_one("msg_3", with("user_1", "b@x.example", 1)).await, Updated);
    for (id, address) in [("user_1", "b@x.example"), ("user_2", "a@x.example")] {
        assert_eq!(mirror.row(&USERS, id).await["primary_email_address"], address);
    }
}

pub async fn one_subject_many_times_in_one_batch_is_one_row(mirror: Mirror<impl StoreHarness>) {
    let batch = [
        ("msg_2", named("second", 2, 2)),
        ("msg_1", named("first", 1, 1)),
        ("org", event("organization.created", START, &organization("org_1", START))),
        ("msg_3", named("third", 3, 3)),
        ("msg_3", named("third", 3, 3)),
        ("msg_5", user_deleted(5)),
        ("msg_4", named("fourth", 4, 4)),
    ];
    let outcomes: [Applied; 7] = [Inserted, Stale, Inserted, Updated, Unchanged, Deleted, Updated];
    assert_eq!(mirror.apply(&batch).await, outcomes);
    let row = mirror.row(&USERS, "user_1").await;
    assert_eq!(row["deleted_at"], json!(Timestamp::from_millis(START + 5).to_string()));
    assert_eq!((&row["first_name"], &row["synced_by"]), (&json!("fourth"), &json!("msg_4")));
    assert_eq!(mirror.rows(&USERS, None, 10).await.len(), 1);
    assert!(!mirror.find(&ORGANIZATIONS, "org_1").await.expect("a row").is_deleted());
}

pub async fn one_change_from_many_at_once_is_inserted_once(mirror: Mirror<impl StoreHarness>) {
    let mut tasks = JoinSet::new();
    for _ in 0..8 {
        let (store, change) = (mirror.harness.store(), change_of("msg_1", &named("Ines", 0, 0)));
        tasks.spawn(async move { store.apply_many(&[change]).await.expect("the store applies changes")[0] });
    }
    let mut outcomes = tasks.join_all().await;
    outcomes.sort_by_key(|outcome| *outcome != Inserted);
    assert_eq!(outcomes[0], Inserted);
    assert_eq!(outcomes[1..], [Unchanged; 7]);
}

pub async fn a_big_batch_is_applied_as_a_whole(mirror: Mirror<impl StoreHarness>) {
    const USERS_IN_ALL: usize = 700;
    let change = |index: usize| {
        let (id, at) =
            (format!("user_{:04}", index % USERS_IN_ALL), START + i64::from(index >= USERS_IN_ALL));
        change_of(&format!("msg_{index}"), &event("user.updated", at, &user(&id, at)))
    };
    let changes: Vec<Change> = (0..USERS_IN_ALL * 2).map(change).collect();
    let outcomes = mirror.apply_changes(&changes).await;
    let (first, second) = outcomes.split_at(USERS_IN_ALL);
    assert!(
        first.iter().all(|outcome| *outcome == Inserted) && second.iter().all(|outcome| *outcome == Updated)
    );
    assert_eq!(mirror.rows(&USERS, None, 2000).await.len(), USERS_IN_ALL);
    assert!(mirror.ledger("msg_1399").await.is_some());
}
