//! The change feed on Postgres: what it costs, and how fast it is.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rollbook_core::change::Change;
use rollbook_core::store::{Changes as _, ChangesQuery, Store as _};
use rollbook_postgres::{PostgresSettings, PostgresStore};
use rollbook_testkit::clock::WallClock;
use rollbook_testkit::events;
use rollbook_testkit::process::Home;
use rollbook_testkit::servers::postgres::PostgresServer;
use sqlx::postgres::PgListener;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;
use tokio::sync::{Mutex, mpsc};

use super::{apply, new_database, start_postgres};
use crate::Scale;
use crate::apply::report_feed;
use crate::load::{self, BINARY};
use crate::report::{Baseline, Report, median, progress};

/// Lines that wait at once.
const PENDING: usize = 100_000;
const SEQUENCED_MIN: f64 = 10_000.0;
/// Changes of a batch, and the time between two batches: 1,000 changes a second.
const BATCH: usize = 10;
const EVERY: Duration = Duration::from_millis(10);
const BATCHES: usize = 1_000;
const BELL_MAX: Duration = Duration::from_millis(50);
const STREAM_MAX: Duration = Duration::from_millis(100);
const TOKEN: &str = "0123456789abcdef0123456789abcdef";
/// Lines that are kept, and the lines of the feed to compare with.
const KEPT: usize = 1_000_000;
const FEW: usize = 1_000;
/// Lines of a page, and pages of a turn.
const PAGE: usize = 100;
const PAGES: usize = 1_000;
/// Minimum ratio of the rates: nothing but the noise of two runs.
const AT_END_MIN: f64 = 0.9;

pub(crate) async fn measure(scale: Scale, report: &mut Report) {
    let turns = apply::with_and_without_feed(scale, report).await;
    report_feed(report, "Redis to Postgres, 2 at work", &turns);
    let postgres = start_postgres().await;
    sequence(&postgres, PENDING / scale.divisor, report).await;
    bell(&postgres, BATCHES / scale.divisor, report).await;
    stream(&postgres, BATCHES / scale.divisor, report).await;
    read_at_end(&postgres, KEPT / scale.divisor, scale, report).await;
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

/// Applies changes at 1,000 a second and gives them positions, as a worker does. Returns how long after its commit each batch
/// was heard of. `heard` returns the next position that a reader hears of.
async fn waits<Heard: Future<Output = u64>>(
    store: PostgresStore,
    batches: usize,
    mut heard: impl FnMut() -> Heard,
) -> Vec<Duration> {
    let store = Arc::new(store);
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
            let last = u64::try_from((number + 1) * BATCH).expect("few changes");
            committed.send((last, Instant::now())).expect("somebody listens");
        }
    };
    let listening = async {
        let mut waits = Vec::new();
        let (mut last, mut heard_at) = (0, Instant::now());
        while waits.len() < batches {
            let (position, at) = commits.recv().await.expect("a commit");
            while last < position {
                last = heard().await;
                heard_at = Instant::now();
            }
            waits.push(heard_at.saturating_duration_since(at));
        }
        waits
    };
    tokio::select! {
        ((), waits) = async { tokio::join!(applying, listening) } => waits,
        () = sequencing => unreachable!("the sequencer goes on"),
    }
}

fn report_waits(report: &mut Report, what: &str, mut waits: Vec<Duration>, most: Duration) {
    waits.sort_unstable();
    let p99 = waits[waits.len() * 99 / 100];
    let p50 = waits[waits.len() / 2].as_secs_f64() * 1000.0;
    let detail = format!("p50 {p50:.1} ms, {} changes", waits.len() * BATCH);
    report.answer(&format!("{what} at 1,000 changes/s, p99"), p99, most, &detail);
}

/// Time from a commit to the notification.
async fn bell(postgres: &PostgresServer, batches: usize, report: &mut Report) {
    progress("time from a commit to the bell");
    let settings = new_database(postgres, "bell").await;
    let mut listener = PgListener::connect(&settings.url).await.expect("a connection");
    listener.listen("rollbook_changes").await.expect("it listens");
    let listener = Arc::new(Mutex::new(listener));
    let heard = || {
        let listener = Arc::clone(&listener);
        async move {
            let notification = listener.lock().await.recv().await.expect("a notification");
            let position = notification.payload().rsplit_once(':').map(|(_, text)| text.parse());
            position.expect("a schema and a position").expect("a position")
        }
    };
    let waits = waits(store(settings), batches, heard).await;
    report_waits(report, "commit to bell", waits, BELL_MAX);
}

/// Time from a commit to the event that a client of `rollbook work` reads from its stream.
async fn stream(postgres: &PostgresServer, batches: usize, report: &mut Report) {
    progress("time from a commit to a stream");
    let settings = new_database(postgres, "stream").await;
    let free = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let api = free.local_addr().expect("an address");
    drop(free);
    let home = Home::new(BINARY)
        .with("ROLLBOOK_LOG", "warn")
        .with("DATABASE_URL", settings.url.clone())
        .with("ROLLBOOK_API_LISTEN", api.to_string())
        .with("ROLLBOOK_API_TOKENS", TOKEN);
    home.migrate();
    let process = home.start_ready(&["work"]).await;
    let mut connection = TcpStream::connect(api).await.expect("a connection");
    let request = format!(
        "GET /v1/changes?after=0 HTTP/1.1\r\nhost: api\r\nauthorization: Bearer {TOKEN}\r\naccept: text/event-stream\r\n\r\n"
    );
    connection.write_all(request.as_bytes()).await.expect("it reads");
    let reader = Arc::new(Mutex::new(BufReader::new(connection)));
    let heard = || {
        let reader = Arc::clone(&reader);
        async move { position(&mut *reader.lock().await).await }
    };
    // The first heartbeat: the stream is open.
    heard().await;
    let waits = waits(store(settings), batches, heard).await;
    report_waits(report, "commit to stream", waits, STREAM_MAX);
    drop(process);
}

/// Reads up to the end of the next event, and returns its position.
async fn position(reader: &mut BufReader<TcpStream>) -> u64 {
    let (mut line, mut position) = (String::new(), None);
    loop {
        line.clear();
        let read = reader.read_line(&mut line).await.expect("the stream goes on");
        assert!(read > 0, "the stream has ended");
        match line.strip_prefix("id: ") {
            Some(id) => position = Some(id.trim_end().parse().expect("a position")),
            None if line.starts_with("data: ") => return position.expect("an event with an id"),
            None => {}
        }
    }
}

/// Pages a second at the end of a feed with many kept lines, against one with few.
async fn read_at_end(postgres: &PostgresServer, kept: usize, scale: Scale, report: &mut Report) {
    let mut stores = Vec::new();
    for (name, lines) in [("kept", kept), ("few", FEW)] {
        progress(&format!("reading at the end of {lines} changes"));
        let store = store(new_database(postgres, name).await);
        let fill = format!(
            "INSERT INTO clerk.changes (position, resource, subject_id, kind, changed, origin, cause, event_at, at)
             SELECT n, 'users', 'user_29w83sxmDNGwOuEthce5gg' || n % 100000, 'updated', '{{data,first_name}}', 'webhook',
                    'msg_2b6vK1' || n, now(), now() FROM generate_series(1, {lines}) AS n;
             UPDATE clerk.changes_state SET last_position = {lines};
             ANALYZE clerk.changes"
        );
        postgres.psql(name, &fill).await;
        stores.push((store, lines));
    }
    let mut turns = Vec::new();
    for _ in 0..scale.turns {
        let mut rates = [0.0; 2];
        for ((store, lines), rate) in stores.iter().zip(&mut rates) {
            let after = u64::try_from(lines - PAGE).expect("few lines");
            let query = ChangesQuery { after, limit: PAGE, ..ChangesQuery::default() };
            let started = Instant::now();
            for _ in 0..PAGES / scale.divisor {
                assert_eq!(store.changes(&query).await.expect("a page").lines.len(), PAGE);
            }
            *rate = load::per_second(PAGES / scale.divisor, started.elapsed());
        }
        turns.push(rates);
    }
    let of = |figure: fn(&[f64; 2]) -> f64| median(turns.iter().map(figure));
    let (many, few) = (of(|turn| turn[0]), of(|turn| turn[1]));
    let ratio = of(|turn| turn[0] / turn[1]);
    let baseline = Baseline { name: "of a thousand", rate: few, ratio, limit: Some(AT_END_MIN) };
    report.ratio(
        &format!("pages/s at the end of {kept} kept changes"),
        many,
        &baseline,
        &format!("{PAGE} lines each"),
    );
}

/// New users, so that each change has one line.
fn changes(count: usize) -> Vec<Change> {
    let change = |number| {
        let user = events::user(&format!("user_{number:09}"), events::START);
        events::change_of(&format!("msg_{number}"), &events::event("user.created", events::START, &user))
    };
    (0..count).map(change).collect()
}
