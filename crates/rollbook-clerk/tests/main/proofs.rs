//! Point reads: what proves that an object is absent, and what does not.

use rollbook_core::catalog::{
    ORGANIZATION_DOMAINS, ORGANIZATION_INVITATIONS, ORGANIZATION_MEMBERSHIPS, ORGANIZATIONS, PERMISSIONS,
    ROLES, Resource, SUBSCRIPTION_ITEMS, USERS, WAITLIST_ENTRIES,
};
use rollbook_core::json::Json;
use rollbook_core::source::{Fetched, Lookup, Presence, Source as _, SourceError};

use crate::server::{Answer, Server, json, not_found};

fn lookup(id: &str, organization: &str, user: &str) -> Lookup {
    let known = |id: &str| Some(id.to_owned()).filter(|id| !id.is_empty());
    Lookup { id: id.to_owned(), organization_id: known(organization), user_id: known(user) }
}

fn object(id: &str) -> Answer {
    json(200, &format!(r#"{{"id":"{id}"}}"#))
}

/// Each result in a word: the id of the object, `absent` or `unknown`.
fn words(fetched: &[Fetched]) -> Vec<&str> {
    let word = |fetched: &'_ Fetched| match &fetched.presence {
        Presence::Exists(object) => {
            object.get("id").and_then(Json::as_text).expect("an id").into_owned().leak()
        }
        Presence::Absent => "absent",
        Presence::Unknown(_) => "unknown",
    };
    fetched.iter().map(word).collect()
}

async fn fetch(
    resource: &'static Resource,
    lookups: &[Lookup],
    answer: impl Fn(&str) -> Answer + Send + Sync + 'static,
) -> (Result<Vec<Fetched>, SourceError>, Vec<String>) {
    let server = Server::start(move |target, _| answer(target)).await;
    let fetched = server.client().fetch(resource, lookups).await;
    (fetched, server.targets())
}

#[tokio::test]
async fn a_user_is_absent_only_if_the_list_leaves_it_out_and_a_read_alone_answers_404() {
    let lookups = ["user_1", "user_2", "user_3", "user_1"].map(|id| lookup(id, "", ""));
    let (fetched, targets) = fetch(&USERS, &lookups, |target| match target {
        "/users/user_2" => not_found(),
        "/users/user_3" => object("user_3"),
        _ => json(200, r#"[{"id":"user_9"},{"id":"user_1"}]"#),
    })
    .await;
    let fetched = fetched.expect("results");
    assert_eq!(words(&fetched), ["user_1", "absent", "user_3", "user_1"]);
    assert!(fetched.iter().all(|result| result.clock.to_string() == "2026-11-29T09:30:00.000Z"));
    let list =
        "/users?order_by=%2Bcreated_at&limit=100&user_id=user_1&user_id=user_2&user_id=user_3&user_id=user_1";
    assert_eq!(targets[0], list);
    let mut rest = targets[1..].to_vec();
    rest.sort();
    assert_eq!(rest, ["/users/user_2", "/users/user_3"]);
}

#[tokio::test]
async fn an_answer_other_than_clerks_404_is_an_error_and_proves_nothing() {
    let answers = [
        json(404, ""),
        json(404, r#"{"errors":[{"code":"other"}]}"#),
        json(404, "<html>"),
        json(401, ""),
        json(403, ""),
        json(422, ""),
        json(500, ""),
        json(200, ""),
        json(200, "[]"),
        json(200, "<html>"),
    ];
    for answer in answers {
        let said = format!("{answer:?}");
        for (resource, list) in [(&USERS, "/users?"), (&ORGANIZATIONS, "/organizations?"), (&ROLES, "/none")]
        {
            let answer = answer.clone();
            let (fetched, _) = fetch(resource, &[lookup("x_1", "", "")], move |target| {
                if target.starts_with(list) {
                    json(200, r#"{"data":[],"total_count":0}"#)
                } else {
                    answer.clone()
                }
            })
            .await;
            assert!(fetched.is_err(), "{said}: {fetched:?}");
        }
    }
}

#[tokio::test]
async fn an_organization_that_has_the_id_as_its_slug_is_not_the_one() {
    let (fetched, targets) = fetch(&ORGANIZATIONS, &[lookup("org_1", "", "")], |target| match target {
        "/organizations/org_1?include_members_count=true" => object("org_2"),
        _ => json(200, r#"{"data":[],"total_count":0}"#),
    })
    .await;
    assert_eq!(words(&fetched.expect("results")), ["unknown"]);
    assert_eq!(
        targets,
        [
            "/organizations?order_by=%2Bcreated_at&include_members_count=true&limit=100&organization_id=org_1",
            "/organizations/org_1?include_members_count=true"
        ]
    );
}

/// Answers of Clerk about one object of each kind, which does not exist, as their proof needs them; each JSON object
/// passes through `spoil` first.
fn absent(target: &str, spoil: impl Fn(&str) -> String) -> Answer {
    let list =
        |objects: &str, total: u64| json(200, &format!(r#"{{"data":[{objects}],"total_count":{total}}}"#));
    let path = target.split('?').next().expect("a path");
    match path {
        "/users" => json(200, &format!("[{}]", spoil(r#"{"id":"user_9","object":"user"}"#))),
        "/organizations" => list(&spoil(r#"{"id":"org_9","object":"organization"}"#), 1),
        "/organizations/org_1" => json(200, r#"{"id":"org_1","object":"organization","members_count":1}"#),
        "/organizations/org_1/memberships" => {
            let member = r#"{"id":"orgmem_9","object":"organization_membership","public_user_data":{"user_id":"user_9"}}"#;
            list(&spoil(member), 1)
        }
        "/organization_domains" => list(&spoil(r#"{"id":"orgdmn_9","object":"organization_domain"}"#), 1),
        _ => not_found(),
    }
}

#[tokio::test]
async fn an_answer_with_an_object_of_another_type_or_a_deleted_one_proves_no_absence() {
    let kinds: [(&'static Resource, &str); 4] = [
        (&USERS, "user_1"),
        (&ORGANIZATIONS, "org_2"),
        (&ORGANIZATION_MEMBERSHIPS, "orgmem_1"),
        (&ORGANIZATION_DOMAINS, "orgdmn_1"),
    ];
    let spoilt: [fn(&str) -> String; 2] = [
        |object| object.replacen(r#","object":""#, r#","object":"other_"#, 1),
        |object| object.replacen('{', r#"{"deleted":true,"#, 1),
    ];
    for (resource, id) in kinds {
        let lookups = [lookup(id, "org_1", "user_1")];
        let (fetched, _) = fetch(resource, &lookups, |target| absent(target, str::to_owned)).await;
        assert_eq!(words(&fetched.expect("results")), ["absent"], "control: {resource:?}");
        for spoil in spoilt {
            let (fetched, _) = fetch(resource, &lookups, move |target| absent(target, spoil)).await;
            assert_eq!(words(&fetched.expect("results")), ["unknown"], "{resource:?}");
        }
    }
    for object in
        [r#"{"id":"role_1","object":"permission"}"#, r#"{"id":"role_1","object":"role","deleted":true}"#]
    {
        let (fetched, _) = fetch(&ROLES, &[lookup("role_1", "", "")], move |_| json(200, object)).await;
        assert_eq!(words(&fetched.expect("results")), ["unknown"], "{object}");
    }
}

#[tokio::test]
async fn an_answer_that_shows_an_object_twice_proves_no_absence_and_if_both_differ_nothing_of_it() {
    let kinds: [(&'static Resource, &str); 4] = [
        (&USERS, "user_1"),
        (&ORGANIZATIONS, "org_1"),
        (&ORGANIZATION_MEMBERSHIPS, "orgmem_1"),
        (&ORGANIZATION_DOMAINS, "orgdmn_1"),
    ];
    for (resource, id) in kinds {
        for (first, second, word) in [("1", "1", id), ("1", "2", "unknown"), ("2", "1", "unknown")] {
            let lookups = [lookup(id, "org_1", "user_1"), lookup("other_1", "org_1", "user_2")];
            let (fetched, _) = fetch(resource, &lookups, move |target| {
                let object = |id: &str, user: &str, at: &str| {
                    format!(r#"{{"id":"{id}","updated_at":{at},"public_user_data":{{"user_id":"{user}"}}}}"#)
                };
                let known = object("known_9", "user_9", "1");
                let [first, second] = [first, second].map(|at| object(id, "user_1", at));
                match target.split('?').next().expect("a path") {
                    "/organizations/org_1" => json(200, r#"{"id":"org_1","members_count":3}"#),
                    // The known member, which the filtered list shows too.
                    _ if target.contains("limit=1") && !target.contains("limit=100") => {
                        json(200, &format!(r#"{{"data":[{known}],"total_count":3}}"#))
                    }
                    "/users/other_1" | "/organizations/other_1" => not_found(),
                    "/users" => json(200, &format!("[{first},{second},{known}]")),
                    _ => json(200, &format!(r#"{{"data":[{first},{second},{known}],"total_count":3}}"#)),
                }
            })
            .await;
            assert_eq!(
                words(&fetched.expect("results")),
                [word, "unknown"],
                "{resource:?} at {first} and at {second}"
            );
        }
    }
}

#[tokio::test]
async fn a_filtered_list_of_members_that_counts_more_than_it_shows_proves_no_absence() {
    let lookups = [lookup("orgmem_1", "org_1", "user_1")];
    // The total is of the list without the filter (9), of the list (1), or of a list that is cut.
    for (total, word) in [(9, "absent"), (1, "absent"), (2, "unknown")] {
        let (fetched, _) = fetch(&ORGANIZATION_MEMBERSHIPS, &lookups, move |target| {
            let member = r#"{"id":"orgmem_9","public_user_data":{"user_id":"user_9"}}"#;
            let total = if target.contains("user_id") { total } else { 9 };
            if target.contains("/memberships") {
                json(200, &format!(r#"{{"data":[{member}],"total_count":{total}}}"#))
            } else {
                json(200, r#"{"id":"org_1","members_count":9}"#)
            }
        })
        .await;
        assert_eq!(words(&fetched.expect("results")), [word], "{total}");
    }
}

#[tokio::test]
async fn invitations_roles_and_permissions_are_read_alone() {
    for (resource, path) in [
        (&ORGANIZATION_INVITATIONS, "/organizations/org_1/invitations"),
        (&ROLES, "/organization_roles"),
        (&PERMISSIONS, "/organization_permissions"),
    ] {
        let lookups = ["x_1", "x_2", "x_3"].map(|id| lookup(id, "org_1", ""));
        let (fetched, mut targets) = fetch(resource, &lookups, |target| match target {
            _ if target.ends_with("/x_1") => object("x_1"),
            _ if target.ends_with("/x_2") => not_found(),
            _ => object("x_4"),
        })
        .await;
        assert_eq!(words(&fetched.expect("results")), ["x_1", "absent", "unknown"]);
        targets.sort();
        assert_eq!(targets, ["x_1", "x_2", "x_3"].map(|id| format!("{path}/{id}")));
    }
    let (fetched, targets) =
        fetch(&ORGANIZATION_INVITATIONS, &[lookup("x_1", "", "")], |_| not_found()).await;
    assert_eq!(words(&fetched.expect("results")), ["unknown"], "its organization is not known");
    assert_eq!(targets, [""; 0]);
}

#[tokio::test]
async fn what_has_no_read_of_one_object_is_unsupported() {
    for resource in [&WAITLIST_ENTRIES, &SUBSCRIPTION_ITEMS] {
        let (fetched, targets) = fetch(resource, &[lookup("x_1", "", "")], |_| not_found()).await;
        assert!(matches!(fetched, Err(SourceError::Unsupported(_))), "{fetched:?}");
        assert_eq!(targets, [""; 0]);
    }
}

#[tokio::test]
async fn odd_ids_are_encoded_and_those_that_could_lead_elsewhere_are_never_asked_for() {
    let odd = ["a b&limit=1?#", "ä%2F", "+user_1", "-user_1"];
    let unaskable = ["", ".", "..", "user_1/organization_memberships", "a\\b", "a\nb"];
    let lookups: Vec<Lookup> = odd.into_iter().chain(unaskable).map(|id| lookup(id, "", "")).collect();
    let (fetched, targets) =
        fetch(
            &USERS,
            &lookups,
            |target| {
                if target.starts_with("/users?") { json(200, "[]") } else { not_found() }
            },
        )
        .await;
    let expected = [vec!["absent"; odd.len()], vec!["unknown"; unaskable.len()]].concat();
    assert_eq!(words(&fetched.expect("results")), expected);
    // A sign at the beginning of a filter means to include or to exclude.
    assert_eq!(
        targets[0],
        "/users?order_by=%2Bcreated_at&limit=100&user_id=a%20b%26limit%3D1%3F%23&user_id=%C3%A4%252F&user_id=%2E&user_id=%2E%2E\
         &user_id=user_1%2Forganization_memberships&user_id=a%5Cb&user_id=a%0Ab"
    );
    let mut rest = targets[1..].to_vec();
    rest.sort();
    let mut alone =
        ["/users/a%20b%26limit%3D1%3F%23", "/users/%C3%A4%252F", "/users/%2Buser_1", "/users/-user_1"];
    alone.sort_unstable();
    assert_eq!(rest, alone);
}

#[tokio::test]
async fn many_ids_or_long_ones_are_asked_for_in_several_lists() {
    for (ids, lists) in [(250, 3), (100, 1), (101, 2)] {
        let lookups: Vec<Lookup> = (0..ids).map(|n| lookup(&format!("user_{n}"), "", "")).collect();
        let (fetched, targets) = fetch(&USERS, &lookups, |target| {
            let ids = target.split('&').filter_map(|part| part.strip_prefix("user_id="));
            json(
                200,
                &format!("[{}]", ids.map(|id| format!(r#"{{"id":"{id}"}}"#)).collect::<Vec<_>>().join(",")),
            )
        })
        .await;
        let fetched = fetched.expect("results");
        let expected: Vec<String> = lookups.iter().map(|of| of.id.clone()).collect();
        assert_eq!((words(&fetched), targets.len()), (expected.iter().map(String::as_str).collect(), lists));
    }
    let long: Vec<Lookup> = (0..100).map(|n| lookup(&format!("{n:0>255}"), "", "")).collect();
    let (_, targets) =
        fetch(
            &USERS,
            &long,
            |target| {
                if target.starts_with("/users?") { json(200, "[]") } else { not_found() }
            },
        )
        .await;
    assert!(targets.iter().all(|target| target.len() < 8000));
    assert_eq!(targets.len(), 100 + 5);
}

/// Clerk with the organization `org_1`, which has this number of members, and the members `user_0` to `user_n`
/// with the ids `mem_0` to `mem_n`. Without `filters` the list filtered by users is empty.
fn organization(members: usize, filters: bool) -> impl Fn(&str) -> Answer + Send + Sync + 'static {
    move |target| {
        if target == "/organizations/org_1?include_members_count=true" {
            return json(200, &format!(r#"{{"id":"org_1","members_count":{members}}}"#));
        }
        let Some(query) = target.strip_prefix("/organizations/org_1/memberships?") else {
            return not_found();
        };
        let asked: Vec<&str> = query.split('&').filter_map(|part| part.strip_prefix("user_id=")).collect();
        let is_listed = |n: &usize| {
            if asked.is_empty() { *n == 0 } else { filters && asked.contains(&format!("user_{n}").as_str()) }
        };
        let member = |n| format!(r#"{{"id":"mem_{n}","public_user_data":{{"user_id":"user_{n}"}}}}"#);
        let listed: Vec<String> = (0..members).filter(is_listed).map(member).collect();
        json(200, &format!(r#"{{"data":[{}],"total_count":{}}}"#, listed.join(","), listed.len()))
    }
}

#[tokio::test]
async fn a_membership_is_absent_if_the_list_of_its_organization_leaves_it_out_and_shows_a_known_member() {
    let lookups = [
        lookup("mem_1", "org_1", "user_1"),
        lookup("mem_old", "org_1", "user_2"),
        lookup("mem_7", "org_1", "user_7"),
        lookup("mem_0", "org_1", "user_0"),
        lookup("mem_8", "org_gone", "user_8"),
        lookup("mem_9", "org_1", ""),
        lookup("mem_9", "", "user_9"),
    ];
    let (fetched, mut targets) = fetch(&ORGANIZATION_MEMBERSHIPS, &lookups, organization(3, true)).await;
    targets.sort();
    let expected = ["mem_1", "absent", "absent", "mem_0", "absent", "unknown", "unknown"];
    assert_eq!(
        words(&fetched.expect("results")),
        expected,
        "user_2 is a member again, by another membership"
    );
    assert_eq!(
        targets,
        [
            "/organizations/org_1/memberships?limit=100&user_id=user_1&user_id=user_2&user_id=user_7\
             &user_id=user_0&user_id=user_0",
            "/organizations/org_1/memberships?order_by=%2Bcreated_at&limit=1",
            "/organizations/org_1?include_members_count=true",
            "/organizations/org_gone?include_members_count=true",
        ]
    );
}

#[tokio::test]
async fn an_empty_list_of_members_proves_nothing_by_itself() {
    let lookups = [lookup("mem_1", "org_1", "user_1")];
    let (fetched, _) = fetch(&ORGANIZATION_MEMBERSHIPS, &lookups, organization(3, false)).await;
    assert_eq!(words(&fetched.expect("results")), ["unknown"], "the filter lacks even the known member");
    let (fetched, _) = fetch(&ORGANIZATION_MEMBERSHIPS, &lookups, |target| {
        if target.contains("/memberships") {
            return json(200, r#"{"data":[],"total_count":0}"#);
        }
        organization(3, true)(target)
    })
    .await;
    assert_eq!(words(&fetched.expect("results")), ["unknown"], "the organization has members");
    let (fetched, _) = fetch(&ORGANIZATION_MEMBERSHIPS, &lookups, |target| {
        // The server ignores the filter: the list has the known member and others.
        if target.contains("limit=100") {
            let member = |n| format!(r#"{{"id":"mem_{n}","public_user_data":{{"user_id":"user_{n}"}}}}"#);
            return json(200, &format!(r#"{{"data":[{},{}],"total_count":900}}"#, member(0), member(5)));
        }
        organization(900, true)(target)
    })
    .await;
    assert_eq!(words(&fetched.expect("results")), ["unknown"], "the filter does not work");
    let (fetched, _) = fetch(&ORGANIZATION_MEMBERSHIPS, &lookups, organization(0, true)).await;
    assert_eq!(words(&fetched.expect("results")), ["absent"], "both answers agree");
}

#[tokio::test]
async fn a_domain_is_absent_if_the_complete_list_of_its_organization_leaves_it_out() {
    let lookups = [lookup("dom_1", "org_1", ""), lookup("dom_2", "org_1", "")];
    let list = "/organization_domains?order_by=%2Bcreated_at&organization_id=org_1&limit=500";
    let domains = |total: usize| {
        move |_: &str| json(200, &format!(r#"{{"data":[{{"id":"dom_1"}}],"total_count":{total}}}"#))
    };
    let (fetched, targets) = fetch(&ORGANIZATION_DOMAINS, &lookups, domains(1)).await;
    assert_eq!(
        (words(&fetched.expect("results")), targets),
        (vec!["dom_1", "absent"], vec![list.to_owned()])
    );
    let (fetched, _) = fetch(&ORGANIZATION_DOMAINS, &lookups, domains(2)).await;
    assert_eq!(words(&fetched.expect("results")), ["dom_1", "unknown"], "not complete");

    let empty = || json(200, r#"{"data":[],"total_count":0}"#);
    let (fetched, _) = fetch(&ORGANIZATION_DOMAINS, &lookups, move |target| match target {
        "/organizations/org_1?include_members_count=true" => not_found(),
        _ => empty(),
    })
    .await;
    assert_eq!(words(&fetched.expect("results")), ["absent"; 2], "deleted with its organization");
    let (fetched, _) = fetch(&ORGANIZATION_DOMAINS, &lookups, move |target| match target {
        "/organizations/org_1?include_members_count=true" => object("org_1"),
        _ => empty(),
    })
    .await;
    assert_eq!(words(&fetched.expect("results")), ["unknown"; 2], "every list of domains is empty");
    let (fetched, targets) = fetch(&ORGANIZATION_DOMAINS, &lookups, move |target| match target {
        "/organizations/org_1?include_members_count=true" => object("org_1"),
        _ if target == list => empty(),
        _ => json(200, r#"{"data":[{"id":"dom_3"}],"total_count":1}"#),
    })
    .await;
    assert_eq!(words(&fetched.expect("results")), ["absent"; 2]);
    assert_eq!(targets[2], "/organization_domains?order_by=%2Bcreated_at&limit=1");
}
