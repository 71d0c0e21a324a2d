//! Errors, faults on demand and the rate limit.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::time::Duration;

use rollbook_simulator::api::{DEFAULT_KEY, Fault};
use rollbook_simulator::history::INSTANCE_ID;

use super::{Stage, get_with, history};

async fn stage() -> Stage {
    Stage::new(history().state()).await
}

#[tokio::test]
async fn a_request_needs_the_key() {
    let stage = stage().await;
    for (key, code) in [
        (Some(format!("Bearer {DEFAULT_KEY}x")), "clerk_key_invalid"),
        (Some("Bearer x".to_owned()), "clerk_key_invalid"),
        (Some(DEFAULT_KEY.to_owned()), "authorization_header_format_invalid"),
        (None, "authorization_header_format_invalid"),
    ] {
        let answer = get_with(&stage.api, "/users", key.as_deref()).await.expect("an answer");
        assert_eq!(answer.error(), (401, code.to_owned()));
        assert!(!answer.body.contains(DEFAULT_KEY));
    }
}

#[tokio::test]
async fn unknown_paths_objects_and_organizations_are_404() {
    let stage = stage().await;
    let organization = &stage.ids("organizations")[0];
    let invitations = stage.get("/organization_invitations?limit=500").await.json();
    let other = invitations["data"]
        .as_array()
        .expect("a list")
        .iter()
        .find(|one| one["organization_id"] != organization.as_str())
        .expect("an invitation of another organization")["id"]
        .as_str()
        .expect("an id");
    for path in [
        "/users/user_unknown".to_owned(),
        "/users/%2e%2e%2f'%22".to_owned(),
        "/organizations/org_unknown".to_owned(),
        "/organizations/org_unknown/memberships".to_owned(),
        "/organizations/org_unknown/domains".to_owned(),
        format!("/organizations/{organization}/invitations/{other}"),
        "/organization_roles/role_unknown".to_owned(),
        "/organization_permissions/perm_unknown".to_owned(),
        "/nothing".to_owned(),
    ] {
        let answer = stage.get(&path).await;
        assert_eq!(answer.error(), (404, "resource_not_found".into()), "{path}");
        assert!(answer.json()["clerk_trace_id"].is_string());
    }
}

#[tokio::test]
async fn a_planned_fault_hits_that_many_requests_to_its_path_and_no_other() {
    let stage = stage().await;
    let controls = stage.api.controls();
    controls.inject_on("/users", Fault::TooManyRequests { retry_after: Some(3) }, 1);
    controls.inject_on("/users", Fault::TooManyRequests { retry_after: None }, 1);
    controls.inject_on("/users", Fault::Forbidden, 1);
    controls.inject_on("/users", Fault::Unauthorized, 1);
    controls.inject_on("/users", Fault::ServerError(503), 2);

    assert_eq!(stage.get("/organizations").await.status, 200);
    let first = stage.get("/users").await;
    assert_eq!(first.error(), (429, "too_many_requests".into()));
    assert_eq!(first.headers["retry-after"], "3");
    let second = stage.get("/users").await;
    assert_eq!((second.status, second.headers.get("retry-after")), (429, None));
    let mut statuses = Vec::new();
    for _ in 0..5 {
        statuses.push(stage.get("/users").await.status);
    }
    assert_eq!(statuses, [403, 401, 503, 503, 200]);

    let expected = [(200, 1), (401, 1), (403, 1), (429, 2), (503, 2)];
    let mut expected: BTreeMap<(String, u16), u64> =
        expected.into_iter().map(|(status, count)| (("/users".to_owned(), status), count)).collect();
    expected.insert(("/organizations".to_owned(), 200), 1);
    assert_eq!(controls.requests(), expected);
    assert_eq!(controls.requests_to("/users"), 7);
    assert_eq!(controls.log()[0].version.as_deref(), Some("2026-05-12"));
}

#[tokio::test]
async fn bodies_and_pages_are_spoiled_on_demand() {
    let stage = stage().await;
    let controls = stage.api.controls();
    let key = format!("Bearer {DEFAULT_KEY}");

    for fault in [Fault::TruncatedBody, Fault::Disconnect] {
        controls.inject(fault, 1);
        assert!(get_with(&stage.api, "/users", Some(&key)).await.is_err());
    }

    controls.inject(Fault::Html, 1);
    let html = stage.get("/users").await;
    assert_eq!((html.status, &html.headers["content-type"]), (200, &"text/html".parse().expect("a value")));
    assert!(html.body.starts_with("<!DOCTYPE html>"));

    controls.inject(Fault::EmptyPage, 2);
    assert!(stage.get("/users?limit=500").await.ids().is_empty());
    assert_eq!(stage.get("/organizations").await.total(), 0);

    controls.inject(Fault::LimitCutTo10, 1);
    assert_eq!(stage.get("/users?limit=500").await.ids().len(), 10);
    assert!(stage.get("/users?limit=500").await.ids().len() > 10);

    controls.inject(Fault::ObjectWithoutId, 1);
    assert_eq!(stage.get("/users").await.json()[0].get("id"), None);

    let whole = stage.get("/organizations?limit=500").await;
    let first = whole.ids()[0].clone();
    for (fault, key, value) in [
        (Fault::ObjectOfAnotherType, "object", "session".into()),
        (Fault::DeletedObject, "deleted", true.into()),
    ] {
        controls.inject(fault, 2);
        let page = stage.get("/organizations?limit=500").await.json();
        assert_eq!((&page["data"][0]["id"], &page["data"][0][key]), (&first.clone().into(), &value));
        let alone = stage.get(&format!("/organizations/{first}")).await.json();
        assert_eq!((&alone["id"], &alone[key]), (&first.clone().into(), &value));
    }
    controls.inject(Fault::DuplicateObject, 1);
    let page = stage.get("/organizations?limit=500").await;
    assert_eq!(
        (page.ids()[1].clone(), page.ids().len(), page.total()),
        (first, whole.ids().len(), whole.total())
    );
    controls.inject(Fault::ShortPage, 1);
    let page = stage.get("/organizations?limit=3").await;
    assert_eq!((page.ids().len(), page.total()), (2, whole.total()));
    controls.inject(Fault::TotalJumps(7), 1);
    assert_eq!(stage.get("/organizations").await.total(), whole.total() + 7);
    controls.inject(Fault::LargePage { objects: 2, bytes: 1 << 20 }, 2);
    assert!(stage.get("/users?limit=2").await.body.len() < 1 << 20);
    let large = stage.get("/users?limit=3").await;
    assert!(large.ids().len() == 3 && large.body.len() > 1 << 20);

    controls.inject(Fault::Body("[1,".into()), 1);
    assert_eq!(stage.get("/users").await.body, "[1,");

    controls.inject(Fault::Forbidden, 100);
    controls.clear_faults();
    assert_eq!(stage.get("/users").await.status, 200);
}

#[tokio::test]
async fn a_request_without_an_answer_is_counted_and_others_are_answered_meanwhile() {
    let stage = stage().await;
    let controls = stage.api.controls();
    controls.inject(Fault::Hang, 1);
    let key = format!("Bearer {DEFAULT_KEY}");
    let hanging = get_with(&stage.api, "/users", Some(&key));
    let others = async {
        while controls.requests_to("/users") == 0 {
            tokio::task::yield_now().await;
        }
        stage.get("/users").await.status
    };
    tokio::select! {
        biased;
        _ = hanging => panic!("the request has an answer"),
        status = others => assert_eq!(status, 200),
    }
    assert_eq!(controls.requests()[&("/users".to_owned(), 0)], 1);
}

#[tokio::test]
async fn the_rate_limit_admits_that_many_requests_in_a_period() {
    let stage = stage().await;
    let controls = stage.api.controls();
    controls.set_rate_limit(NonZeroU32::new(3));
    for _ in 0..3 {
        assert_eq!(stage.get("/users").await.status, 200);
    }
    let refused = stage.get("/users").await;
    assert_eq!(refused.error(), (429, "too_many_requests".into()));
    let seconds: u64 = refused.headers["retry-after"].to_str().expect("text").parse().expect("a number");
    assert!((1..=10).contains(&seconds), "{seconds}");
    controls.set_rate_limit(None);
    assert_eq!(stage.get("/users").await.status, 200);
}

#[tokio::test]
async fn the_instance_its_clock_and_the_latency_are_what_the_controls_say() {
    let stage = stage().await;
    let controls = stage.api.controls();
    let answer = stage.get("/instance").await;
    assert_eq!(
        (&answer.json()["id"], &answer.json()["environment_type"]),
        (&INSTANCE_ID.into(), &"development".into())
    );
    assert_eq!(answer.headers["date"], "Wed, 29 Jul 2026 08:00:00 GMT");

    controls.set_clock_offset_seconds(-600);
    controls.set_instance_id(Some("ins_other"));
    controls.set_latency(Duration::from_millis(1));
    let answer = stage.get("/instance").await;
    assert_eq!(answer.json()["id"], "ins_other");
    assert_eq!(answer.headers["date"], "Wed, 29 Jul 2026 07:50:00 GMT");
}
