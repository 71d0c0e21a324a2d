//! Pages, orders and filters.

use std::collections::BTreeSet;

use rollbook_simulator::api::LIMIT_DEFAULT;
use rollbook_simulator::state::TABLES;
use rollbook_testkit::synthetic::{Synthetic, SyntheticSettings};

use super::{Answer, Stage, get, history, serve};

fn thousand() -> Synthetic {
    Synthetic::new(SyntheticSettings {
        users: 1000,
        organizations: 20,
        memberships: 1000,
        ..SyntheticSettings::default()
    })
}

#[tokio::test]
async fn a_page_has_ten_objects_unless_the_limit_says_otherwise_and_above_500_it_has_ten_again() {
    let api = serve(thousand()).await;
    for (query, expected) in
        [("", 10), ("?limit=1", 1), ("?limit=499", 499), ("?limit=500", 500), ("?limit=501", 10)]
    {
        for path in ["/users", "/organization_memberships"] {
            assert_eq!(get(&api, &format!("{path}{query}")).await.ids().len(), expected, "{path}{query}");
        }
    }
    for query in ["limit=0", "limit=-1", "limit=ten", "limit=", "offset=-1", "offset=x", "order_by=color"] {
        let answer = get(&api, &format!("/users?{query}")).await;
        assert_eq!(answer.error(), (422, "form_param_value_invalid".into()), "{query}");
    }
}

#[tokio::test]
async fn a_walk_by_cursor_sees_every_user_once_and_ends_with_a_short_page() {
    let stage = Stage::new(history().state()).await;
    for (order, limit) in [("created_at", 7), ("%2Bcreated_at", 500), ("-created_at", 3)] {
        let (mut seen, mut cursor): (Vec<String>, Option<String>) = (Vec::new(), None);
        loop {
            let after = cursor.map(|id| format!("&starting_after={id}")).unwrap_or_default();
            let page = stage.get(&format!("/users?limit={limit}&order_by={order}{after}")).await.ids();
            cursor = page.last().cloned();
            let is_short = page.len() < limit;
            seen.extend(page);
            if is_short {
                break;
            }
        }
        let users = stage.ids("users");
        assert_eq!(seen.len(), users.len(), "{order}");
        assert_eq!(seen.iter().collect::<BTreeSet<_>>(), users.iter().collect(), "{order}");
        let last = cursor.or_else(|| seen.last().cloned()).expect("a user");
        let after_the_end = stage.get(&format!("/users?order_by={order}&starting_after={last}")).await;
        assert!(after_the_end.ids().is_empty());
    }
}

#[tokio::test]
async fn a_cursor_needs_the_order_by_creation_no_offset_and_a_known_user() {
    let stage = Stage::new(history().state()).await;
    let id = stage.ids("users").remove(0);
    let status = async |query: String| stage.get(&format!("/users?{query}")).await.status;
    assert_eq!(status(format!("starting_after={id}&offset=0")).await, 200);
    assert_eq!(status(format!("starting_after={id}&offset=1")).await, 422);
    assert_eq!(status(format!("starting_after={id}&order_by=-updated_at")).await, 422);
    assert_eq!(status("starting_after=user_unknown".into()).await, 422);
    // A bare plus sign is a space once it is decoded.
    assert_eq!(status("order_by=+created_at".into()).await, 422);
    // Of a repeated order, the first counts.
    assert_eq!(status(format!("starting_after={id}&order_by=created_at&order_by=updated_at")).await, 200);
    // Other lists have no cursor.
    assert_eq!(stage.get(&format!("/organizations?starting_after={id}")).await.status, 501);
}

#[tokio::test]
async fn every_list_is_walked_by_offset_in_both_orders_and_is_empty_beyond_its_end() {
    let stage = Stage::new(history().state()).await;
    let paths = [
        "/organizations",
        "/users",
        "/organization_memberships",
        "/organization_invitations",
        "/organization_domains",
        "/organization_roles",
        "/organization_permissions",
        "/waitlist_entries",
    ];
    for (path, table) in paths.into_iter().zip(TABLES) {
        let all: BTreeSet<String> = stage.ids(table).into_iter().collect();
        assert!(!all.is_empty(), "{table}");
        let ascending = walk(&stage, path, "created_at").await;
        let mut descending = walk(&stage, path, "-created_at").await;
        descending.reverse();
        assert_eq!(ascending, descending, "{path}");
        assert_eq!(ascending.iter().cloned().collect::<BTreeSet<_>>(), all, "{path}");
        let beyond = stage.get(&format!("{path}?offset={}", all.len())).await;
        assert!(beyond.ids().is_empty(), "{path}");
        let default = stage.get(path).await.ids();
        let newest: Vec<String> = ascending.iter().rev().take(LIMIT_DEFAULT).cloned().collect();
        assert_eq!(default, newest, "{path}");
        if table != "users" {
            assert_eq!(beyond.total(), u64::try_from(all.len()).expect("few"), "{path}");
        }
    }
}

async fn walk(stage: &Stage, path: &str, order: &str) -> Vec<String> {
    let mut seen = Vec::new();
    loop {
        let page = stage.get(&format!("{path}?limit=4&order_by={order}&offset={}", seen.len())).await.ids();
        if page.is_empty() {
            return seen;
        }
        seen.extend(page);
    }
}

#[tokio::test]
async fn subscription_items_have_the_newest_first_and_free_plans_only_if_asked() {
    let stage = Stage::new(history().state()).await;
    let all = stage.get("/billing/subscription_items?limit=500&include_free=true&paginated=true").await;
    let items = all.json()["data"].as_array().expect("a list").clone();
    assert_eq!(all.ids().iter().collect::<BTreeSet<_>>(), stage.ids("subscription_items").iter().collect());
    assert!(items.is_sorted_by_key(|item| std::cmp::Reverse(item["created_at"].as_i64())));
    let paid = stage.get("/billing/subscription_items?limit=500").await;
    assert!(paid.total() < all.total());
    assert_eq!(stage.get("/billing/subscription_items?order_by=created_at").await.status, 501);
    assert_eq!(items[0].get("subscription_id"), None, "the shape is the API's own");
}

#[tokio::test]
async fn invitations_are_filtered_by_several_statuses() {
    let stage = Stage::new(history().state()).await;
    let total = async |query: &str| stage.get(&format!("/organization_invitations{query}")).await.total();
    let each = total("?status=pending").await + total("?status=revoked").await;
    assert!(total("?status=pending&status=revoked").await == each && each <= total("").await && each > 0);
}

#[tokio::test]
async fn users_are_filtered_by_id_by_organization_and_by_time_of_creation() {
    let stage = Stage::new(history().state()).await;
    let users = stage.get("/users?limit=500&order_by=created_at").await;
    let ids = users.ids();
    let (first, second) = (&ids[0], &ids[1]);

    let some =
        stage.get(&format!("/users?user_id={first}&user_id=user_unknown&user_id=%2B{second}")).await.ids();
    assert_eq!(some.iter().collect::<BTreeSet<_>>(), BTreeSet::from([first, second]));
    let rest = stage.get(&format!("/users?limit=500&user_id=-{first}")).await.ids();
    assert_eq!(rest.len(), ids.len() - 1);

    let created_at = users.json()[5]["created_at"].as_i64().expect("a time");
    let before = stage.get(&format!("/users?limit=500&created_at_before={created_at}")).await.ids();
    let since = stage.get(&format!("/users?limit=500&created_at_after={}", created_at - 1)).await.ids();
    assert_eq!(before.len() + since.len(), ids.len());
    let count = stage.get(&format!("/users/count?created_at_before={created_at}")).await;
    assert_eq!(count.json()["total_count"], before.len());

    let organization = &stage.ids("organizations")[0];
    let members = stage.get(&format!("/organizations/{organization}/memberships?limit=500")).await;
    let of_organization = stage.get(&format!("/users?limit=500&organization_id={organization}")).await.ids();
    assert_eq!(of_organization.len(), members.ids().len());
}

#[tokio::test]
async fn the_default_limit_hides_living_users_of_a_filter_by_id() {
    let api = serve(thousand()).await;
    let hundred: Vec<String> =
        (0..100).map(|number| format!("user_id={}", Synthetic::user_id(number))).collect();
    let query = hundred.join("&");
    assert_eq!(get(&api, &format!("/users?{query}")).await.ids().len(), 10);
    assert_eq!(get(&api, &format!("/users?limit=100&{query}")).await.ids().len(), 100);
    let answer = get(&api, &format!("/users?{query}&user_id={}", Synthetic::user_id(100))).await;
    assert_eq!(answer.error().0, 422);
}

#[tokio::test]
async fn memberships_of_an_organization_are_filtered_by_user_and_domains_by_organization() {
    let stage = Stage::new(history().state()).await;
    let all = stage.get("/organization_memberships?limit=500").await.json();
    let one = &all["data"][0];
    let (organization, user) = (
        one["organization"]["id"].as_str().expect("an id"),
        one["public_user_data"]["user_id"].as_str().expect("an id"),
    );
    let found = stage.get(&format!("/organizations/{organization}/memberships?user_id={user}")).await;
    assert_eq!((found.total(), found.ids()), (1, vec![one["id"].as_str().expect("an id").to_owned()]));
    let none = stage.get(&format!("/organizations/{organization}/memberships?user_id=user_unknown")).await;
    assert_eq!(none.total(), 0);

    let domains = stage.get("/organization_domains?limit=500").await.json();
    let organization = domains["data"][0]["organization_id"].as_str().expect("an id");
    let by_filter =
        stage.get(&format!("/organization_domains?limit=500&organization_id={organization}")).await;
    let by_path = stage.get(&format!("/organizations/{organization}/domains?limit=500")).await;
    assert_eq!(by_filter.ids(), by_path.ids());
    assert!(by_filter.total() > 0 && by_filter.total() <= domains["total_count"].as_u64().expect("a total"));
}

#[tokio::test]
async fn a_parameter_that_is_not_simulated_is_refused_and_not_ignored() {
    let stage = Stage::new(history().state()).await;
    for path in
        ["/users?query=ada", "/organizations?user_id=user_1", "/organization_memberships?user_id=user_1"]
    {
        let answer: Answer = stage.get(path).await;
        assert_eq!(answer.error(), (501, "not_simulated".into()), "{path}");
    }
}
