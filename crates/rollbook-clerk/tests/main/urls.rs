//! The URL and the headers of each request.

use rollbook_core::catalog::{Resource, SESSIONS, SUBSCRIPTION_ITEMS, USERS};
use rollbook_core::source::{
    Instance, PAGE_MAX, PageRequest, Position, RECONCILED, Source as _, SourceError, Window,
};
use rollbook_core::time::Timestamp;

use crate::server::{Answer, KEY, Server, json};

fn list_or_count(target: &str) -> Answer {
    match target {
        "/instance" => json(200, r#"{"object":"instance","id":"ins_1","environment_type":"production"}"#),
        _ if target.starts_with("/users/count") => json(200, r#"{"object":"total_count","total_count":3}"#),
        _ => json(200, r#"{"data":[{"id":"x_1"}],"total_count":3}"#),
    }
}

fn window(from: i64, to: i64) -> Window {
    Window { from: Timestamp::from_millis(from), to: Timestamp::from_millis(to) }
}

#[tokio::test]
async fn every_request_has_the_key_and_the_pinned_version_and_connections_are_reused() {
    let server = Server::start(|target, _| list_or_count(target)).await;
    let client = server.client();
    let instance = client.instance().await.expect("an instance");
    let clock = Timestamp::parse("2026-11-29T09:30:00Z").expect("a time");
    assert_eq!(instance, Instance { id: "ins_1".to_owned(), environment: "production".to_owned(), clock });
    client.count(&USERS, Window::ALL).await.expect("a count");
    for head in server.heads() {
        let head = head.to_lowercase();
        assert!(head.contains(&format!("\r\nauthorization: bearer {}\r\n", KEY.to_lowercase())), "{head}");
        assert!(head.contains("\r\nclerk-api-version: 2026-05-12\r\n"), "{head}");
        assert!(head.contains(&format!("\r\nhost: {}\r\n", server.address)), "{head}");
    }
    assert_eq!(server.targets(), ["/instance", "/users/count"]);
    assert_eq!(server.connections(), 1);
}

#[tokio::test]
async fn each_resource_is_listed_and_counted_by_its_own_url() {
    let server = Server::start(|target, _| list_or_count(target)).await;
    let client = server.client();
    let ascending = "order_by=%2Bcreated_at";
    for (resource, list) in RECONCILED.into_iter().chain([&SUBSCRIPTION_ITEMS]).zip([
        format!("/organizations?{ascending}&include_members_count=true"),
        format!("/users?{ascending}"),
        format!("/organization_memberships?{ascending}"),
        format!("/organization_invitations?{ascending}"),
        format!("/organization_domains?{ascending}"),
        format!("/organization_roles?{ascending}"),
        format!("/organization_permissions?{ascending}"),
        format!("/waitlist_entries?{ascending}"),
        "/billing/subscription_items?paginated=true&include_free=true".to_owned(),
    ]) {
        assert_eq!(client.count(resource, Window::ALL).await, Ok(3), "{list}");
        let is_user = resource.number == USERS.number;
        let position = if is_user {
            Position::After { id: Some("user_1+".to_owned()), window: Window::ALL }
        } else {
            Position::Offset(499)
        };
        let page = client
            .page(resource, &PageRequest { position, limit: 500, bytes_max: usize::MAX })
            .await
            .expect("a page");
        assert_eq!((page.objects.len(), page.total), (1, Some(3)));
        let urls = server.targets().split_off(server.targets().len() - 2);
        if is_user {
            assert_eq!(
                urls,
                ["/users/count".to_owned(), format!("{list}&limit=500&starting_after=user_1%2B")]
            );
        } else {
            assert_eq!(urls, [format!("{list}&limit=1"), format!("{list}&limit=500&offset=499")]);
        }
    }
    client.recently_updated_users(990, 500).await.expect("a page");
    assert_eq!(server.targets().pop().expect("one"), "/users?order_by=-updated_at&limit=500&offset=990");
}

#[tokio::test]
async fn a_window_is_covered_whether_clerks_bounds_are_inclusive_or_not() {
    let server = Server::start(|target, _| list_or_count(target)).await;
    let client = server.client();
    for (window, query) in [
        (Window::ALL, ""),
        (window(1000, 2000), "?created_at_after=999&created_at_before=2000"),
        (window(1, 2), "?created_at_after=0&created_at_before=2"),
        (window(0, 2000), "?created_at_before=2000"),
        (window(-5, 0), "?created_at_before=0"),
        (window(1000, i64::MAX), "?created_at_after=999"),
    ] {
        client.count(&USERS, window).await.expect("a count");
        assert_eq!(server.targets().pop().expect("one"), format!("/users/count{query}"));
        let position = Position::After { id: None, window };
        client
            .page(&USERS, &PageRequest { position, limit: 1, bytes_max: usize::MAX })
            .await
            .expect("a page");
        let rest = query.replace('?', "&");
        assert_eq!(
            server.targets().pop().expect("one"),
            format!("/users?order_by=%2Bcreated_at&limit=1{rest}")
        );
    }
}

#[tokio::test]
async fn a_request_that_clerk_would_misunderstand_is_never_sent() {
    let server = Server::start(|target, _| list_or_count(target)).await;
    let client = server.client();
    let after = || Position::After { id: None, window: Window::ALL };
    let page = async |resource: &'static Resource, position, limit| {
        client.page(resource, &PageRequest { position, limit, bytes_max: usize::MAX }).await.map(|_| ())
    };
    let organizations = RECONCILED[0];
    for result in [
        page(&USERS, after(), 0).await,
        page(&USERS, after(), PAGE_MAX + 1).await,
        page(&USERS, Position::Offset(0), 10).await,
        page(organizations, after(), 10).await,
        page(&SESSIONS, Position::Offset(0), 10).await,
        client.count(&SESSIONS, Window::ALL).await.map(|_| ()),
        client.count(organizations, window(0, 1)).await.map(|_| ()),
    ] {
        assert!(matches!(result, Err(SourceError::Unsupported(_))), "{result:?}");
    }
    assert_eq!(server.targets(), [""; 0]);
}
