//! The configurations of `ops/ACCESS.md` in front of the real binary, with real tokens: nginx and Caddy let in only requests
//! that `/v1/authorize` allows, and the application sees only headers that they have set.

mod typescript;

use std::net::SocketAddr;

use rollbook_core::time::Clock as _;
use rollbook_session::limits::NAME_BYTES_MAX;
use rollbook_testkit::clock::WallClock;
use rollbook_testkit::hooks::{HookAnswer, HookRequest, HookServer};
use rollbook_testkit::process::{Home, Process, until};
use rollbook_testkit::servers::caddy::Caddy;
use rollbook_testkit::servers::free_port;
use rollbook_testkit::servers::nginx::Nginx;
use rollbook_testkit::tokens::{ISSUER, PARTY, Signer, claims, member_claims};
use serde_json::{Value, json};

use crate::architecture::root;
use crate::crashes::BINARY;
use crate::raw_http::{exchange, status};

const HEADERS: [&str; 4] =
    ["x-user-id", "x-organization-id", "x-organization-role", "x-organization-permissions"];

/// Headers from which some frameworks take another method or path than the proxy saw.
const OVERRIDES: [&str; 5] =
    ["x-http-method-override", "x-http-method", "x-method-override", "x-original-url", "x-rewrite-url"];

fn now() -> i64 {
    WallClock.now().as_millis() / 1000
}

fn local() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], free_port()))
}

/// Returns a block of the page by the name in the comment above it.
fn block(name: &str) -> String {
    let page = std::fs::read_to_string(root().join("ops/ACCESS.md")).expect("the page");
    let (_, rest) = page.split_once(&format!("<!-- {name} -->\n```")).expect("the block");
    let (_, text) = rest.split_once('\n').expect("its text");
    let (text, _) = text.split_once("\n```\n").expect("its end");
    format!("{text}\n")
}

/// Rollbook with session tokens, an application that records its requests, and the address of a proxy.
struct Stage {
    rollbook: Process,
    home: Home,
    api: SocketAddr,
    app: HookServer,
    proxy: SocketAddr,
}

impl Stage {
    async fn start() -> Self {
        let (api, proxy) = (local(), local());
        let home = Home::new(BINARY)
            .with("ROLLBOOK_API_LISTEN", api.to_string())
            .with("ROLLBOOK_API_TOKENS", "0123456789abcdef0123456789abcdef")
            .with("CLERK_ISSUER", ISSUER)
            .with("CLERK_JWT_KEY", Signer::of_the_instance().pem())
            .with("CLERK_AUTHORIZED_PARTIES", PARTY);
        let rollbook = home.start_ready(&["serve"]).await;
        let app = HookServer::start(|_| HookAnswer::Status(200, Vec::new()));
        Self { rollbook, home, api, app, proxy }
    }

    /// Returns a configuration of the page with the addresses of this stage.
    fn configuration(&self, name: &str) -> String {
        let changed = [
            ("127.0.0.1:8000", self.proxy),
            ("127.0.0.1:8090", self.api),
            ("127.0.0.1:3000", self.app.address),
        ];
        changed.iter().fold(block(name), |text, (known, address)| {
            assert!(text.contains(known), "{known} is not in {name}");
            text.replace(known, &address.to_string())
        })
    }

    /// Sends a request with these headers. Returns the status.
    async fn ask(&self, method: &str, headers: &[String]) -> u16 {
        self.ask_for(method, "/tasks/7", headers, "").await
    }

    /// Sends a request for this path with these headers and this body. Returns the status.
    async fn ask_for(&self, method: &str, path: &str, headers: &[String], body: &str) -> u16 {
        let closes = headers.iter().any(|header| header.to_lowercase().starts_with("connection:"));
        let first = if closes { "" } else { "connection: close\r\n" };
        let headers = headers.iter().fold(first.to_owned(), |all, header| format!("{all}{header}\r\n"));
        let request = format!(
            "{method} {path} HTTP/1.1\r\nhost: {}\r\n{headers}content-length: {}\r\n\r\n{body}",
            self.proxy,
            body.len()
        );
        status(&exchange(self.proxy, &request).await)
    }
}

fn bearer(signer: &Signer, claims: &Value) -> Vec<String> {
    vec![format!("authorization: Bearer {}", signer.token(claims))]
}

fn seen(request: &HookRequest) -> Vec<(&str, Vec<&str>)> {
    let values = |name: &str| {
        // Many frameworks take an underscore for a hyphen.
        let values = request.headers.iter().filter(|(known, _)| known.replace('_', "-") == name);
        values.map(|(_, value)| value.as_str()).collect::<Vec<_>>()
    };
    HEADERS.iter().map(|name| (*name, values(name))).collect()
}

/// A method and headers, with a name for messages.
type Case = (&'static str, &'static str, Vec<String>);

fn member() -> Value {
    member_claims("user_1", "org_1", now())
}

/// Returns the claims of a member who may read and nothing else.
fn reader() -> Value {
    let mut claims = member();
    claims["o"]["fpm"] = json!("1,0");
    claims
}

/// Returns headers with which a client invents who it is.
fn invented() -> Vec<String> {
    [
        "X-User-Id: user_admin",
        "x-user-id: user_other",
        "X-Organization-Id: org_2",
        "X-Organization-Role: org:owner",
        "X-Organization-Permissions: org:all:all",
    ]
    .map(str::to_owned)
    .into()
}

/// Returns headers that many frameworks take for those that say who it is.
fn respelled() -> Vec<String> {
    let user = ["X_User_Id", "x-user_id", "X_User-Id"].map(|name| format!("{name}: user_admin"));
    let organization = ["Id", "Role", "Permissions"].into_iter().flat_map(|name| {
        ["X_Organization_", "X-Organization_", "x_organization-"].map(|of| format!("{of}{name}: org:x"))
    });
    user.into_iter().chain(organization).collect()
}

/// Returns headers that name another method and path, with a respelled one.
fn overriding() -> Vec<String> {
    let names = OVERRIDES.iter().copied().chain(["X-HTTP_Method_Override", "X_Original_URL"]);
    names
        .map(|name| {
            format!("{name}: {}", if name.to_lowercase().ends_with("url") { "/admin" } else { "DELETE" })
        })
        .collect()
}

/// Returns requests that a proxy lets in.
fn let_in() -> Vec<Case> {
    let ours = Signer::of_the_instance();
    let with = |more: Vec<String>| [bearer(&ours, &member()), more].concat();
    // A client that lets the proxy remove who it is.
    let hiding = with(vec![format!("Connection: close, {}", HEADERS.join(", "))]);
    let in_cookie = vec![format!("cookie: a=b; __session={}", ours.token(&member()))];
    vec![
        ("a member", "GET", bearer(&ours, &member())),
        ("a member", "DELETE", bearer(&ours, &member())),
        ("a member by cookie", "DELETE", in_cookie),
        ("a member with invented headers", "DELETE", with(invented())),
        ("a member who hides the headers", "GET", hiding.clone()),
        ("a member who hides the headers", "POST", hiding),
        ("a member with headers in other spellings", "GET", with(respelled())),
        ("a member with headers in other spellings", "PATCH", with(respelled())),
        ("a member", "POST", bearer(&ours, &member())),
        ("a member who may read", "GET", bearer(&ours, &reader())),
        (
            "with another method in headers, a member who may read",
            "GET",
            [bearer(&ours, &reader()), overriding()].concat(),
        ),
        ("a member who may read", "HEAD", bearer(&ours, &reader())),
    ]
}

/// Returns requests that a proxy refuses, each with the status.
fn refused() -> Vec<(Case, u16)> {
    let (ours, other) = (Signer::of_the_instance(), Signer::of_another_instance());
    let with = |name: &str, value: Value| {
        let mut claims = member();
        claims[name] = value;
        bearer(&ours, &claims)
    };
    let cases = [
        ("a member without the permission", "DELETE", bearer(&ours, &reader()), 403),
        ("a member without the permission", "POST", bearer(&ours, &reader()), 403),
        (
            "a member without the permission, with GET in a header",
            "DELETE",
            [bearer(&ours, &reader()), vec!["X-HTTP-Method-Override: GET".to_owned()]].concat(),
            403,
        ),
        ("a member without the permission", "PUT", bearer(&ours, &reader()), 403),
        ("a member without the permission", "PATCH", bearer(&ours, &reader()), 403),
        ("a member without the permission", "PROPFIND", bearer(&ours, &reader()), 403),
        ("a user without an organization", "GET", bearer(&ours, &claims("user_1", now())), 403),
        ("no token", "GET", Vec::new(), 401),
        ("no token, and invented headers", "GET", invented(), 401),
        ("an expired token", "GET", bearer(&ours, &member_claims("user_1", "org_1", now() - 120)), 401),
        ("a token of another instance", "GET", bearer(&other, &member()), 401),
        ("a token for another application", "GET", with("azp", json!("https://evil.example.com")), 401),
        ("a pending session", "GET", with("sts", json!("pending")), 401),
    ];
    cases.into_iter().map(|(what, method, headers, status)| ((what, method, headers), status)).collect()
}

/// Sends each kind of request through the proxy of a stage, and stops Rollbook at the end.
async fn check(mut stage: Stage) {
    for (what, method, headers) in let_in() {
        let before = stage.app.received().len();
        assert_eq!(stage.ask(method, &headers).await, 200, "{what}, {method}");
        let received = stage.app.received();
        assert_eq!(received.len(), before + 1, "{what}, {method}: the application is asked once");
        let request = received.last().expect("a request");
        assert_eq!(request.line, format!("{method} /tasks/7 HTTP/1.1"));
        let permissions = if what.ends_with("may read") {
            "org:tasks:read"
        } else {
            "org:tasks:read,org:tasks:delete,org:invoices:read"
        };
        let expected = [
            ("x-user-id", vec!["user_1"]),
            ("x-organization-id", vec!["org_1"]),
            ("x-organization-role", vec!["org:admin"]),
            ("x-organization-permissions", vec![permissions]),
        ];
        assert_eq!(seen(request), expected, "{what}, {method}");
        let is_override = |name: &str| OVERRIDES.contains(&&*name.replace('_', "-"));
        assert!(!request.headers.iter().any(|(name, _)| is_override(name)), "{what}: {:?}", request.headers);
    }
    check_paths_and_bodies(&stage).await;
    let count = stage.app.received().len();
    for ((what, method, headers), expected) in refused() {
        assert_eq!(stage.ask(method, &headers).await, expected, "{what}");
    }
    stage.rollbook.kill();
    let down = stage.ask("GET", &bearer(&Signer::of_the_instance(), &member())).await;
    assert!(down >= 500, "without Rollbook nobody is let in: {down}");
    assert_eq!(stage.app.received().len(), count, "no refused request reached the application");
}

/// Sends requests for other paths, and one with a body.
async fn check_paths_and_bodies(stage: &Stage) {
    let reader = bearer(&Signer::of_the_instance(), &reader());
    let count = stage.app.received_count();
    let others =
        ["/tasks/../admin", "/tasks/%2e%2e/admin", "/tasks/..%2fadmin", "/tasks/.%2e/admin", "/admin"];
    let question = ["/_authorize", "/_authorize?permission=org:tasks:read", "/v1/session", "/tasks"];
    for path in others.iter().chain(&question) {
        stage.ask_for("GET", path, &reader, "").await;
        assert_eq!(stage.app.received_count(), count, "{path} leads nowhere");
    }
    for path in
        ["//tasks/7", "/TASKS/7", "/tasks/7;x", "/tasks/%37", "/./tasks/7", "/tasks//7", "/tasks/?a=/../"]
    {
        stage.ask_for("GET", path, &[], "").await;
        assert_eq!(stage.app.received_count(), count, "{path} without a token");
    }
    // The client's own query does not change the question.
    let path = "/tasks/7?permission=org:other:x&organization=org_9&role=org:owner";
    assert_eq!(stage.ask_for("GET", path, &reader, "").await, 200);
    let path = "/tasks/7?permission=org:tasks:read";
    assert_eq!(stage.ask_for("DELETE", path, &reader, "").await, 403);
    let member = bearer(&Signer::of_the_instance(), &member());
    assert_eq!(stage.ask_for("POST", "/tasks/", &member, "a new task").await, 200);
    let received = stage.app.received();
    let request = received.last().expect("a request");
    assert_eq!((&*request.line, &*request.body), ("POST /tasks/ HTTP/1.1", &b"a new task"[..]));
}

#[tokio::test]
async fn nginx_with_the_configuration_of_the_page_lets_in_only_what_is_allowed() {
    let stage = Stage::start().await;
    let _nginx = Nginx::configured(&stage.configuration("nginx.conf"), stage.proxy).await;
    check(stage).await;
}

#[tokio::test]
async fn caddy_with_the_configuration_of_the_page_lets_in_only_what_is_allowed() {
    let stage = Stage::start().await;
    let _caddy = Caddy::configured(&stage.configuration("Caddyfile"), stage.proxy).await;
    check(stage).await;
}

/// Returns a token with ids and a role of the greatest length, and permissions of this length in total.
fn long_token(length: usize) -> String {
    let long = |prefix: &str| format!("{prefix}{}", "x".repeat(NAME_BYTES_MAX - prefix.len()));
    let mut keys = vec!["org:tasks:read".to_owned()];
    keys.extend((0..28).map(|number| format!("org:tasks:{number:090}")));
    keys.push(format!("org:tasks:{}", "x".repeat(length - keys.join(",").len() - ",org:tasks:".len())));
    assert_eq!(keys.join(",").len(), length);
    let mut claims = claims(&long("user_"), now());
    claims["v"] = json!(1);
    claims["org_id"] = json!(long("org_"));
    claims["org_role"] = json!(long("org:"));
    claims["org_permissions"] = json!(keys);
    Signer::of_the_instance().token(&claims)
}

#[tokio::test]
async fn nginx_lets_in_the_longest_permissions_ids_and_cookies_and_the_application_sees_them() {
    let stage = Stage::start().await;
    let _nginx = Nginx::configured(&stage.configuration("nginx.conf"), stage.proxy).await;
    for (length, shown) in [(2_950, 2_950), (3_072, 3_072), (3_073, 0), (4_000, 0)] {
        let headers = [format!("authorization: Bearer {}", long_token(length))];
        assert_eq!(stage.ask("GET", &headers).await, 200, "{length} bytes of permissions");
        let received = stage.app.received();
        let request = received.last().expect("a request");
        let lengths = HEADERS.map(|name| request.header(name).map_or(0, str::len));
        assert_eq!(lengths, [NAME_BYTES_MAX, NAME_BYTES_MAX, NAME_BYTES_MAX, shown]);
    }
    // As much as nginx reads by default: three lines of nearly 8 KiB with the token's.
    let mut headers = bearer(&Signer::of_the_instance(), &member());
    headers.extend((0..3).map(|number| format!("cookie: c{number}={}", "c".repeat(8_000))));
    assert_eq!(stage.ask("GET", &headers).await, 200, "a browser with many cookies");
}

async fn status_of(api: SocketAddr, signer: &Signer) -> u16 {
    let token = signer.token(&member_claims("user_1", "org_1", now()));
    let request = format!("GET /v1/session HTTP/1.1\r\nhost: api\r\nauthorization: Bearer {token}\r\n\r\n");
    status(&exchange(api, &request).await)
}

#[tokio::test]
async fn the_key_of_session_tokens_is_rotated_in_its_file_without_a_restart() {
    let (old, new, api) = (Signer::of_the_instance(), Signer::of_another_instance(), local());
    let home = Home::new(BINARY);
    let key = home.path("key.pem");
    std::fs::write(&key, old.pem()).expect("it is written");
    let home = home
        .with("ROLLBOOK_API_LISTEN", api.to_string())
        .with("ROLLBOOK_API_TOKENS", "0123456789abcdef0123456789abcdef")
        .with("CLERK_ISSUER", ISSUER)
        .with("CLERK_JWT_KEY_FILE", key.display().to_string())
        .with("CLERK_AUTHORIZED_PARTIES", PARTY);
    let mut rollbook = home.start_ready(&["serve"]).await;
    assert_eq!([status_of(api, &old).await, status_of(api, &new).await], [200, 401]);
    for (text, expected) in [
        (format!("{}{}", new.pem(), old.pem()), [200, 200]),
        ("-----BEGIN PUBLIC KEY-----".to_owned(), [200, 200]),
        (new.pem(), [401, 200]),
    ] {
        let text_is_whole = text.contains("END");
        std::fs::write(&key, text).expect("it is written");
        rollbook.signal("HUP");
        until("the keys are as in the file, or as before", || async {
            let failing =
                home.metric("rollbook_secret_reload_failing").await.is_some_and(|count| count > 0.0);
            [status_of(api, &old).await, status_of(api, &new).await] == expected && failing != text_is_whole
        })
        .await;
    }
    assert!(home.log().contains("not reloaded"), "{}", home.log());
    rollbook.kill();
}
