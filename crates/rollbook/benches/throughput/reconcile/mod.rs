//! Reconciliation of a large instance: backfill, a run that finds nothing, and webhooks that arrive meanwhile.
//!
//! The simulated API runs in a process of its own ([`clerk`]) and answers after 300 ms, with the rate limit of a
//! production or a development instance. `rollbook reconcile` is a process too, so that its CPU time and memory are
//! its own. A page has 500 objects: production's limit of 100 requests a second allows 50,000 objects a second,
//! development's a tenth. On a machine where API, database and Rollbook share two cores, the first is out of reach,
//! and what binds is the store; the second must be used up.

mod clerk;
mod run;
mod webhooks;

pub(crate) use self::clerk::{CLERK_API, serve};

use std::time::Duration;

use bytes::Bytes;
use rollbook_core::delivery::MessageId;
use rollbook_core::source::PAGE_MAX;
use rollbook_core::time::Timestamp;
use rollbook_simulator::api::{DEVELOPMENT_RATE, Objects as _, PRODUCTION_RATE, RATE_PERIOD};
use rollbook_simulator::history::Event;
use rollbook_testkit::events;
use rollbook_testkit::process::Home;
use rollbook_testkit::synthetic::Synthetic;

use self::clerk::{Clerk, Instance};
use self::run::{Ran, reconcile};
use crate::Scale;
use crate::apply::raw_upserts;
use crate::cpu::{Sharer, Watch, Who};
use crate::distributed::{new_database, postgres_sharer, raw_postgres, start_postgres};
use crate::load::{BINARY, per_second};
use crate::report::{Baseline, Report, progress};

/// Size of the instance, in the full form.
const USERS: usize = 1_000_000;
const ORGANIZATIONS: usize = 50_000;
const MEMBERSHIPS: usize = 1_000_000;
/// Users at the limit of a development instance: the full number would take more than three minutes.
const DEVELOPMENT_USERS: usize = 250_000;
/// Rows of the bare client.
const RAW_ROWS: usize = 20_000;
/// The quick form divides by this too: it takes seconds.
const QUICK_DIVISOR: usize = 5;
const LATENCY: Duration = Duration::from_millis(300);
/// A backfill may take this many times as long as the rate limit alone allows.
const SLOWER_MAX: f64 = 1.3;
/// Rows compared in a second of one core.
const COMPARED_MIN: f64 = 15_000.0;
/// Memory of the process that reconciles.
const MEMORY_MAX: u64 = 100_000_000;

pub(crate) async fn measure(scale: Scale, report: &mut Report) {
    let divisor = if scale.divisor == 1 { 1 } else { scale.divisor * QUICK_DIVISOR };
    let instance = Instance::new(USERS / divisor, ORGANIZATIONS / divisor, MEMBERSHIPS / divisor);
    let rows = created(RAW_ROWS / divisor.min(20));
    measure_on("SQLite", &instance, home(), raw_upserts(&rows), &[], report).await;
    let postgres = start_postgres().await;
    let raw = raw_postgres::upserts(&rows, &new_database(&postgres, "raw").await).await;
    postgres.create_database("reconcile").await;
    let home = home().with("DATABASE_URL", postgres.url("reconcile"));
    let sharer = postgres_sharer(&postgres).await;
    measure_on("Postgres", &instance, home, raw, &[sharer], report).await;
    drop(postgres);
    development(DEVELOPMENT_USERS / divisor, report).await;
}

/// Acknowledgements during a backfill of the full instance: the run must not end before the deliveries.
pub(crate) async fn measure_webhooks(scale: Scale, report: &mut Report) {
    webhooks::measure(scale, &Instance::new(USERS, ORGANIZATIONS, MEMBERSHIPS), report).await;
}

fn home() -> Home {
    Home::new(BINARY).with("ROLLBOOK_LOG", "warn").with("ROLLBOOK_API_BUDGET", "1")
}

/// Events of the instance's users, for the bare client.
fn created(count: usize) -> Vec<Event> {
    let instance = Instance::new(count, 1, 1);
    let synthetic = Synthetic::new(instance.settings());
    let event = |number: u64| {
        let object = synthetic.get("users", &Synthetic::user_id(number), false).expect("a user");
        let object = serde_json::from_str(&object).expect("JSON");
        let at = Timestamp::from_millis(events::START);
        Event {
            id: MessageId::new(format!("msg_{number}")),
            event_type: "user.created".to_owned(),
            at,
            body: Bytes::from(events::event("user.created", events::START, &object).to_string()),
        }
    };
    (0..count as u64).map(event).collect()
}

async fn measure_on(
    engine: &str,
    instance: &Instance,
    home: Home,
    raw: f64,
    servers: &[Sharer],
    report: &mut Report,
) {
    let clerk = Clerk::start(instance, true, false);
    let home = &clerk.known_to(home);
    tokio::task::block_in_place(|| home.migrate());
    let sharers: Vec<Sharer> =
        [("Clerk", Who::Processes(vec![clerk.id()]))].into_iter().chain(servers.iter().cloned()).collect();
    let mut peak = 0;
    let mut walk = async |what: &str, tables: &'static [&'static str], count: usize, is_new: bool| {
        progress(&format!("reconciling {count} objects on {engine}: {what}"));
        let watch = Watch::start(&sharers);
        let ran = reconcile(home, tables).await;
        let expected = if is_new { (count, count) } else { (count, 0) };
        assert_eq!(
            (ran.read, ran.written),
            expected,
            "{what}: every object is read, and what differs is written"
        );
        peak = peak.max(ran.memory_peak);
        let detail = format!("{count} objects; CPU rollbook {:.1}; {}", ran.cpu, watch.split().text);
        (ran, detail)
    };
    let (ran, detail) = walk("organizations", &["organizations"], instance.organizations, true).await;
    limited(
        report,
        &format!("backfill, organizations/s, {engine}"),
        &ran,
        PRODUCTION_RATE.get(),
        None,
        &detail,
    );
    let (ran, detail) = walk("users", &["users"], instance.users, true).await;
    limited(report, &format!("backfill, users/s, {engine}"), &ran, PRODUCTION_RATE.get(), None, &detail);
    let baseline = Baseline { name: "raw upserts", rate: raw, ratio: ran.rate() / raw, limit: None };
    report.ratio(
        &format!("the same compared with the store, {engine}"),
        ran.rate(),
        &baseline,
        "users; no API, no ledger",
    );
    let members: &[&str] = &["organization_memberships"];
    let (ran, detail) = walk("memberships", members, instance.memberships, true).await;
    limited(
        report,
        &format!("backfill, memberships/s, {engine}"),
        &ran,
        PRODUCTION_RATE.get(),
        None,
        &detail,
    );
    let rest = instance.users + instance.memberships;
    let (ran, detail) = walk("nothing differs", &["users", "organization_memberships"], rest, false).await;
    limited(report, &format!("compared rows/s, {engine}"), &ran, PRODUCTION_RATE.get(), None, &detail);
    let on_one_core = ran.per_cpu_second();
    report.rate(&format!("compared rows per CPU second, {engine}"), on_one_core, COMPARED_MIN, &detail);
    report.memory_within(&format!("reconcile, {engine}"), peak, MEMORY_MAX);
}

/// A development instance: here the rate limit binds, and not the machine.
async fn development(users: usize, report: &mut Report) {
    let instance = Instance::new(users, 0, 0);
    let clerk = Clerk::start(&instance, false, false);
    let home = clerk.known_to(home());
    tokio::task::block_in_place(|| home.migrate());
    progress(&format!("reconciling {users} users at a development instance's rate limit"));
    let ran = reconcile(&home, &["users"]).await;
    assert_eq!((ran.read, ran.written), (users, users), "every user is read and written");
    let limit = Some(1.0 / SLOWER_MAX);
    let detail = format!("{users} users, latency 300 ms, full budget, SQLite");
    limited(report, "backfill, users/s, development", &ran, DEVELOPMENT_RATE.get(), limit, &detail);
}

/// Reports a rate and the one that Clerk's rate limit allows.
fn limited(report: &mut Report, what: &str, ran: &Ran, limit: u32, least: Option<f64>, detail: &str) {
    #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
    let allowed = f64::from(limit) / RATE_PERIOD.as_secs_f64() * PAGE_MAX as f64;
    let ratio = ran.rate() / allowed;
    report.ratio(
        what,
        ran.rate(),
        &Baseline { name: "Clerk's limit", rate: allowed, ratio, limit: least },
        detail,
    );
}

impl Ran {
    fn rate(&self) -> f64 {
        per_second(self.read, self.elapsed)
    }

    fn per_cpu_second(&self) -> f64 {
        per_second(self.read, Duration::from_secs_f64(self.cpu))
    }
}
