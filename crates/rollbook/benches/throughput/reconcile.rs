//! Reconciliation compared with Clerk's rate limit: a backfill of users, and a run that finds nothing.
//!
//! The simulated API answers like a production instance, each answer after 300 ms. A page has 500 users and
//! the limit is 100 requests a second, so the limit alone allows 50,000 users a second. What this machine
//! writes and compares is slower; the figure says by how much.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rollbook_clerk::{ApiUrl, ClerkApi as Client, ClerkSettings, SecretKey};
use rollbook_core::catalog::USERS;
use rollbook_core::source::PAGE_MAX;
use rollbook_core::store::FullStore;
use rollbook_core::time::Clock as _;
use rollbook_postgres::PostgresStore;
use rollbook_reconciler::{Ports, Reconciler, RunRequest, Settings};
use rollbook_simulator::api::{
    ApiSettings, ClerkApi, PRODUCTION_RATE, RATE_PERIOD, Synthetic, SyntheticSettings,
};
use rollbook_sqlite::{Schema, SqliteStore, apply_migrations};
use rollbook_testkit::clock::WallClock;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::Scale;
use crate::distributed::{new_database, start_postgres};
use crate::load::per_second;
use crate::report::{Baseline, Report, progress};

const USERS_COUNT: usize = 200_000;
const LATENCY: Duration = Duration::from_millis(300);
/// Users compared in a second, on one core.
const COMPARED_MIN: f64 = 15_000.0;

pub(crate) async fn measure(scale: Scale, report: &mut Report) {
    let users = USERS_COUNT / scale.divisor;
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("store.db");
    apply_migrations(&path, Schema::Store).expect("the tables");
    let sqlite = SqliteStore::open(&path, Arc::new(WallClock)).expect("a store");
    measure_on("SQLite", users, Arc::new(sqlite), report).await;
    let postgres = start_postgres().await;
    let settings = new_database(&postgres, "reconcile").await;
    let store = PostgresStore::new(settings, Arc::new(WallClock)).expect("a store");
    measure_on("Postgres", users, Arc::new(store), report).await;
}

async fn measure_on(engine: &str, users: usize, store: Arc<dyn FullStore>, report: &mut Report) {
    // Three users sign up in a millisecond, the last one ten seconds ago.
    let ties = SyntheticSettings::default().ties;
    let start_millis = WallClock.now().as_millis()
        - 10_000
        - i64::try_from(users).expect("a small number") / i64::try_from(ties).expect("a small number");
    let settings = SyntheticSettings {
        users: users as u64,
        organizations: 0,
        memberships: 0,
        start_millis,
        ..SyntheticSettings::default()
    };
    let settings_of_api = ApiSettings {
        key: "sk_live_bench".to_owned(),
        rate_limit: Some(PRODUCTION_RATE),
        latency: LATENCY,
        ..ApiSettings::new(Arc::new(WallClock))
    };
    let key = settings_of_api.key.clone();
    let api = ClerkApi::start(Arc::new(Synthetic::new(settings)), settings_of_api).await.expect("the API");
    let url = ApiUrl::parse(&api.url()).expect("a URL");
    let key = SecretKey::parse(&key).expect("a key");
    let client =
        Client::new(ClerkSettings { url, budget: 1.0, ..ClerkSettings::new(key) }).expect("a client");
    let ports = Ports {
        source: Arc::new(client),
        store: store.clone(),
        rows: store.clone(),
        records: store,
        clock: Arc::new(WallClock),
    };
    let reconciler = Reconciler::new(ports, Settings::default());
    let request = RunRequest { only: vec![&USERS], ..RunRequest::default() };
    let mut rates = Vec::new();
    for what in ["backfill", "nothing differs"] {
        progress(&format!("reconciling {users} users on {engine}: {what}"));
        let (begun, stop) = (Instant::now(), CancellationToken::new());
        let run = reconciler.run(&request, &stop, watch::Sender::default()).await.expect("a run");
        assert_eq!(run.progress.sum(|of| of.read), users as u64, "every user is read");
        rates.push(per_second(users, begun.elapsed()));
    }
    #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
    let allowed = f64::from(PRODUCTION_RATE.get()) / RATE_PERIOD.as_secs_f64() * PAGE_MAX as f64;
    let limit = Baseline { name: "Clerk's limit", rate: allowed, ratio: rates[0] / allowed, limit: None };
    let detail = format!("{users} users, latency 300 ms, full budget; API, client and store share two cores");
    report.ratio(&format!("backfill, users/s, {engine}"), rates[0], &limit, &detail);
    report.rate(&format!("compared users/s, {engine}"), rates[1], COMPARED_MIN, &detail);
}
