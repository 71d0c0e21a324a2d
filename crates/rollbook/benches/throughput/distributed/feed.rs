//! The change feed on Postgres: what it costs, and how fast it is.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rollbook_core::change::Change;
use rollbook_core::store::Store as _;
use rollbook_postgres::{PostgresSettings, PostgresStore};
use rollbook_testkit::clock::WallClock;
use rollbook_testkit::events;
use rollbook_testkit::servers::postgres::PostgresServer;
use sqlx::postgres::PgListener;
use tokio::sync::mpsc;

use super::{apply, new_database, start_postgres};
use crate::Scale;
use crate::apply::report_feed;
use crate::load;
use crate::report::{Report, progress};

/// Lines that wait at once.
const PENDING: usize = 100_000;
const SEQUENCED_MIN: f64 = 10_000.0;
/// Changes of a batch, and the time between two batches: 1,000 changes a second.
const BATCH: usize = 10;
const EVERY: Duration = Duration::from_millis(10);
const BATCHES: usize = 1_000;
const BELL_MAX: Duration = Duration::from_millis(50);

pub(crate) async fn measure(scale: Scale, report: &mut Report) {
    let turns = apply::with_and_without_feed(scale, report).await;
    report_feed(report, "Redis to Postgres, 2 at work", &turns);
    let postgres = start_postgres().await;
    sequence(&postgres, PENDING / scale.divisor, report).await;
    bell(&postgres, BATCHES / scale.divisor, report).await;
}

fn store(settings: PostgresSettings) -> PostgresStore {
    let settings = PostgresSettings { connections_max: 4, ..settings };
    PostgresStore::new(settings, Arc::new(WallClock)).expect("a store")
}

/// Lines a second that get their positions.
async fn sequence(postgres: &PostgresServer, lines: usize, report: &mut Report) {
    progress("lines through the sequencer");
    let store = store(new_database(postgres, "sequence").await);
    let fill = format!(
        "INSERT INTO clerk.changes_pending (resource, subject_id, kind, changed, origin, cause)
         SELECT 'users', 'user_29w83sxmDNGwOuEthce5gg' || n, 'updated', '{{data,first_name}}', 'webhook', 'msg_2b6vK1' || n
         FROM generate_series(1, {lines}) AS n"
    );
    postgres.psql("sequence", &fill).await;
    let started = Instant::now();
    while store.sequence().await.expect("a step").has_more {}
    let rate = load::per_second(lines, started.elapsed());
    report.rate("changes/s through the sequencer", rate, SEQUENCED_MIN, &format!("{lines} waiting"));
}

/// Time from a commit to the notification, while changes come at 1,000 a second.
async fn bell(postgres: &PostgresServer, batches: usize, report: &mut Report) {
    progress("time from a commit to the bell");
    let settings = new_database(postgres, "bell").await;
    let mut listener = PgListener::connect(&settings.url).await.expect("a connection");
    listener.listen("rollbook_changes").await.expect("it listens");
    let store = Arc::new(store(settings));
    let sequencer = Arc::clone(&store);
    let sequencing = async move {
        loop {
            sequencer.sequence_pending().await;
            while sequencer.sequence().await.expect("a step").has_more {}
        }
    };
    let (committed, mut commits) = mpsc::unbounded_channel();
    let applying = async {
        let mut ticks = tokio::time::interval(EVERY);
        for (number, batch) in changes(batches * BATCH).chunks(BATCH).enumerate() {
            ticks.tick().await;
            store.apply_many(batch).await.expect("it is applied");
            committed.send(((number + 1) * BATCH, Instant::now())).expect("somebody listens");
        }
    };
    let listening = async {
        let mut waits = Vec::new();
        let (mut heard, mut heard_at) = (0, Instant::now());
        while waits.len() < batches {
            let (position, at) = commits.recv().await.expect("a commit");
            while heard < position {
                let notification = listener.recv().await.expect("a notification");
                heard_at = Instant::now();
                heard = notification
                    .payload()
                    .rsplit_once(':')
                    .and_then(|(_, text)| text.parse().ok())
                    .expect("a position");
            }
            waits.push(heard_at.saturating_duration_since(at));
        }
        waits
    };
    let ((), mut waits) = tokio::select! {
        done = async { tokio::join!(applying, listening) } => done,
        () = sequencing => unreachable!("the sequencer goes on"),
    };
    waits.sort_unstable();
    let p99 = waits[waits.len() * 99 / 100];
    let detail =
        format!("p50 {:.1} ms, {} changes", waits[waits.len() / 2].as_secs_f64() * 1000.0, batches * BATCH);
    report.answer("commit to bell at 1,000 changes/s, p99", p99, BELL_MAX, &detail);
}

/// New users, so that each change has one line.
fn changes(count: usize) -> Vec<Change> {
    let change = |number| {
        let user = events::user(&format!("user_{number:09}"), events::START);
        events::change_of(&format!("msg_{number}"), &events::event("user.created", events::START, &user))
    };
    (0..count).map(change).collect()
}
