//! Messages that an earlier build left in the queue are applied by this one. The files of `tests/backlogs`
//! were made by the build of their date and never change; a build that writes another format adds
//! files. To add them: `UPDATE=2027-01 cargo nextest run -p rollbook --test end_to_end backlogs`.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rollbook_testkit::events::{START, event, user};
use rollbook_testkit::process::{Home, until};
use rollbook_testkit::servers::redis::RedisServer;

use super::{home_on, messages, stop};
use crate::audit;
use crate::crashes::BINARY;
use crate::raw_http::{exchange, signed, status};

/// Backlog of the build of that month.
const MONTHS: [&str; 1] = ["2026-11"];
const WAITING: usize = 8;
const HELD: usize = 2;
/// Waiting and leased messages, one that waits for its backoff, and a dead letter.
const ALL: usize = WAITING + HELD + 1;
/// Trace of every other message.
const TRACE: &str = "traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01\r\n";

fn file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/backlogs").join(name)
}

/// Returns the month for which this run makes files.
fn month_to_make() -> Option<String> {
    std::env::var_os("UPDATE")
        .and_then(|month| month.into_string().ok())
        .filter(|month| month.starts_with("20"))
}

async fn deliver(home: &Home, id: &str, body: &str, traced: bool) {
    let request = signed(id, body);
    let request = if traced {
        request.replacen("content-length", &format!("{TRACE}content-length"), 1)
    } else {
        request
    };
    assert_eq!(status(&exchange(home.listen, &request).await), 200);
}

fn body(user_id: &str) -> String {
    event("user.created", START, &user(user_id, START)).to_string()
}

async fn until_shown(home: &Home, metric: &str, value: f64) {
    until(metric, || async { home.metric(metric).await == Some(value) }).await;
}

/// Leaves messages in every state in the queue that these two homes share: dead, delayed, leased, waiting.
async fn leave_backlog(receiver: &Home, worker: &Home) {
    receiver.migrate();
    let mut receiving = receiver.start_ready(&["receive"]).await;
    let mut working = worker.start_ready(&["work"]).await;
    let store = rusqlite::Connection::open(worker.data().join("store.db")).expect("the store's file");
    deliver(receiver, "msg_dead", "not json", false).await;
    until_shown(receiver, "rollbook_dead_letters", 1.0).await;
    let refuse = "CREATE TRIGGER refuse BEFORE INSERT ON users BEGIN SELECT RAISE(ABORT, 'not now'); END";
    store.execute_batch(refuse).expect("a trigger");
    deliver(receiver, "msg_delayed", &body("user_delayed"), true).await;
    until_shown(receiver, "rollbook_queue_delayed", 1.0).await;
    store.execute_batch("BEGIN IMMEDIATE").expect("the lock");
    for number in 0..HELD {
        deliver(
            receiver,
            &format!("msg_held_{number}"),
            &body(&format!("user_held_{number}")),
            number % 2 == 0,
        )
        .await;
    }
    until_shown(receiver, "rollbook_queue_leased", 2.0).await;
    working.kill();
    for number in 0..WAITING {
        let (id, user) = (format!("msg_waiting_{number}"), format!("user_waiting_{number}"));
        // A short body is not compressed.
        let short = format!(r#"{{"type":"user.created","timestamp":{START},"data":{{"id":"{user}"}}}}"#);
        let body = if number < WAITING / 2 { body(&user) } else { short };
        deliver(receiver, &id, &body, number % 2 == 0).await;
    }
    stop(receiver, &mut receiving).await;
}

/// Gives a home the rows of the first one.
fn with_rows_of(home: Home, first: &Home) -> Home {
    home.with("ROLLBOOK_DATA_DIR", first.data().display().to_string())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_backlog_of_earlier_builds_in_redis_is_applied() {
    if let Some(month) = month_to_make() {
        let mut redis = RedisServer::start().await;
        let worker = home_on(redis.url()).with("ROLLBOOK_BACKOFF", "30s");
        leave_backlog(&with_rows_of(home_on(redis.url()), &worker), &worker).await;
        redis.kill();
        let log = redis.log_folder().join("appendonly.aof.1.incr.aof");
        std::fs::copy(log, file(&format!("redis-{month}.aof"))).expect("a copy");
        return;
    }
    for month in MONTHS {
        let redis = RedisServer::start().await;
        let log = std::fs::File::open(file(&format!("redis-{month}.aof"))).expect("a file");
        let mut pipe = Command::new("redis-cli");
        pipe.args(["-p", &redis.port().to_string(), "--pipe"]).stdin(log).stdout(Stdio::null());
        assert!(pipe.status().expect("redis-cli").success());
        assert_eq!(messages(&redis), (ALL as u64, 1), "{month}");
        let home = home_on(redis.url());
        home.migrate();
        let mut worker = home.start_ready(&["work"]).await;
        until("the backlog is applied", || std::future::ready(messages(&redis).0 == 0)).await;
        assert_eq!(messages(&redis).1, 1, "{month}");
        stop(&home, &mut worker).await;
        assert_applied(&home);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_backlog_of_earlier_builds_in_sqlite_is_applied() {
    if let Some(month) = month_to_make() {
        let worker = Home::new(BINARY).with("ROLLBOOK_BACKOFF", "30s").with("ROLLBOOK_LEASE_FOR", "5s");
        leave_backlog(&with_rows_of(Home::new(BINARY), &worker), &worker).await;
        let queue = rusqlite::Connection::open(worker.data().join("queue.db")).expect("the queue's file");
        let target = file(&format!("queue-{month}.db"));
        queue.execute("VACUUM INTO ?1", [target.display().to_string()]).expect("a copy");
        return;
    }
    for month in MONTHS {
        let home = Home::new(BINARY);
        home.migrate();
        std::fs::copy(file(&format!("queue-{month}.db")), home.data().join("queue.db")).expect("a copy");
        home.migrate();
        assert_eq!(audit::waiting(&home.data()), ALL as u64, "{month}");
        let mut rollbook = home.start_ready(&["serve"]).await;
        until("the backlog is applied", || async { audit::waiting(&home.data()) == 0 }).await;
        until_shown(&home, "rollbook_dead_letters", 1.0).await;
        stop(&home, &mut rollbook).await;
        assert_applied(&home);
    }
}

/// Asserts that each user has a row, whatever state its message was in.
fn assert_applied(home: &Home) {
    let store = rusqlite::Connection::open(home.data().join("store.db")).expect("the store's file");
    let users: usize = store.query_row("SELECT count(*) FROM users", [], |row| row.get(0)).expect("a count");
    assert_eq!((users, audit::ledger(&home.data()).len()), (ALL, ALL));
}
