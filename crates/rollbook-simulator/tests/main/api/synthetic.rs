//! The synthetic instance has the same lists as a small one.

use rollbook_testkit::synthetic::{Synthetic, SyntheticSettings};

use super::{get, serve};

fn settings() -> SyntheticSettings {
    SyntheticSettings {
        users: 95,
        organizations: 10,
        memberships: 95,
        start_millis: 1_700_000_000_000,
        ties: 3,
        user_metadata: 0,
    }
}

#[tokio::test]
async fn a_walk_sees_every_object_once_in_the_order_of_creation() {
    let api = serve(Synthetic::new(settings())).await;
    let (mut seen, mut last_created) = (Vec::new(), 0);
    loop {
        let after = seen.last().map(|id| format!("&starting_after={id}")).unwrap_or_default();
        let page = get(&api, &format!("/users?limit=20&order_by=created_at{after}")).await;
        for user in page.json().as_array().expect("a list") {
            let created_at = user["created_at"].as_i64().expect("a time");
            assert!(created_at >= last_created);
            last_created = created_at;
        }
        let ids = page.ids();
        seen.extend(ids.iter().cloned());
        if ids.len() < 20 {
            break;
        }
    }
    assert_eq!(seen, (0..95).map(Synthetic::user_id).collect::<Vec<_>>());

    let newest = get(&api, "/organization_memberships").await;
    assert_eq!(newest.ids(), (85..95).rev().map(Synthetic::membership_id).collect::<Vec<_>>());
    assert_eq!(newest.total(), 95);
    let before = get(&api, &format!("/users?starting_after={}", Synthetic::user_id(90))).await.ids();
    assert_eq!(before, (80..90).rev().map(Synthetic::user_id).collect::<Vec<_>>());
}

#[tokio::test]
async fn windows_counts_and_point_reads_agree() {
    let api = serve(Synthetic::new(settings())).await;
    // Three users share each millisecond.
    let window = "created_at_after=1700000000001&created_at_before=1700000000005";
    let page = get(&api, &format!("/users?limit=500&order_by=created_at&{window}")).await;
    assert_eq!(page.ids(), (6..15).map(Synthetic::user_id).collect::<Vec<_>>());
    assert_eq!(get(&api, &format!("/users/count?{window}")).await.total(), 9);
    assert_eq!(get(&api, "/users/count").await.total(), 95);

    assert_eq!(get(&api, &format!("/users/{}", Synthetic::user_id(94))).await.status, 200);
    assert_eq!(get(&api, &format!("/users/{}", Synthetic::user_id(95))).await.status, 404);
    let some = get(&api, &format!("/users?user_id={}&user_id=user_x", Synthetic::user_id(7))).await;
    assert_eq!(some.ids(), [Synthetic::user_id(7)]);
}

#[tokio::test]
async fn memberships_are_of_their_organization_and_their_user() {
    let api = serve(Synthetic::new(settings())).await;
    let organization = Synthetic::organization_id(4);
    let members =
        get(&api, &format!("/organizations/{organization}/memberships?limit=500&order_by=created_at")).await;
    assert_eq!(
        members.ids(),
        (0..10).map(|n| Synthetic::membership_id(4 + 10 * n)).take(10).collect::<Vec<_>>()
    );
    let first = &members.json()["data"][1];
    assert_eq!(first["organization"]["id"], organization);
    assert_eq!(first["public_user_data"]["user_id"], Synthetic::user_id(14));
    let path = format!("/organizations/{organization}/memberships?user_id={}", Synthetic::user_id(14));
    assert_eq!(get(&api, &path).await.ids(), [Synthetic::membership_id(14)]);
    let path = format!("/organizations/{organization}/memberships?user_id={}", Synthetic::user_id(15));
    assert!(get(&api, &path).await.ids().is_empty());

    let organizations =
        get(&api, "/organizations?include_members_count=true&order_by=created_at").await.json();
    let counts: u64 =
        (0..10).map(|at| organizations["data"][at]["members_count"].as_u64().expect("a count")).sum();
    assert_eq!(counts, 95);
}
