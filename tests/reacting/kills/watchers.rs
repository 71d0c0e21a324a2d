//! Readers of the feed: the recipes, a stream that goes from one worker's API to another's, and two controls that lose changes.

use std::net::SocketAddr;
use std::process::Command;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rollbook_testkit::process::until;
use sqlx::postgres::PgListener;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use super::super::{Program, python, reader, write_block};
use super::fleet::{Fleet, TOKEN};

/// Pause of a reader that lost its connection.
const AGAIN: Duration = Duration::from_millis(100);

/// The readers of the page by SQL, killed and started again.
pub(super) struct Readers {
    url: String,
    folder: TempDir,
    python: Program,
    rust: JoinSet<()>,
}

fn start_python(url: &str, folder: &TempDir) -> Program {
    let mut command = Command::new(folder.path().join("venv/bin/python"));
    let command = command.arg(folder.path().join("reader.py")).env("DATABASE_URL", url);
    Program::start(folder.path(), "reader", command)
}

fn start_rust(url: String) -> JoinSet<()> {
    let read = async move {
        loop {
            // As its supervisor does.
            drop(reader::read(&url).await);
            tokio::time::sleep(AGAIN).await;
        }
    };
    JoinSet::from_iter([read])
}

impl Readers {
    pub(super) fn start(fleet: &Fleet) -> Self {
        let (url, folder) = (fleet.url(), python());
        write_block(folder.path(), "reader.py");
        Self { python: start_python(&url, &folder), rust: start_rust(url.clone()), folder, url }
    }

    /// Kills both in the middle of anything, and starts them again.
    pub(super) async fn kill(&mut self) {
        self.python.kill();
        self.rust.shutdown().await;
        self.python = start_python(&self.url, &self.folder);
        self.rust = start_rust(self.url.clone());
    }

    /// Waits until both are at the end, and asserts that both have handled every change exactly once.
    pub(super) async fn saw_everything(&self, fleet: &Fleet) {
        let behind = "SELECT count(*) FROM app.readers, clerk.changes_state
                      WHERE name IN ('search-index', 'audit-trail') AND position < last_position";
        until("the readers are at the end", || async { fleet.sql(behind).await == "0" }).await;
        for (table, selected) in [("app.to_index", "WHERE resource = 'users'"), ("app.audit_trail", "")] {
            let same = format!(
                "SELECT (SELECT array_agg(position ORDER BY position) FROM {table})
                        = (SELECT array_agg(position ORDER BY position) FROM clerk.changes {selected})"
            );
            assert_eq!(fleet.sql(&same).await, "t", "{table}: {}", self.python.log());
        }
    }
}

/// A stream of events that breaks and goes on at another worker.
pub(super) struct Stream {
    last: Arc<Mutex<u64>>,
    _reading: JoinSet<()>,
}

impl Stream {
    pub(super) fn start(fleet: &Fleet, mut random: fastrand::Rng) -> Self {
        let (apis, last) = (fleet.apis.clone(), Arc::new(Mutex::new(0)));
        let known = Arc::clone(&last);
        let reading = async move {
            loop {
                let api = apis[random.usize(..apis.len())];
                drop(read_some(api, random.usize(1..60), &known).await);
                tokio::time::sleep(AGAIN / 10).await;
            }
        };
        Self { last, _reading: JoinSet::from_iter([reading]) }
    }

    /// Waits until the reader has seen the last change. It has seen those before: it asserts that none is left out.
    pub(super) async fn saw_everything(&self, last: u64) {
        let seen = || *self.last.lock().unwrap_or_else(PoisonError::into_inner);
        until("the stream has sent everything", || std::future::ready(seen() == last)).await;
    }
}

/// Reads this many changes from the last one on, or until the stream breaks.
async fn read_some(api: SocketAddr, count: usize, last: &Mutex<u64>) -> std::io::Result<()> {
    let known = || *last.lock().unwrap_or_else(PoisonError::into_inner);
    let mut stream = BufReader::new(TcpStream::connect(api).await?);
    let request = format!(
        "GET /v1/changes HTTP/1.1\r\nhost: api\r\nauthorization: Bearer {TOKEN}\r\naccept: text/event-stream\r\n\
         last-event-id: {}\r\n\r\n",
        known()
    );
    stream.write_all(request.as_bytes()).await?;
    let (mut seen, mut id, mut line) = (0, 0, String::new());
    stream.read_line(&mut line).await?;
    if !line.starts_with("HTTP/1.1 200 ") {
        // The worker has no store at the moment.
        return Ok(());
    }
    line.clear();
    while seen < count && stream.read_line(&mut line).await? > 0 {
        assert!(!line.starts_with("event: problem"), "the stream has a problem");
        if let Some(text) = line.strip_prefix("id: ") {
            id = text.trim_end().parse().expect("a position");
        } else if line.starts_with("event: change") {
            assert_eq!(id, known() + 1, "a change is left out or repeated");
            *last.lock().unwrap_or_else(PoisonError::into_inner) = id;
            seen += 1;
        }
        line.clear();
    }
    Ok(())
}

/// Control: reads by the numbers of a bare sequence, which transactions draw before they commit.
#[derive(Default)]
pub(super) struct BareSequence {
    last: i64,
    seen: u64,
}

impl BareSequence {
    /// Reads what is after the last number.
    pub(super) async fn read(&mut self, fleet: &Fleet) {
        let sql = format!(
            "SELECT count(*), coalesce(max(number), {0}) FROM public.audit WHERE number > {0}",
            self.last
        );
        let found = fleet.sql(&sql).await;
        let (count, last) = found.split_once('|').expect("two values");
        self.seen += count.parse::<u64>().expect("a count");
        self.last = last.parse().expect("a number");
    }

    /// Returns the number of changes that it has not seen.
    pub(super) async fn missed(&self, fleet: &Fleet) -> u64 {
        let all: u64 = fleet.sql("SELECT count(*) FROM public.audit").await.parse().expect("a count");
        all - self.seen
    }
}

/// Control: takes each notification for the change of its position, and reads nothing.
pub(super) struct Payloads {
    heard: Arc<Mutex<u64>>,
    _listening: JoinSet<()>,
}

impl Payloads {
    pub(super) async fn start(fleet: &Fleet) -> Self {
        let (url, heard) = (fleet.url(), Arc::new(Mutex::new(0)));
        let count = Arc::clone(&heard);
        let mut listener = PgListener::connect(&url).await.expect("a connection");
        listener.listen("rollbook_changes").await.expect("it listens");
        let listening = async move {
            loop {
                // It connects again by itself, and does not know what it has missed.
                if listener.recv().await.is_ok() {
                    *count.lock().unwrap_or_else(PoisonError::into_inner) += 1;
                }
            }
        };
        Self { heard, _listening: JoinSet::from_iter([listening]) }
    }

    /// Returns the number of changes that it was notified of.
    pub(super) fn heard(&self) -> u64 {
        *self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
