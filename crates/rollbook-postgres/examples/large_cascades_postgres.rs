//! A large organization is deleted and erased on a private server, without and with a trigger of a
//! millisecond a row, while other deliveries are applied: prints the duration of each, and the longest wait
//! of the others.
//!
//! `cargo run --release -p rollbook-postgres --example large_cascades_postgres -- 300000` (or `ops/large-cascades
//! 300000`)

use std::sync::Arc;
use std::time::{Duration, Instant};

use rollbook_core::catalog::ORGANIZATIONS;
use rollbook_core::store::{ErasedCounts, Erasure as _, Store as _};
use rollbook_core::time::{Clock, Timestamp};
use rollbook_postgres::{PostgresSettings, PostgresStore, apply_migrations};
use rollbook_testkit::clock::ManualClock;
use rollbook_testkit::events::{START, change_of, deleted, event, user};
use rollbook_testkit::servers::postgres::PostgresServer;
use tokio::task::JoinSet;

const DEFAULT_MEMBERS: u32 = 300_000;
const TRIGGER: &str = "CREATE FUNCTION public.slow() RETURNS trigger LANGUAGE plpgsql AS
                       $$ BEGIN PERFORM pg_sleep(0.001); RETURN NEW; END $$;
                       CREATE TRIGGER slow BEFORE UPDATE ON clerk.organization_memberships
                       FOR EACH ROW EXECUTE FUNCTION public.slow()";

fn open(settings: &PostgresSettings) -> Arc<PostgresStore> {
    let clock: Arc<dyn Clock> = Arc::new(ManualClock::new(Timestamp::from_millis(START + 1_000_000)));
    Arc::new(PostgresStore::new(settings.clone(), clock).expect("the settings are right"))
}

async fn members(server: &PostgresServer, organization: &str, count: u32) {
    let sql = format!(
        "INSERT INTO clerk.organization_memberships
             (id, organization_id, user_id, role, data, synced_at, synced_by, version_updated_at, version_event_at,
              version_hash, version_revision)
         SELECT 'orgmem_{organization}_' || i, '{organization}', 'user_' || i, 'r',
                jsonb_build_object('a', repeat(md5(i::text), 20)), now(), 'm', 1, 1, decode(md5(i::text), 'hex'), 1
         FROM generate_series(1, {count}) AS i;
         INSERT INTO clerk.deliveries
         SELECT 'msg_{organization}_' || md5(i::text), 'organizationMembership.updated', 'orgmem_{organization}_' || i,
                'updated', now(), now(), now(), 1 FROM generate_series(1, {count}) AS i;
         ANALYZE"
    );
    server.psql("app", &sql).await;
}

async fn count(server: &PostgresServer, condition: &str) -> String {
    let sql = format!("SELECT count(*) FROM clerk.organization_memberships WHERE {condition}");
    server.psql("app", &sql).await.trim().to_owned()
}

/// Applies a user every few milliseconds until it is ended; gives how many, and the longest time of one.
async fn neighbours(
    store: Arc<PostgresStore>,
    name: String,
    stop: tokio::sync::oneshot::Receiver<()>,
) -> (u32, Duration) {
    let (mut applied, mut longest) = (0, Duration::ZERO);
    let mut stop = std::pin::pin!(stop);
    loop {
        let id = format!("user_{name}_{applied}");
        let change = change_of(&format!("msg_{id}"), &event("user.created", START, &user(&id, START)));
        let began_at = Instant::now();
        store.apply_many(&[change]).await.expect("a neighbour is applied");
        longest = longest.max(began_at.elapsed());
        applied += 1;
        tokio::select! {
            _ = &mut stop => return (applied, longest),
            () = tokio::time::sleep(Duration::from_millis(20)) => {}
        }
    }
}

async fn deletes(server: &PostgresServer, settings: &PostgresSettings, organization: &str) {
    let (store, began_at) = (open(settings), Instant::now());
    let (stop, stopped) = tokio::sync::oneshot::channel();
    let mut others = JoinSet::new();
    others.spawn(neighbours(open(settings), organization.to_owned(), stopped));
    let gone = event("organization.deleted", START + 5, &deleted("organization", organization));
    store.apply_many(&[change_of(&format!("msg_gone_{organization}"), &gone)]).await.expect("it is applied");
    let acknowledged = began_at.elapsed();
    while store.cascade().await.expect("it is worked off").due_in.is_some() {}
    let took = began_at.elapsed();
    _ = stop.send(());
    let (applied, longest) = others.join_next().await.expect("there is one").expect("no panic");
    let living = count(server, &format!("organization_id = '{organization}' AND deleted_at IS NULL")).await;
    println!(
        "{organization}: deleted after {took:.1?}, its delivery acknowledged after {acknowledged:.1?}, {living} members \
         alive; {applied} others applied meanwhile, the slowest in {longest:.1?}"
    );
}

async fn erases(server: &PostgresServer, settings: &PostgresSettings, organization: &str) {
    let (store, began_at) = (open(settings), Instant::now());
    let reports = std::sync::atomic::AtomicU32::new(0);
    let progress = |_: ErasedCounts| _ = reports.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    let subjects = [(&ORGANIZATIONS, organization.to_owned())];
    let at = Timestamp::from_millis(START + 100);
    let erased = store.erase_in_steps(&subjects, at, &progress).await.expect("it is erased");
    let left = count(server, &format!("organization_id = '{organization}' AND data IS NOT NULL")).await;
    println!(
        "{organization}: erased after {:.1?}, {} rows and {} ledger entries in {} steps, {left} with content left",
        began_at.elapsed(),
        erased.rows,
        erased.ledger,
        reports.into_inner(),
    );
}

#[tokio::main]
async fn main() {
    let members_of = std::env::args().nth(1).and_then(|count| count.parse().ok()).unwrap_or(DEFAULT_MEMBERS);
    let server = PostgresServer::start_with(&[("shared_buffers", "512MB"), ("max_wal_size", "4GB")]).await;
    server.create_database("app").await;
    let settings = PostgresSettings {
        url: server.url("app"),
        schema: "clerk".to_owned(),
        changes: true,
        pgbouncer: false,
        connections_max: 8,
        statement_timeout: Duration::from_secs(30),
        connect_timeout: Duration::from_secs(10),
    };
    apply_migrations(&settings).await.expect("the migrations apply");
    for organization in ["org_deleted", "org_erased", "org_deleted_slowly", "org_erased_slowly"] {
        members(&server, organization, members_of).await;
    }
    println!("{members_of} members each, one line in the ledger for each; statement_timeout 30 s");
    deletes(&server, &settings, "org_deleted").await;
    erases(&server, &settings, "org_erased").await;
    server.psql("app", TRIGGER).await;
    println!("with a trigger of 1 ms a row:");
    deletes(&server, &settings, "org_deleted_slowly").await;
    erases(&server, &settings, "org_erased_slowly").await;
}
