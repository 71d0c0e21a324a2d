//! Time that `/v1/authorize` adds to an answer of nginx (`auth_request`) at 500 requests a second, with the configuration of
//! `ops/ACCESS.md`: the page's location, and the same location without the question, in turns.
//!
//! The application is an nginx that answers at once, so that nothing else differs. Rollbook works on Postgres with rows of
//! the users; the answer comes from the token alone.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rollbook_core::time::Clock as _;
use rollbook_testkit::clock::WallClock;
use rollbook_testkit::process::{Home, Process};
use rollbook_testkit::servers::free_port;
use rollbook_testkit::servers::nginx::Nginx;
use rollbook_testkit::servers::postgres::PostgresServer;
use rollbook_testkit::tokens::{Signer, member_claims};
use serde_json::json;

use super::context::{fill, home, requests, tokens};
use super::{new_database, start_postgres};
use crate::Scale;
use crate::hammer::attempt;
use crate::report::{Report, median, progress};

/// Users and memberships in the database.
const USERS: usize = 100_000;
/// 500 a second, for 30 s.
const PAUSE: Duration = Duration::from_millis(2);
const REQUESTS: usize = 15_000;
const CONNECTIONS: usize = 32;
const ADDED_MAX: Duration = Duration::from_millis(2);
/// Paths below which nginx asks, and below which it does not.
const ASKED: &str = "/tasks/";
const OPEN: &str = "/open/";

pub(crate) async fn measure(scale: Scale, report: &mut Report) {
    let stage = Stage::start(USERS / scale.divisor).await;
    stage.check_that_nginx_asks().await;
    let mut turns = Vec::new();
    for turn in 0..scale.turns {
        let tokens = tokens(stage.users, REQUESTS / scale.divisor, turn);
        // Whatever grows or falls with the time helps neither.
        let asks_first = turn % 2 == 1;
        let first = stage.turn(asks_first, &tokens, turn).await;
        let second = stage.turn(!asks_first, &tokens, turn).await;
        turns.push(if asks_first { (first, second) } else { (second, first) });
    }
    let of = |figure: fn(&(Times, Times)) -> f64| median(turns.iter().map(figure));
    let added = Duration::from_secs_f64(of(|(asked, open)| asked.p99 - open.p99).max(0.0));
    let [asked_p50, asked_p99, open_p50, open_p99, delay] = [
        of(|(asked, _)| asked.p50),
        of(|(asked, _)| asked.p99),
        of(|(_, open)| open.p50),
        of(|(_, open)| open.p99),
        of(|(asked, _)| asked.delay),
    ]
    .map(|seconds| seconds * 1000.0);
    let detail = format!(
        "p50 and p99 with it {asked_p50:.2} and {asked_p99:.2} ms, without it {open_p50:.2} and {open_p99:.2} ms; \
         {} requests each, none failed; the generator's own delay, p99: {delay:.2} ms",
        REQUESTS / scale.divisor * scale.turns
    );
    report.answer("auth_request of nginx adds at 500/s, p99", added, ADDED_MAX, &detail);
    report.memory("work with the API", stage.rollbook.memory_peak());
}

/// Times of one turn, in seconds.
struct Times {
    p50: f64,
    p99: f64,
    delay: f64,
}

/// Rollbook on Postgres, nginx with the page's configuration, and an application.
struct Stage {
    users: usize,
    home: Home,
    rollbook: Process,
    proxy: Nginx,
    _app: Nginx,
    _postgres: PostgresServer,
}

impl Stage {
    async fn start(users: usize) -> Self {
        progress(&format!("filling Postgres with {users} users and memberships"));
        let postgres = start_postgres().await;
        let settings = new_database(&postgres, "authorize").await;
        fill(&postgres, "authorize", users).await;
        let (home, api) = home(settings.url);
        let rollbook = home.start_ready(&["work"]).await;
        let [app, proxy] = [0; 2].map(|_| SocketAddr::from((Ipv4Addr::LOCALHOST, free_port())));
        let answers = format!(
            "keepalive_requests 1000000;\ndefault_type text/plain;\n\
             server {{ listen {app}; location / {{ return 200 \"$http_x_user_id\"; }} }}"
        );
        let asks =
            configuration(&[("127.0.0.1:8000", proxy), ("127.0.0.1:8090", api), ("127.0.0.1:3000", app)]);
        let app = Nginx::configured(&answers, app).await;
        let proxy = Nginx::configured(&asks, proxy).await;
        Self { users, home, rollbook, proxy, _app: app, _postgres: postgres }
    }

    /// Controls: with a bad token, or none, nginx refuses what it lets in with a good one, and without the question it refuses
    /// nothing.
    async fn check_that_nginx_asks(&self) {
        let now = WallClock.now().as_millis() / 1000;
        let claims = |now| member_claims("user_000000001", "org_000000001", now);
        let ours = |claims| Signer::of_the_instance().token(&claims);
        let mut reader = claims(now);
        reader["o"]["fpm"] = json!("1,0");
        let good = ours(claims(now));
        for (method, path, token, status) in [
            ("GET", ASKED, &*good, "200"),
            ("GET", ASKED, &Signer::of_another_instance().token(&claims(now)), "401"),
            ("GET", ASKED, &ours(claims(now - 120)), "401"),
            ("GET", ASKED, &good[..good.len() - 8], "401"),
            ("GET", ASKED, "", "401"),
            ("GET", ASKED, &ours(reader.clone()), "200"),
            ("DELETE", ASKED, &ours(reader), "403"),
            ("GET", OPEN, "", "200"),
        ] {
            let request = format!(
                "{method} {path}7 HTTP/1.1\r\nhost: app\r\nauthorization: Bearer {token}\r\ncontent-length: 0\r\n\r\n"
            );
            let sent = attempt(self.proxy.address, &Arc::new(vec![request.into_bytes()]), 1, None, &[]).await;
            let found = sent.failures.first().map_or("200", |answer| answer.get(9..12).unwrap_or_default());
            assert_eq!(found, status, "{method} {path} with a token of {} bytes", token.len());
        }
    }

    /// Sends a request with each token, below the path where nginx asks or below the other one.
    async fn turn(&self, asks: bool, tokens: &[String], turn: usize) -> Times {
        let path = if asks { ASKED } else { OPEN };
        progress(&format!("{path} through nginx at 500 a second, turn {}", turn + 1));
        let before = self.questions().await;
        let requests = requests(&format!("{path}7"), tokens);
        let sent = attempt(self.proxy.address, &requests, CONNECTIONS, Some(PAUSE), &[]).await;
        let failures = &sent.failures;
        assert!(
            failures.is_empty(),
            "{} of {} requests failed: {}",
            failures.len(),
            tokens.len(),
            failures[0]
        );
        #[expect(clippy::cast_precision_loss, reason = "counts far below 2^52")]
        let expected = if asks { tokens.len() as f64 } else { 0.0 };
        let asked = self.questions().await - before;
        assert!((asked - expected).abs() < 0.5, "Rollbook let in {asked} requests of {expected}");
        let [p50, p99, delay] =
            [sent.latency(500), sent.latency(990), sent.delay(990)].map(|time| time.as_secs_f64());
        Times { p50, p99, delay }
    }

    /// Number of questions that Rollbook has answered with yes.
    async fn questions(&self) -> f64 {
        let labels = "route=\"authorize\",status=\"204\"";
        self.home.metric_with("rollbook_api_requests_total", labels).await.expect("the metric")
    }
}

/// Returns the page's configuration of nginx with these addresses, and with a second location that differs in the question
/// alone.
fn configuration(addresses: &[(&str, SocketAddr)]) -> String {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../ops/ACCESS.md");
    let page = std::fs::read_to_string(page).expect("the page");
    let (_, rest) = page.split_once("<!-- nginx.conf -->\n```nginx\n").expect("the block");
    let (block, _) = rest.split_once("\n```\n").expect("its end");
    let block = addresses.iter().fold(block.to_owned(), |block, (known, address)| {
        assert!(block.contains(known), "{known} is not in the block");
        block.replace(known, &address.to_string())
    });
    let start = block.find("    location /tasks/ {").expect("the location");
    let end = start + block[start..].find("\n    }\n").expect("its end") + "\n    }\n".len();
    let asks = |line: &&str| line.trim_start().starts_with("auth_request");
    let open: Vec<&str> = block[start..end].lines().filter(|line| !asks(line)).collect();
    assert_eq!(block[start..end].lines().filter(asks).count(), 5, "the question and its four values");
    // As long as what the question returns.
    let values = [
        ("$user_id", "user_000000001"),
        ("$organization", "org_000000001"),
        ("$role", "org:admin"),
        ("$permissions", "org:tasks:read,org:tasks:delete,org:invoices:read"),
    ];
    let open = values.iter().fold(open.join("\n").replace(ASKED, OPEN), |open, (name, value)| {
        assert!(open.contains(name), "{name} is not in the location");
        open.replace(name, value)
    });
    // One connection of the generator sends more than nginx allows by default.
    format!("keepalive_requests 1000000;\n{}{open}\n{}", &block[..end], &block[end..])
}
