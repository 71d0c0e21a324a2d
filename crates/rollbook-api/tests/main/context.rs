//! `/v1/context`: the session with the rows of the mirror.

use std::time::Duration;

use rollbook_testkit::events::{START, deleted, membership, organization, user};
use serde_json::{Value, json};

use crate::engine::Engine;
use crate::stage::Server;

async fn fill(server: &Server) {
    let mut person = user("user_1", START);
    person["private_metadata"] = json!({ "secret": "of-the-team" });
    server.apply("user.created", &person).await;
    server.apply("organization.created", &organization("org_1", START)).await;
    server.apply("organizationMembership.created", &membership("orgmem_1", "org_1", "user_1", START)).await;
    let payer = json!({ "id": "payer_1", "user_id": "", "organization_id": "org_1" });
    let subscription = json!({
        "object": "commerce_subscription", "id": "sub_1", "status": "active", "payer_id": "payer_1", "payer": payer,
        "created_at": START, "updated_at": START,
    });
    server.apply("subscription.created", &subscription).await;
    let item = json!({
        "object": "commerce_subscription_item", "id": "subi_1", "status": "active", "subscription_id": "sub_1",
        "payer": payer, "plan_id": "cplan_1", "plan": { "slug": "pro", "amount": 2500, "currency": "USD" },
        "created_at": START, "updated_at": START,
    });
    server.apply("subscriptionItem.active", &item).await;
}

async fn a_context_has_the_session_and_the_rows_with_their_ages_and_nothing_private(engine: Engine) {
    let server = Server::start(engine).await;
    fill(&server).await;
    server.clock.advance(Duration::from_secs(42));
    let answer = server.get("/v1/context", &[&server.bearer_in("user_1", "org_1")]).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    let context = answer.json();
    assert_eq!(context["as_of"], json!("2026-07-29T08:00:42.015Z"));
    assert_eq!(context["session"]["organization"]["id"], json!("org_1"));
    for (part, id) in
        [("user", "user_1"), ("organization", "org_1"), ("membership", "orgmem_1"), ("subscription", "sub_1")]
    {
        let part = &context[part];
        assert_eq!(part["row"]["id"], json!(id));
        assert_eq!((&part["as_of"], &part["age_seconds"]), (&json!("2026-07-29T08:00:00.015Z"), &json!(42)));
    }
    assert_eq!(context["membership"]["row"]["role"], json!("org:admin"));
    assert_eq!(context["user"]["row"]["public_metadata"]["plan"], json!("pro"));
    let items = context["items"].as_array().expect("items");
    assert_eq!((items.len(), &items[0]["row"]["plan_slug"]), (1, &json!("pro")));
    for private in ["of-the-team", "private_metadata", "\"data\"", "billing\":\"manual"] {
        assert!(!answer.body.contains(private), "{private}: {}", answer.body);
    }
}

async fn a_context_shows_what_the_mirror_has_and_null_for_what_is_not_current(engine: Engine) {
    let server = Server::start(engine).await;
    let unknown = server.get("/v1/context", &[&server.bearer_in("user_1", "org_1")]).await.json();
    let nothing = ["user", "organization", "membership", "subscription"].map(|part| unknown[part].clone());
    assert_eq!(nothing, [Value::Null, Value::Null, Value::Null, Value::Null]);
    assert_eq!((&unknown["items"], &unknown["session"]["user_id"]), (&json!([]), &json!("user_1")));
    fill(&server).await;
    let alone = server.get("/v1/context", &[&server.bearer("user_1")]).await.json();
    assert_eq!((&alone["user"]["row"]["id"], &alone["organization"]), (&json!("user_1"), &Value::Null));
    assert_eq!(
        (&alone["subscription"], &alone["items"]),
        (&Value::Null, &json!([])),
        "the user pays nothing"
    );
    // The token is valid for some seconds more. The mirror knows that the member is gone.
    let gone = membership("orgmem_1", "org_1", "user_1", START + 60);
    server.apply("organizationMembership.deleted", &gone).await;
    let left = server.get("/v1/context", &[&server.bearer_in("user_1", "org_1")]).await.json();
    assert_eq!((&left["membership"], &left["organization"]["row"]["id"]), (&Value::Null, &json!("org_1")));
    server.apply("user.deleted", &deleted("user", "user_1")).await;
    let left = server.get("/v1/context", &[&server.bearer_in("user_1", "org_1")]).await.json();
    assert_eq!(left["user"], Value::Null);
}

crate::on_every_store!(
    a_context_has_the_session_and_the_rows_with_their_ages_and_nothing_private,
    a_context_shows_what_the_mirror_has_and_null_for_what_is_not_current,
);
