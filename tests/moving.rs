//! Move from one machine to several, with a backlog, as in `ops/RUNBOOK.md`.

use std::path::Path;
use std::process::Command;

use rollbook_simulator::history::History;
use rollbook_testkit::process::{Home, until};
use rollbook_testkit::servers::postgres::PostgresServer;
use rollbook_testkit::servers::redis::RedisServer;

use crate::audit;
use crate::crashes::{BINARY, history, send, sent};
use crate::rows;

const DATABASE: &str = "app";

/// Parts of one history that are sent to the old place and then to the new one.
fn parts(whole: &History) -> [History; 3] {
    let third = whole.events.len() / 3;
    let part = |events: std::ops::Range<usize>| {
        let mut part = history(60);
        part.events = whole.events[events].to_vec();
        part
    };
    // Some are sent to both, as if Svix had no answer from the old one in time.
    [part(0..third), part(third - 100..2 * third), part(2 * third - 100..whole.events.len())]
}

fn home(redis: &RedisServer, postgres: &PostgresServer) -> Home {
    Home::new(BINARY)
        .with("ROLLBOOK_QUEUE_URL", redis.url())
        .with("DATABASE_URL", postgres.url(DATABASE))
        .with("ROLLBOOK_DURABILITY", "strict")
}

/// `ops/move-rows STORE.db | psql URL`.
async fn move_rows(store: &Path, url: &str) {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../ops/move-rows");
    let mut shell = Command::new("bash");
    shell
        .args(["-o", "pipefail", "-c", r#""$1" "$2" | psql --set=ON_ERROR_STOP=1 --quiet "$3""#, "move"])
        .arg(script)
        .arg(store)
        .arg(url);
    let moved = tokio::task::spawn_blocking(move || shell.output()).await.expect("it ends").expect("a shell");
    assert!(moved.status.success() && moved.stderr.is_empty(), "{}", String::from_utf8_lossy(&moved.stderr));
}

async fn until_empty(home: &Home) {
    until("the queue is empty", || async { home.metric("rollbook_queue_depth").await == Some(0.0) }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backlog_rows_and_what_comes_meanwhile_end_as_the_truth_on_the_servers() {
    let whole = history(3_000);
    let [applied, waiting, coming] = parts(&whole);
    let old = Home::new(BINARY);
    let mut serving = old.start_ready(&["serve"]).await;
    assert_eq!(send(old.listen, &applied, 10_000).await.refused, []);
    until_empty(&old).await;
    serving.signal("TERM");
    assert!(serving.exit().await.success());
    let mut receiving = old.start_ready(&["receive"]).await;
    assert_eq!(send(old.listen, &waiting, 10_000).await.refused, []);
    receiving.signal("TERM");
    assert!(receiving.exit().await.success());
    assert!(audit::waiting(&old.data()) > 500, "without a backlog this shows nothing");

    let (redis, postgres) = (RedisServer::start().await, PostgresServer::start().await);
    postgres.create_database(DATABASE).await;
    let new = home(&redis, &postgres);
    new.migrate();
    let receiver = new.start_ready(&["receive"]).await;
    let mut serving = old.start_ready(&["serve"]).await;
    assert_eq!(send(new.listen, &coming, 10_000).await.refused, []);
    until_empty(&old).await;
    serving.signal("TERM");
    assert!(serving.exit().await.success());
    move_rows(&old.data().join("store.db"), &postgres.url(DATABASE)).await;

    let workers = home(&redis, &postgres);
    let worker = workers.start_ready(&["work"]).await;
    until_empty(&workers).await;
    assert_eq!(workers.metric("rollbook_dead_letters").await, Some(0.0));
    assert!(rows::equal(postgres.url(DATABASE), &whole).await);
    let ledger = postgres.psql(DATABASE, "SELECT svix_id FROM clerk.deliveries").await;
    assert_eq!(ledger.lines().collect::<std::collections::BTreeSet<_>>(), sent(&whole));
    drop((receiver, worker));
}

#[tokio::test]
async fn a_name_that_would_end_the_data_and_begin_a_command_arrives_as_it_is() {
    let name = "a\ttab\\N\n\\.\n\\! touch here\r\n\"'é\u{1}";
    let folder = tempfile::tempdir().expect("a folder");
    let event = folder.path().join("event.json");
    let mut user = rollbook_testkit::events::user("user_1", 1_790_000_000_000);
    user["first_name"] = name.into();
    user["last_name"] = "".into();
    user["external_id"] = serde_json::Value::Null;
    let user = rollbook_testkit::events::event("user.created", 1_790_000_000_000, &user);
    std::fs::write(&event, user.to_string()).expect("it is written");

    let old = Home::new(BINARY);
    let mut serving = old.start_ready(&["serve"]).await;
    let sent = old.command(&["send", "--file"]).arg(&event).status().expect("it runs");
    assert!(sent.success());
    until_empty(&old).await;
    serving.signal("TERM");
    assert!(serving.exit().await.success());

    // Pending work after a deletion is moved too.
    let left = "INSERT INTO rollbook_cascades (table_name, id, what, survivors, noted_at, next_try_at)
                VALUES ('users', 'user_2', 'children', 1, '2026-07-29T08:00:00.000Z', '2026-07-29T08:00:00.000Z')";
    let store = rusqlite::Connection::open(old.data().join("store.db")).expect("the file opens");
    store.execute_batch(left).expect("a line");

    let (redis, postgres) = (RedisServer::start().await, PostgresServer::start().await);
    postgres.create_database(DATABASE).await;
    home(&redis, &postgres).migrate();
    move_rows(&old.data().join("store.db"), &postgres.url(DATABASE)).await;
    let moved = "SELECT encode(convert_to(first_name, 'UTF8'), 'hex'), last_name, external_id IS NULL, data->>'first_name' = first_name, \
                 octet_length(version_hash) FROM clerk.users";
    let hex = name.bytes().fold(String::new(), |hex, byte| hex + &format!("{byte:02x}"));
    assert_eq!(postgres.psql(DATABASE, moved).await.trim(), format!("{hex}||t|t|16"));
    // Readers of the change feed keep their position, and copied rows are not changes.
    let feed = "SELECT (SELECT string_agg(position || kind || cardinality(changed), ',') FROM clerk.changes), last_position, removed_through,
                (SELECT count(*) FROM clerk.changes_pending) FROM clerk.changes_state";
    let line = postgres.psql(DATABASE, feed).await;
    assert!(line.starts_with("1created") && line.trim().ends_with("|1|0|0"), "{line}");
    let again = postgres.psql(DATABASE, "SELECT count(*) FROM clerk.users").await;
    assert_eq!(again.trim(), "1");
    let left = "SELECT id, survivors, forget_ledger FROM clerk.rollbook_cascades";
    assert_eq!(postgres.psql(DATABASE, left).await.trim(), "user_2|t|f");
}
