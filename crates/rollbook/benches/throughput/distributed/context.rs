//! `/v1/context` on Postgres: the time to an answer at 500 requests a second, with a million users and memberships. In turns
//! with it `/v1/authorize` with the same tokens, which reads no row.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use rollbook_core::time::Clock as _;
use rollbook_testkit::clock::WallClock;
use rollbook_testkit::process::Home;
use rollbook_testkit::servers::free_port;
use rollbook_testkit::servers::postgres::PostgresServer;
use rollbook_testkit::tokens::{ISSUER, PARTY, Signer, member_claims};
use serde_json::json;

use super::{new_database, start_postgres};
use crate::Scale;
use crate::hammer::{Requests, hammer};
use crate::load::BINARY;
use crate::report::{Report, median, progress};

/// Users, as many memberships, and a tenth as many organizations.
const USERS: usize = 1_000_000;
/// 500 a second, for 30 s.
const PAUSE: Duration = Duration::from_millis(2);
const REQUESTS: usize = 15_000;
const CONNECTIONS: usize = 32;
const CONTEXT_MAX: Duration = Duration::from_millis(5);
/// Lifetime of the tokens, in seconds: longer than the measurement.
const LIFETIME: i64 = 3_600;
const TOKEN: &str = "0123456789abcdef0123456789abcdef";

pub(crate) async fn measure(scale: Scale, report: &mut Report) {
    let users = USERS / scale.divisor;
    progress(&format!("filling Postgres with {users} users and memberships"));
    let postgres = start_postgres().await;
    let settings = new_database(&postgres, "context").await;
    fill(&postgres, "context", users).await;
    let (home, api) = home(settings.url);
    let process = home.start_ready(&["work"]).await;
    let mut turns = Vec::new();
    for turn in 0..scale.turns {
        let tokens = tokens(users, REQUESTS / scale.divisor, turn);
        for (path, figures) in [("/v1/authorize?permission=org:tasks:read", 0), ("/v1/context", 1)] {
            progress(&format!("{path} at 500 a second, turn {}", turn + 1));
            let sent = hammer(api, &requests(path, &tokens), CONNECTIONS, Some(PAUSE), &[]).await;
            let times = [sent.latency(500), sent.latency(990), sent.delay(990)];
            turns.push((figures, times.map(|time| time.as_secs_f64())));
        }
    }
    for (index, what) in ["/v1/authorize", "/v1/context"].into_iter().enumerate() {
        let of = |part: usize| {
            median(turns.iter().filter(|(figures, _)| *figures == index).map(|(_, times)| times[part]))
        };
        let [p50, delay] = [of(0), of(2)].map(|seconds| seconds * 1000.0);
        let detail = format!(
            "p50 {p50:.2} ms, {users} users and memberships; the generator's own delay, p99: {delay:.2} ms"
        );
        let p99 = Duration::from_secs_f64(of(1));
        report.answer(&format!("{what} at 500/s, p99"), p99, CONTEXT_MAX, &detail);
    }
    report.memory("work with the API", process.memory_peak());
}

/// Returns the home of a worker with the API, and the API's address.
pub(super) fn home(database: String) -> (Home, SocketAddr) {
    let api = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()));
    let home = Home::new(BINARY)
        .with("ROLLBOOK_LOG", "warn")
        .with("DATABASE_URL", database)
        .with("ROLLBOOK_API_LISTEN", api.to_string())
        .with("ROLLBOOK_API_TOKENS", TOKEN)
        .with("CLERK_ISSUER", ISSUER)
        .with("CLERK_AUTHORIZED_PARTIES", PARTY)
        .with("CLERK_JWT_KEY", Signer::of_the_instance().pem());
    home.migrate();
    (home, api)
}

/// Fills the database with rows of some 1.5 KB. Each user is a member of one organization of ten.
pub(super) async fn fill(postgres: &PostgresServer, database: &str, users: usize) {
    // A thousand objects in turn: making a million takes longer than storing them.
    let data = "(SELECT data FROM objects WHERE n = i % 1000)";
    let state = "now(), 'msg', 1, 1, decode(md5(i::text), 'hex')";
    let columns =
        "data, created_at, synced_at, synced_by, version_updated_at, version_event_at, version_hash";
    let organizations = (users / 10).max(1);
    let fill = format!(
        "CREATE TEMP TABLE objects AS
         SELECT n, jsonb_build_object('m', (SELECT string_agg(md5((n * 100 + part)::text), '') FROM generate_series(1, 40) AS part)) AS data
         FROM generate_series(0, 999) AS n;
         ALTER TABLE objects ADD PRIMARY KEY (n); ANALYZE objects;
         SET search_path TO clerk, pg_temp; SET session_replication_role = replica;
         INSERT INTO users (id, first_name, primary_email_address, {columns})
         SELECT 'user_' || lpad(i::text, 9, '0'), 'Ines', 'u' || i || '@work.example', {data}, now(), {state}
         FROM generate_series(1, {users}) AS i;
         INSERT INTO organizations (id, name, {columns})
         SELECT 'org_' || lpad(i::text, 9, '0'), 'Kilnworks', {data}, now(), {state}
         FROM generate_series(1, {organizations}) AS i;
         INSERT INTO organization_memberships (id, organization_id, user_id, role, {columns})
         SELECT 'orgmem_' || lpad(i::text, 9, '0'), 'org_' || lpad((i % {organizations} + 1)::text, 9, '0'),
                'user_' || lpad(i::text, 9, '0'), 'org:admin', {data}, now(), {state}
         FROM generate_series(1, {users}) AS i;
         INSERT INTO subscriptions (id, status, organization_id, {columns})
         SELECT 'sub_' || i, 'active', 'org_' || lpad(i::text, 9, '0'), {data}, now(), {state}
         FROM generate_series(1, {organizations}) AS i;
         INSERT INTO subscription_items (id, status, plan_slug, organization_id, {columns})
         SELECT 'subi_' || i, 'active', 'pro', 'org_' || lpad(i::text, 9, '0'), {data}, now(), {state}
         FROM generate_series(1, {organizations}) AS i"
    );
    postgres.psql(database, &fill).await;
    for table in ["users", "organizations", "organization_memberships", "subscriptions", "subscription_items"]
    {
        postgres.psql(database, &format!("VACUUM ANALYZE clerk.{table}")).await;
    }
    postgres.psql(database, "CHECKPOINT").await;
}

/// Tokens of users picked at random, who are admins of their organizations.
pub(super) fn tokens(users: usize, count: usize, turn: usize) -> Vec<String> {
    let signer = Signer::of_the_instance();
    let mut random = fastrand::Rng::with_seed(turn as u64);
    let now = WallClock.now().as_millis() / 1000;
    let organizations = (users / 10).max(1);
    let token = |_| {
        let user = random.usize(0..users) + 1;
        let organization = format!("org_{:09}", user % organizations + 1);
        let mut claims = member_claims(&format!("user_{user:09}"), &organization, now);
        claims["exp"] = json!(now + LIFETIME);
        signer.token(&claims)
    };
    (0..count).map(token).collect()
}

/// One request with each token.
pub(super) fn requests(path: &str, tokens: &[String]) -> Requests {
    let request = |token| {
        format!("GET {path} HTTP/1.1\r\nhost: api\r\nauthorization: Bearer {token}\r\n\r\n").into_bytes()
    };
    Arc::new(tokens.iter().map(request).collect())
}
