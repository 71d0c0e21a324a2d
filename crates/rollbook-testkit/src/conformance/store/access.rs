//! Rows by which an application decides: what is current, and what is the latest.

use rollbook_core::store::{ContextRows, ITEMS_MAX, Member, MembersOf, RowView};
use serde_json::{Value, json};

use super::{Mirror, StoreHarness};
use crate::events::{START, deleted, event, membership, organization, user};

async fn context<H: StoreHarness>(mirror: &Mirror<H>, user: &str, organization: Option<&str>) -> ContextRows {
    mirror.harness.store().context(user, organization).await.expect("the store reads a context")
}

/// Returns the ids of a page's memberships, each with that of its other side.
async fn members<H: StoreHarness>(
    mirror: &Mirror<H>,
    of: MembersOf<'_>,
    after: Option<&str>,
    limit: usize,
) -> Vec<(String, Option<String>)> {
    let page = mirror.harness.store().members(of, after, limit).await.expect("the store reads a page");
    let ids = |Member { membership, other }: Member| (membership.id, other.map(|other| other.id));
    page.into_iter().map(ids).collect()
}

fn pair(membership: &str, other: &str) -> (String, Option<String>) {
    (membership.to_owned(), Some(other.to_owned()))
}

fn id(row: Option<&RowView>) -> Option<&str> {
    row.map(|row| row.id.as_str())
}

/// An object of billing. The payer that does not apply is an empty text, as Clerk sends it.
fn billed(object: &str, id: &str, payer: (&str, &str), status: &str, created_at: i64) -> Value {
    let (user_id, organization_id) = payer;
    json!({
        "object": object, "id": id, "status": status, "payer_id": "payer_1", "subscription_id": "sub_1",
        "payer": { "id": "payer_1", "user_id": user_id, "organization_id": organization_id },
        "plan_id": "cplan_1", "plan": { "slug": "pro" }, "created_at": created_at, "updated_at": created_at,
    })
}

/// Applies objects, each by an event of this type.
async fn put<H: StoreHarness>(mirror: &Mirror<H>, event_type: &str, objects: &[Value]) {
    for object in objects {
        let name = format!("{event_type} {}", object["id"]);
        mirror.apply_one(&name, event(event_type, START, object)).await;
    }
}

pub async fn a_context_has_the_current_rows_of_a_user_and_an_organization(mirror: Mirror<impl StoreHarness>) {
    put(&mirror, "user.created", &[user("user_1", START), user("user_2", START)]).await;
    put(&mirror, "organization.created", &[organization("org_1", START), organization("org_2", START)]).await;
    let memberships = [
        membership("orgmem_1", "org_1", "user_1", START),
        membership("orgmem_2", "org_2", "user_1", START),
        membership("orgmem_3", "org_1", "user_2", START),
    ];
    put(&mirror, "organizationMembership.created", &memberships).await;
    let rows = context(&mirror, "user_1", Some("org_1")).await;
    let [person, group] = [rows.user.as_ref(), rows.organization.as_ref()];
    assert_eq!(person, mirror.find(&rollbook_core::catalog::USERS, "user_1").await.as_ref());
    assert_eq!(group, mirror.find(&rollbook_core::catalog::ORGANIZATIONS, "org_1").await.as_ref());
    assert_eq!(id(rows.membership.as_ref()), Some("orgmem_1"));
    assert_eq!((rows.subscription, rows.items), (None, Vec::new()));
    let alone = context(&mirror, "user_1", None).await;
    assert_eq!(id(alone.user.as_ref()), Some("user_1"));
    assert_eq!((alone.organization, alone.membership), (None, None));
    // A user without a membership, and ids that no row has.
    let strangers = context(&mirror, "user_2", Some("org_2")).await;
    assert_eq!(id(strangers.organization.as_ref()), Some("org_2"));
    assert_eq!(strangers.membership, None);
    assert_eq!(context(&mirror, "user_9", Some("org_9")).await, ContextRows::default());
    assert_eq!(context(&mirror, "", Some("")).await, ContextRows::default());
}

pub async fn a_deleted_row_and_one_without_content_are_not_current(mirror: Mirror<impl StoreHarness>) {
    put(&mirror, "user.created", &[user("user_1", START)]).await;
    put(&mirror, "organization.created", &[organization("org_1", START)]).await;
    put(&mirror, "organizationMembership.created", &[membership("orgmem_1", "org_1", "user_1", START)]).await;
    mirror.apply_one("end", event("user.deleted", START + 1, &deleted("user", "user_1"))).await;
    mirror.work_off().await;
    let rows = context(&mirror, "user_1", Some("org_1")).await;
    assert_eq!((rows.user, rows.membership), (None, None), "the membership is deleted with its user");
    assert_eq!(id(rows.organization.as_ref()), Some("org_1"));
    assert_eq!(members(&mirror, MembersOf::Organization("org_1"), None, 10).await, []);
    // A membership that arrives before its user and its organization.
    put(&mirror, "organizationMembership.created", &[membership("orgmem_2", "org_2", "user_2", START)]).await;
    let early = context(&mirror, "user_2", Some("org_2")).await;
    assert_eq!((early.user, early.organization), (None, None));
    assert_eq!(id(early.membership.as_ref()), Some("orgmem_2"));
    let found = members(&mirror, MembersOf::User("user_2"), None, 10).await;
    assert_eq!(found, [("orgmem_2".to_owned(), None)]);
}

pub async fn the_latest_of_several_current_memberships_counts(mirror: Mirror<impl StoreHarness>) {
    put(&mirror, "user.created", &[user("user_1", START)]).await;
    let mut memberships: Vec<Value> = (1..=4)
        .map(|number| membership(&format!("orgmem_{number}"), "org_1", "user_1", START + number))
        .collect();
    for (membership, created_at) in memberships.iter_mut().zip([5, 9, 9, 7]) {
        membership["created_at"] = json!(START + created_at);
    }
    put(&mirror, "organizationMembership.created", &memberships).await;
    let latest = async || {
        let rows = context(&mirror, "user_1", Some("org_1")).await;
        let listed = members(&mirror, MembersOf::Organization("org_1"), None, 10).await;
        assert_eq!(listed.len(), 1, "a member is listed once: {listed:?}");
        assert_eq!(id(rows.membership.as_ref()), Some(listed[0].0.as_str()));
        listed[0].0.clone()
    };
    assert_eq!(latest().await, "orgmem_3", "of two with one time, that with the greater id");
    for (gone, left) in [("orgmem_3", "orgmem_2"), ("orgmem_2", "orgmem_4")] {
        let end = event("organizationMembership.deleted", START + 60, &memberships_by(&memberships, gone));
        mirror.apply_one(gone, end).await;
        assert_eq!(latest().await, left);
    }
}

fn memberships_by(memberships: &[Value], id: &str) -> Value {
    memberships.iter().find(|membership| membership["id"] == json!(id)).expect("it is there").clone()
}

pub async fn a_context_has_the_subscription_of_its_payer_and_the_items_that_are_not_over(
    mirror: Mirror<impl StoreHarness>,
) {
    let (person, group) = (("user_1", ""), ("", "org_1"));
    put(&mirror, "organization.created", &[organization("org_1", START)]).await;
    let of = |id, payer, at| billed("commerce_subscription", id, payer, "active", at);
    let subscriptions = [
        of("sub_old", group, START),
        of("sub_new", group, START + 9),
        of("sub_user", person, START + 5),
        of("sub_else", ("", "org_2"), START + 5),
    ];
    put(&mirror, "subscription.created", &subscriptions).await;
    let item = |id: &str, payer, status, at| billed("commerce_subscription_item", id, payer, status, at);
    let items = [
        item("subi_1", group, "active", START + 1),
        item("subi_2", group, "ended", START + 2),
        item("subi_3", group, "canceled", START + 3),
        item("subi_4", group, "abandoned", START + 4),
        item("subi_5", group, "of_next_year", START + 5),
        item("subi_6", group, "incomplete", START + 6),
        item("subi_7", group, "expired", START + 7),
        item("subi_8", person, "active", START + 8),
    ];
    put(&mirror, "subscriptionItem.updated", &items).await;
    let ids = |rows: &ContextRows| rows.items.iter().map(|row| row.id.clone()).collect::<Vec<_>>();
    let of_organization = context(&mirror, "user_1", Some("org_1")).await;
    assert_eq!(id(of_organization.subscription.as_ref()), Some("sub_new"));
    assert_eq!(ids(&of_organization), ["subi_5", "subi_3", "subi_1"]);
    assert_eq!(of_organization.items[0].columns["plan_slug"], json!("pro"));
    assert_eq!(id(of_organization.organization.as_ref()), Some("org_1"), "each line of the items has it");
    let of_user = context(&mirror, "user_1", None).await;
    assert_eq!(id(of_user.subscription.as_ref()), Some("sub_user"));
    assert_eq!(ids(&of_user), ["subi_8"]);
    let many: Vec<Value> = (0..=ITEMS_MAX)
        .map(|number| item(&format!("subi_many_{number:02}"), group, "upcoming", START + 100))
        .collect();
    put(&mirror, "subscriptionItem.updated", &many).await;
    let limited = context(&mirror, "user_1", Some("org_1")).await;
    assert_eq!(limited.items.len(), ITEMS_MAX);
    assert_eq!(limited.items[0].id, format!("subi_many_{ITEMS_MAX:02}"), "the latest");
}

pub async fn members_and_organizations_are_paged_by_the_ids_of_the_other_side(
    mirror: Mirror<impl StoreHarness>,
) {
    const COUNT: usize = 7;
    let names: Vec<String> = (1..=COUNT).map(|number| number.to_string()).collect();
    let users: Vec<Value> = names.iter().map(|name| user(&format!("user_{name}"), START)).collect();
    put(&mirror, "user.created", &users).await;
    put(&mirror, "organization.created", &[organization("org_1", START), organization("org_2", START)]).await;
    // The order of the memberships' ids is another than that of the users' ids.
    let of = |name: &String| {
        let number: usize = name.parse().expect("a number");
        membership(&format!("orgmem_{}", COUNT - number), "org_1", &format!("user_{name}"), START)
    };
    let memberships: Vec<Value> = names.iter().map(of).collect();
    put(&mirror, "organizationMembership.created", &memberships).await;
    put(&mirror, "organizationMembership.created", &[membership("orgmem_x", "org_2", "user_3", START)]).await;
    let (mut found, mut after) = (Vec::new(), None::<String>);
    // More pages than rows, so that a listing which never advances ends too.
    for _ in 0..=COUNT {
        let page = members(&mirror, MembersOf::Organization("org_1"), after.as_deref(), 3).await;
        assert!(page.len() <= 3);
        let Some((_, Some(last))) = page.last().cloned() else { break };
        after = Some(last);
        found.extend(page);
    }
    let expected: Vec<_> = (1..=COUNT)
        .map(|number| pair(&format!("orgmem_{}", COUNT - number), &format!("user_{number}")))
        .collect();
    assert_eq!(found, expected);
    let organizations = members(&mirror, MembersOf::User("user_3"), None, 10).await;
    assert_eq!(organizations, [pair("orgmem_4", "org_1"), pair("orgmem_x", "org_2")]);
    assert_eq!(members(&mirror, MembersOf::User("user_3"), Some("org_1"), 10).await.len(), 1);
    assert_eq!(members(&mirror, MembersOf::User("user_3"), None, 0).await, []);
    assert_eq!(members(&mirror, MembersOf::Organization("user_3"), None, 10).await, []);
}
