//! `/v1/openapi.json` against the answers: real answers fit the schemas of their status and media type, and a schema
//! that is wrong is noticed.

use std::sync::atomic::Ordering;

use rollbook_core::catalog::RESOURCES;
use rollbook_core::store::{ChangeKind, ChangeOrigin};
use rollbook_testkit::events::{START, deleted, membership, organization};
use rollbook_testkit::tokens::claims;
use serde_json::{Value, json};

use crate::engine::Engine;
use crate::stage::{Answer, NO_TOKEN, Options, Server, bearer};

/// A document, with what a schema of it says about a value.
struct Document(Value);

impl Document {
    /// The value that a reference names.
    fn resolve<'a>(&'a self, value: &'a Value) -> &'a Value {
        let Some(reference) = value["$ref"].as_str() else { return value };
        let pointer = reference.strip_prefix('#').expect("a reference within the document");
        self.0.pointer(pointer).unwrap_or_else(|| panic!("no {reference}"))
    }

    /// Complaints about a value; empty if it fits. A keyword that is not known here is an error too.
    fn faults(&self, schema: &Value, value: &Value) -> Vec<String> {
        let mut faults = Vec::new();
        for (keyword, expected) in schema.as_object().expect("a schema") {
            let fits = match keyword.as_str() {
                "description" | "format" | "default" => true,
                "$ref" => {
                    faults.extend(self.faults(self.resolve(schema), value));
                    true
                }
                "type" => types(expected).any(|name| has_type(value, name)),
                "enum" => expected.as_array().expect("values").contains(value),
                "const" => expected == value,
                "minimum" => value.as_u64() >= expected.as_u64(),
                "maximum" => value.as_u64() <= expected.as_u64(),
                "maxItems" => value
                    .as_array()
                    .is_none_or(|items| items.len() as u64 <= expected.as_u64().expect("a number")),
                "pattern" => value.as_str().is_none_or(|text| {
                    if expected == "^[0-9a-f]{16}$" { is_generation(text) } else { is_time(text) }
                }),
                "oneOf" => {
                    let fitting = |one: &&Value| self.faults(one, value).is_empty();
                    expected.as_array().expect("schemas").iter().filter(fitting).count() == 1
                }
                "items" => {
                    let items = value.as_array().into_iter().flatten();
                    faults.extend(items.flat_map(|item| self.faults(expected, item)));
                    true
                }
                "required" => value.as_object().is_none_or(|object| {
                    expected
                        .as_array()
                        .expect("names")
                        .iter()
                        .all(|name| object.contains_key(name.as_str().expect("a name")))
                }),
                "properties" => {
                    let known = value.as_object().into_iter().flatten();
                    let known = known.filter_map(|(name, value)| Some((expected.get(name)?, value)));
                    faults.extend(known.flat_map(|(schema, value)| self.faults(schema, value)));
                    true
                }
                "additionalProperties" => {
                    let known = schema["properties"].as_object().expect("properties");
                    *expected == json!(false)
                        && value
                            .as_object()
                            .is_none_or(|object| object.keys().all(|name| known.contains_key(name)))
                }
                _ => false,
            };
            if !fits {
                faults.push(format!("{keyword} {expected}: {value}"));
            }
        }
        faults
    }

    #[track_caller]
    fn assert_fits(&self, schema: &str, value: &Value) {
        let schema = self.0.pointer(&format!("/components/schemas/{schema}")).expect("a schema");
        assert_eq!(self.faults(schema, value), Vec::<String>::new());
    }

    /// Checks an answer of a path against the schema of its status and media type.
    #[track_caller]
    fn assert_describes(&self, path: &str, answer: &Answer) {
        let responses = &self.0["paths"][path]["get"]["responses"];
        let response = self.resolve(&responses[answer.status.to_string()]);
        for name in response["headers"].as_object().into_iter().flat_map(|headers| headers.keys()) {
            assert!(answer.header(name).is_some(), "{name} of {}", answer.status);
        }
        if answer.status == 204 {
            return assert_eq!((answer.body.as_str(), &response["content"]), ("", &Value::Null));
        }
        let media = answer.header("content-type").expect("a media type");
        let schema = &response["content"][media]["schema"];
        assert!(schema.is_object(), "{media} of {} at {path} is not described", answer.status);
        assert_eq!(self.faults(schema, &answer.json()), Vec::<String>::new(), "{path}");
    }
}

fn types(expected: &Value) -> impl Iterator<Item = &str> {
    let several = expected.as_array().map(Vec::as_slice).unwrap_or_default();
    several.iter().chain([expected]).filter_map(Value::as_str)
}

fn has_type(value: &Value, name: &str) -> bool {
    match name {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "boolean" => value.is_boolean(),
        "integer" => value.is_u64() || value.is_i64(),
        "null" => value.is_null(),
        _ => false,
    }
}

/// Whether a text is the name of a feed's generation.
fn is_generation(text: &str) -> bool {
    text.len() == 16 && text.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
}

/// The only pattern of an answer: a time with milliseconds.
fn is_time(text: &str) -> bool {
    let shape: String = text.chars().map(|c| if c.is_ascii_digit() { '0' } else { c }).collect();
    shape == "0000-00-00T00:00:00.000Z"
}

async fn document(server: &Server) -> Document {
    let answer = server.get("/v1/openapi.json", &[NO_TOKEN]).await;
    assert_eq!((answer.status, answer.header("content-type")), (200, Some("application/json")));
    Document(answer.json())
}

async fn every_answer_is_as_the_document_says(engine: Engine) {
    let server = Server::start(engine).await;
    let document = document(&server).await;
    server.create_users(3).await;
    server.apply("user.deleted", &deleted("user", "user_1")).await;
    for query in [
        "",
        "?expand=row",
        "?after=1&limit=1",
        "?resource=roles",
        "?after=last&wait=1ms",
        "?after=9",
        "?kind=x",
    ] {
        document.assert_describes("/v1/changes", &server.get(&format!("/v1/changes{query}"), &[]).await);
    }
    document.assert_describes("/v1/changes", &server.get("/v1/changes", &[NO_TOKEN]).await);
    let mut events = server.open("/v1/changes?expand=row", &[]).await;
    for schema in ["Change", "Change", "Change", "Change", "Heartbeat"] {
        document.assert_fits(schema, &events.next().await.expect("an event").data);
    }
    for (path, method) in [("/v1/else", "GET"), ("/v1/changes", "DELETE")] {
        document.assert_fits("Problem", &server.ask(method, path, &[]).await.json());
    }
    server.remove(2).await;
    document.assert_describes("/v1/changes", &server.get("/v1/changes?after=1", &[]).await);
    server.feed.fails.store(true, Ordering::Relaxed);
    document.assert_describes("/v1/changes", &server.get("/v1/changes?after=1", &[]).await);
}

#[tokio::test]
async fn every_answer_about_sessions_and_rows_is_as_the_document_says() {
    let server = Server::start(Engine::Memory).await;
    let document = document(&server).await;
    server.create_users(2).await;
    server.apply("organization.created", &organization("org_1", START)).await;
    for number in 1..=3 {
        let member = membership(&format!("orgmem_{number}"), "org_1", &format!("user_{number}"), START);
        server.apply("organizationMembership.created", &member).await;
    }
    server.apply("user.deleted", &deleted("user", "user_2")).await;
    let (member, alone) = (server.bearer_in("user_1", "org_1"), server.bearer("user_9"));
    let mut acted = claims("user_1", server.seconds());
    acted["act"] = json!({ "sub": "user_9" });
    let acted = bearer(&acted);
    let mut described = std::collections::BTreeSet::new();
    for (path, template, lines) in [
        ("/v1/session", "/v1/session", [member.as_str(), alone.as_str(), NO_TOKEN]),
        ("/v1/session?x=1", "/v1/session", [&member, &alone, NO_TOKEN]),
        ("/v1/context", "/v1/context", [&member, &alone, NO_TOKEN]),
        ("/v1/context?x=1", "/v1/context", [&member, &alone, NO_TOKEN]),
        ("/v1/authorize", "/v1/authorize", [&member, &alone, NO_TOKEN]),
        ("/v1/authorize?permission=org:a:b", "/v1/authorize", [&member, &alone, NO_TOKEN]),
        ("/v1/authorize?role=org:b", "/v1/authorize", [&member, &alone, NO_TOKEN]),
        ("/v1/authorize?organization=org_2", "/v1/authorize", [&member, &alone, NO_TOKEN]),
        ("/v1/authorize?permission=", "/v1/authorize", [&member, &alone, NO_TOKEN]),
        ("/v1/authorize?impersonation=refused", "/v1/authorize", [&member, &acted, NO_TOKEN]),
        ("/v1/users/user_1", "/v1/users/{id}", ["accept: */*", &alone, NO_TOKEN]),
        ("/v1/users/user_2", "/v1/users/{id}", ["accept: */*", &alone, NO_TOKEN]),
        ("/v1/users/user_3", "/v1/users/{id}", ["accept: */*", &alone, NO_TOKEN]),
        ("/v1/users/user_1?max_age=1s", "/v1/users/{id}", ["accept: */*", &alone, NO_TOKEN]),
        ("/v1/users/user_1?max_age=1", "/v1/users/{id}", ["accept: */*", &alone, NO_TOKEN]),
        ("/v1/organizations/org_1", "/v1/organizations/{id}", ["accept: */*", &alone, NO_TOKEN]),
        ("/v1/users/user_3/organizations", "/v1/users/{id}/organizations", ["accept: */*", &alone, NO_TOKEN]),
        (
            "/v1/organizations/org_1/members",
            "/v1/organizations/{id}/members",
            ["accept: */*", &alone, NO_TOKEN],
        ),
        (
            "/v1/organizations/org_1/members?limit=1",
            "/v1/organizations/{id}/members",
            ["accept: */*", &alone, NO_TOKEN],
        ),
        (
            "/v1/organizations/org_1/members?limit=0",
            "/v1/organizations/{id}/members",
            ["accept: */*", &alone, NO_TOKEN],
        ),
        ("/v1/organizations/x/members", "/v1/organizations/{id}/members", ["accept: */*", &alone, NO_TOKEN]),
    ] {
        for line in lines {
            let answer = server.get(path, &[line]).await;
            document.assert_describes(template, &answer);
            described.insert((template, answer.status));
        }
    }
    // Every status that the document has was among the answers, but for those of an outage.
    for (path, item) in document.0["paths"].as_object().expect("paths") {
        let statuses = item["get"]["responses"].as_object().expect("responses").keys();
        let missing: Vec<_> = statuses
            .filter(|status| !described.contains(&(path.as_str(), status.parse().expect("a status"))))
            .filter(|status| *status != "503")
            .collect();
        let is_known = ["/v1/changes", "/v1/openapi.json"].contains(&path.as_str());
        let others = ["/v1/organizations/{id}", "/v1/users/{id}/organizations"].contains(&path.as_str());
        assert!(is_known || others || missing.is_empty(), "{path}: {missing:?}");
    }
    let off = Server::with_options(Engine::Memory, Options { sessions: None, ..Options::default() }).await;
    for path in ["/v1/session", "/v1/context", "/v1/authorize"] {
        document.assert_describes(path, &off.get(path, &[&member]).await);
    }
}

#[tokio::test]
async fn the_document_names_what_the_core_names() {
    let document = document(&Server::start(Engine::Memory).await).await.0;
    let schemas = &document["components"]["schemas"];
    assert_eq!(schemas["Resource"]["enum"], json!(RESOURCES.map(|resource| resource.table)));
    assert_eq!(schemas["Kind"]["enum"], json!(ChangeKind::ALL.map(ChangeKind::as_str)));
    assert_eq!(schemas["Origin"]["enum"], json!(ChangeOrigin::ALL.map(ChangeOrigin::as_str)));
}

#[tokio::test]
async fn an_answer_that_differs_from_the_document_is_noticed() {
    let server = Server::start(Engine::Memory).await;
    let document = document(&server).await;
    server.create_users(1).await;
    let page = server.get("/v1/changes", &[]).await.json();
    let schema = document.0.pointer("/components/schemas/Page").expect("a schema");
    let differs = |change: &dyn Fn(&mut Value)| {
        let mut page = page.clone();
        change(&mut page);
        !document.faults(schema, &page).is_empty()
    };
    assert!(!differs(&|_| {}));
    assert!(differs(&|page| page["through"] = json!(-1)));
    assert!(differs(&|page| page["next"] = json!(1)));
    assert!(differs(&|page| page["changes"][0]["kind"] = json!("gone")));
    assert!(differs(&|page| page["changes"][0]["at"] = json!("2026-07-29 08:00:00Z")));
    assert!(differs(&|page| page["changes"][0]["cause"] = json!(5)));
    assert!(differs(&|page| page["changes"][0]["row"] = json!([])));
    assert!(differs(&|page| drop(page["changes"][0].as_object_mut().expect("an object").remove("event_at"))));
    let unknown = json!({ "type": "object", "minProperties": 1 });
    assert!(!document.faults(&unknown, &json!({})).is_empty(), "an unknown keyword is not passed over");
}

crate::on_every_store!(every_answer_is_as_the_document_says,);
