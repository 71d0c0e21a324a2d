//! `/v1/context` on Postgres: the time to an answer at 500 requests a second, with a million users and memberships, and a
//! turn of each kind of size, so that the tables' size shows.

use std::sync::Arc;
use std::time::Duration;

use rollbook_core::time::Clock as _;
use rollbook_testkit::clock::WallClock;
use rollbook_testkit::process::Home;
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
    fill(&postgres, users).await;
    let free = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let api = free.local_addr().expect("an address");
    drop(free);
    let home = Home::new(BINARY)
        .with("ROLLBOOK_LOG", "warn")
        .with("DATABASE_URL", settings.url)
        .with("ROLLBOOK_API_LISTEN", api.to_string())
        .with("ROLLBOOK_API_TOKENS", TOKEN)
        .with("CLERK_ISSUER", ISSUER)
        .with("CLERK_AUTHORIZED_PARTIES", PARTY)
        .with("CLERK_JWT_KEY", Signer::of_the_instance().pem());
    home.migrate();
    let process = home.start_ready(&["work"]).await;
    let mut turns = Vec::new();
    for turn in 0..scale.turns {
        for (path, figures) in [("/v1/authorize?permission=org:tasks:read", 0), ("/v1/context", 1)] {
            progress(&format!("{path} at 500 a second, turn {}", turn + 1));
            let requests = requests(path, users, REQUESTS / scale.divisor, turn);
            let sent = hammer(api, &requests, CONNECTIONS, Some(PAUSE), &[]).await;
            turns.push((figures, [500, 990].map(|part| sent.latency(part).as_secs_f64())));
        }
    }
    for (index, what) in ["/v1/authorize", "/v1/context"].into_iter().enumerate() {
        let of = |part: usize| {
            median(turns.iter().filter(|(figures, _)| *figures == index).map(|(_, times)| times[part]))
        };
        let detail = format!("p50 {:.2} ms, {users} users and memberships", of(0) * 1000.0);
        let p99 = Duration::from_secs_f64(of(1));
        report.answer(&format!("{what} at 500/s, p99"), p99, CONTEXT_MAX, &detail);
    }
    report.memory("work with the API", process.memory_peak());
}

/// Rows of some 2 KB. Each user is a member of one organization of ten.
async fn fill(postgres: &PostgresServer, users: usize) {
    let data = "jsonb_build_object('m', (SELECT string_agg(md5((i * 100 + part)::text), '') FROM generate_series(1, 56) AS part))";
    let state = "now(), 'msg', 1, 1, decode(md5(i::text), 'hex')";
    let columns =
        "data, created_at, synced_at, synced_by, version_updated_at, version_event_at, version_hash";
    let organizations = (users / 10).max(1);
    let fill = format!(
        "SET search_path TO clerk; SET session_replication_role = replica;
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
    postgres.psql("context", &fill).await;
    for table in ["users", "organizations", "organization_memberships", "subscriptions", "subscription_items"]
    {
        postgres.psql("context", &format!("VACUUM ANALYZE clerk.{table}")).await;
    }
    postgres.psql("context", "CHECKPOINT").await;
}

/// Requests of users picked at random, each with a token of its own.
fn requests(path: &str, users: usize, count: usize, turn: usize) -> Requests {
    let signer = Signer::of_the_instance();
    let mut random = fastrand::Rng::with_seed(turn as u64);
    let now = WallClock.now().as_millis() / 1000;
    let organizations = (users / 10).max(1);
    let request = |_| {
        let user = random.usize(0..users) + 1;
        let organization = format!("org_{:09}", user % organizations + 1);
        let mut claims = member_claims(&format!("user_{user:09}"), &organization, now);
        claims["exp"] = json!(now + LIFETIME);
        let token = signer.token(&claims);
        format!("GET {path} HTTP/1.1\r\nhost: api\r\nauthorization: Bearer {token}\r\n\r\n").into_bytes()
    };
    Arc::new((0..count).map(request).collect())
}
