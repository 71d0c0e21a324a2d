//! Rows of objects: columns, types and listings.

use rollbook_core::catalog::{COMMON_COLUMNS, ORGANIZATION_MEMBERSHIPS, ORGANIZATIONS, Resource, USERS};
use rollbook_core::change::Applied;
use rollbook_core::time::{Clock as _, Timestamp};
use serde_json::{Map, Value, json};

use super::{Mirror, StoreHarness};
use crate::events::{START, deleted, event, membership, organization, user};

/// Adds the columns that every row has to the `typed` columns.
fn with_common(mut typed: Value, data: &Value, synced_at: Timestamp) -> Map<String, Value> {
    let time = |key: &str| data[key].as_i64().map(|at| Timestamp::from_millis(at).to_string());
    let row = typed.as_object_mut().expect("typed columns are an object");
    for name in COMMON_COLUMNS {
        let value = match name {
            "id" => data["id"].clone(),
            "data" => data.clone(),
            "created_at" | "updated_at" => json!(time(name)),
            "deleted_at" => Value::Null,
            "synced_at" => json!(synced_at.to_string()),
            "synced_by" => json!("msg_1"),
            other => panic!("no expectation for column {other}"),
        };
        row.insert(name.to_owned(), value);
    }
    std::mem::take(row)
}

async fn becomes<H: StoreHarness>(
    mirror: &Mirror<H>,
    resource: &'static Resource,
    event_type: &str,
    data: Value,
    typed: Value,
) {
    let applied = mirror.apply_one("msg_1", event(event_type, START, &data)).await;
    assert_eq!(applied, Applied::Inserted);
    let id = data["id"].as_str().expect("the object has an id");
    let expected = with_common(typed, &data, mirror.harness.clock().now());
    assert_eq!(mirror.row(resource, id).await, expected);
}

pub async fn a_user_becomes_a_row_with_the_columns_of_the_contract(mirror: Mirror<impl StoreHarness>) {
    let typed = json!({
        "external_id": "crm-40077",
        "username": "ines",
        "first_name": "Ines",
        "last_name": "Okafor",
        "primary_email_address": "ines@work.example",
        "primary_phone_number": null,
        "image_url": "https://img.clerk.com/8439c14a",
        "banned": false,
        "locked": true,
        "deprovisioned": false,
        "last_sign_in_at": null,
        "last_active_at": "2026-07-29T00:00:00.000Z",
        "public_metadata": { "plan": "pro", "seats": [1, 2, { "deep": null }] },
        "private_metadata": null,
        "unsafe_metadata": {},
    });
    becomes(&mirror, &USERS, "user.created", user("user_1", START), typed).await;
}

pub async fn an_organization_becomes_a_row_with_the_columns_of_the_contract(
    mirror: Mirror<impl StoreHarness>,
) {
    let typed = json!({
        "name": "Kilnworks Studio",
        "slug": "kilnworks-studio",
        "image_url": "https://img.clerk.com/84c161ec",
        "created_by": "user_1",
        "members_count": 3,
        "max_allowed_memberships": 0,
        "public_metadata": {},
        "private_metadata": { "billing": "manual" },
    });
    becomes(&mirror, &ORGANIZATIONS, "organization.updated", organization("org_1", START), typed).await;
}

pub async fn a_membership_becomes_a_row_with_the_columns_of_the_contract(mirror: Mirror<impl StoreHarness>) {
    let typed = json!({
        "organization_id": "org_1",
        "user_id": "user_1",
        "role": "org:admin",
        "permissions": ["org:sys_profile:manage", "org:invoices:read"],
        "public_metadata": {},
        "private_metadata": null,
    });
    let data = membership("orgmem_1", "org_1", "user_1", START);
    becomes(&mirror, &ORGANIZATION_MEMBERSHIPS, "organizationMembership.created", data, typed).await;
    assert_eq!(mirror.find(&ORGANIZATIONS, "org_1").await, None, "a nested copy makes no row");
}

pub async fn a_missing_or_unfitting_value_is_null(mirror: Mirror<impl StoreHarness>) {
    let sparse = json!({
        "id": "user_1",
        "username": 7,
        "first_name": { "is": "no text" },
        "banned": "yes",
        "last_sign_in_at": -1,
        "created_at": "today",
        "new_field": [true],
    });
    mirror.apply_one("msg_1", event("user.created", START, &sparse)).await;
    let mut row = mirror.row(&USERS, "user_1").await;
    assert_eq!(row.remove("data"), Some(sparse), "the complete object is kept");
    row.retain(|_, value| !value.is_null());
    let left: Vec<&str> = row.keys().map(String::as_str).collect();
    assert_eq!(left, ["id", "synced_at", "synced_by"]);
}

pub async fn the_primary_address_is_the_one_that_is_named(mirror: Mirror<impl StoreHarness>) {
    for (step, (chosen, expected)) in [
        (json!("idn_home"), json!("ines@home.example")),
        (json!("idn_gone"), Value::Null),
        (Value::Null, Value::Null),
    ]
    .into_iter()
    .enumerate()
    {
        let id = format!("user_{step}");
        let mut data = user(&id, START);
        data["primary_email_address_id"] = chosen;
        mirror.apply_one(&format!("msg_{step}"), event("user.created", START, &data)).await;
        assert_eq!(mirror.row(&USERS, &id).await["primary_email_address"], expected);
    }
}

pub async fn text_is_kept_exactly(mirror: Mirror<impl StoreHarness>) {
    let texts = [
        "O'Brien \"Bobby\" \\ ; DROP TABLE users; --",
        "🎉 e\u{301} \u{202e}abc \u{feff}",
        "\u{fffd}\u{1}\u{1f}\u{7f}",
        " \t\r\n leading and trailing \n",
        "",
        "null",
        "{\"not\": \"json\"}",
    ];
    for (step, text) in texts.into_iter().enumerate() {
        let id = format!("user_{step}_{}", text.replace(char::is_control, "?"));
        let mut data = user(&id, START);
        data["first_name"] = json!(text);
        data["public_metadata"] = json!({ text: text });
        data["unsafe_metadata"] = json!(text);
        mirror.apply_one(&format!("msg_{step}"), event("user.created", START, &data)).await;
        let row = mirror.row(&USERS, &id).await;
        for column in ["first_name", "public_metadata", "unsafe_metadata"] {
            assert_eq!(row[column], data[column], "{column} of {text:?}");
        }
        assert_eq!(row["data"], data, "of {text:?}");
    }
    let mut big = user("user_big", START);
    big["private_metadata"] = json!({ "notes": "ü\"\n".repeat(65 * 1024 / 4) });
    mirror.apply_one("msg_big", event("user.created", START, &big)).await;
    let row = mirror.row(&USERS, "user_big").await;
    assert!(row["private_metadata"] == big["private_metadata"], "65 KB are kept");
    assert!(row["data"] == big, "and once more in data");
}

pub async fn extreme_times_and_integers_are_kept(mirror: Mirror<impl StoreHarness>) {
    let last = 253_402_207_200_000_i64;
    let moments = [(0, "1970-01-01T00:00:00.000Z"), (last, "9999-12-30T22:00:00.000Z")];
    for (step, ((at, text), number)) in moments.into_iter().zip([i64::MIN, i64::MAX]).enumerate() {
        let id = format!("org_{step}");
        let mut data = organization(&id, at);
        data["created_at"] = json!(at);
        data["members_count"] = json!(number);
        data["public_metadata"] = serde_json::from_str(r#"{"precise": 12345678901234567890.123456789}"#)
            .expect("a number of any precision is JSON");
        // An event at the epoch would be at the default erasure floor of zero.
        let event_at = at.max(1);
        mirror.apply_one(&format!("msg_{step}"), event("organization.created", event_at, &data)).await;
        let row = mirror.row(&ORGANIZATIONS, &id).await;
        assert_eq!((&row["created_at"], &row["updated_at"]), (&json!(text), &json!(text)));
        assert_eq!(row["members_count"], json!(number));
        assert_eq!(row["public_metadata"].to_string(), r#"{"precise":12345678901234567890.123456789}"#);
        assert_eq!(row["data"], data);
    }
}

pub async fn rows_are_paged_by_id_in_the_order_of_bytes(mirror: Mirror<impl StoreHarness>) {
    let ids =
        ["user_b", "user_B", "user_é", "user_10", "user_9", "user_a", "user_\u{1F600}", "user_\u{FFFD}"];
    for id in ids {
        let applied = mirror.apply_one(id, event("user.created", START, &user(id, START))).await;
        assert_eq!(applied, Applied::Inserted);
    }
    mirror.apply_one("gone", event("user.deleted", START + 1, &deleted("user", "user_B"))).await;
    mirror.apply_one("other", event("organization.created", START, &organization("user_c", START))).await;
    let mut expected = ids;
    expected.sort_unstable();
    let mut listed: Vec<String> = Vec::new();
    // More pages than rows, so that a listing which never advances ends too.
    for _ in 0..=ids.len() {
        let page = mirror.rows(&USERS, listed.last().map(String::as_str), 3).await;
        assert!(page.len() <= 3);
        if page.is_empty() {
            break;
        }
        listed.extend(page.into_iter().map(|row| row.id));
    }
    assert_eq!(listed, expected, "deleted rows are listed, other tables are not");
    let after = mirror.rows(&USERS, Some("user_A"), 1).await;
    assert_eq!(after[0].id, "user_B", "starting after an id that does not exist");
    assert_eq!(after, [mirror.find(&USERS, "user_B").await.expect("a row")]);
    assert_eq!(mirror.rows(&USERS, None, 0).await, []);
}

pub async fn a_row_that_was_never_written_is_missing(mirror: Mirror<impl StoreHarness>) {
    mirror.apply_one("msg_1", event("user.created", START, &user("same_id", START))).await;
    assert_eq!(mirror.find(&USERS, "other_id").await, None);
    assert_eq!(mirror.find(&ORGANIZATIONS, "same_id").await, None);
    assert_eq!(mirror.rows(&ORGANIZATIONS, None, 10).await, []);
}

pub async fn rows_survive_a_reopen(mut mirror: Mirror<impl StoreHarness>) {
    mirror.apply_one("msg_1", event("user.created", START, &user("user_1", START))).await;
    mirror.apply_one("msg_2", event("user.deleted", START, &deleted("user", "user_2"))).await;
    let before = mirror.rows(&USERS, None, 10).await;
    assert_eq!(before.len(), 2);
    mirror.harness.reopen().await;
    assert_eq!(mirror.rows(&USERS, None, 10).await, before);
    let again = mirror.apply_one("msg_3", event("user.created", START, &user("user_1", START))).await;
    assert_eq!(again, Applied::Unchanged, "the versions are kept too");
    assert_eq!(mirror.ledger("msg_2").await.map(|entry| entry.outcome), Some(Applied::Deleted));
}
