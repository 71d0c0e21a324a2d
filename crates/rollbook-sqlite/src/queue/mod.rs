//! Queue in one file.
//!
//! A message that was never leased is due, in the order of arrival. `leased_to` is the `seq` up to which all
//! messages were leased, so an enqueue writes no index by due time. From its first lease on, a message has a
//! row in `leases` and is due when `due_at` has passed: a lease and a retry move that time into the future. A
//! lease also writes a token that is never given twice. Every settlement names the token, so a worker that
//! lost its lease changes nothing.
//!
//! A redriven message is older than those that came before it. Its `seq` is negative, so it is never after
//! `leased_to`, and has a row in `leases` from the start.

mod admin;
mod audit;
mod enqueue;
mod lease;
mod messages;
mod settle;
#[cfg(test)]
mod work_tests;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use rollbook_core::delivery::{Delivery, MessageId};
use rollbook_core::queue::{
    Audit, BulkStep, Consumer, DeadLetter, DeadLetterPage, DeadLetterSums, Discard, Durability, Enqueued,
    Lease, LeaseRequest, MessagesCursor, MessagesPage, PAGE_BYTES_MAX, Producer, QueueAdmin, QueueError,
    QueueStats, QueuedMessage, Settled, Settlement, StorageSpace,
};
use rollbook_core::rehearsal;
use rollbook_core::time::Clock;
use rollbook_core::trace::Traceparent;
use rusqlite::types::ValueRef;
use rusqlite::{Connection, Row};
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::connection;
use crate::database::Database;
use crate::migrations::{self, Guard, Schema};
use crate::rehearse::rolled_back;

/// Interval at which a waiting worker searches for messages of another process. Messages of its own process
/// wake it at once.
const POLL: Duration = Duration::from_millis(250);

/// Settings of the queue.
#[derive(Clone, Copy, Debug)]
pub struct QueueSettings {
    /// Maximum messages that are not settled. Further deliveries are refused with 503.
    pub depth_max: u64,
    /// Maximum time by which a due time may be ahead of now: the longest lease or backoff of any worker. A
    /// due time further ahead was written with a wrong clock, and is corrected.
    pub due_ahead_max: Duration,
}

/// Queue in an SQLite file.
pub struct SqliteQueue {
    /// Connection for reads: counts and lists do not wait behind deliveries. It is closed first.
    reads: Database,
    database: Database,
    clock: Arc<dyn Clock>,
    settings: QueueSettings,
    /// Folder of the file.
    folder: PathBuf,
    /// Wakes one lane of this process when a message became due. A lane that leased as many as it may wakes the next one.
    due: Notify,
}

impl SqliteQueue {
    /// Opens the queue in this file. All migrations must have been applied.
    ///
    /// # Errors
    /// The file can't be opened durably, or a migration is pending.
    pub fn open(path: &Path, settings: QueueSettings, clock: Arc<dyn Clock>) -> Result<Self, QueueError> {
        let connection = connection::open(path)?;
        migrations::check(&connection, Schema::Queue)?;
        let guard = || Some(Guard::new(Schema::Queue));
        let database = Database::writing(path, connection, guard())?;
        let reads = Database::new(connection::open_reader(path)?, guard())?;
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
        let folder = folder.unwrap_or(Path::new(".")).to_owned();
        Ok(Self { database, reads, clock, settings, folder, due: Notify::new() })
    }

    async fn lease_now(&self, request: &LeaseRequest) -> Result<lease::Taken, QueueError> {
        let (request, now, due_ahead_max) = (request.clone(), self.clock.now(), self.settings.due_ahead_max);
        Ok(self.database.run(move |connection| lease::take(connection, &request, now, due_ahead_max)).await?)
    }
}

/// Disk space that a rehearsal requests: the largest body that is accepted by default.
const REHEARSED_BYTES: u64 = 1 << 20;

#[async_trait]
impl Producer for SqliteQueue {
    async fn enqueue_many(&self, deliveries: &[Delivery]) -> Vec<Result<Enqueued, QueueError>> {
        if deliveries.is_empty() {
            return Vec::new();
        }
        let (count, now, depth_max) = (deliveries.len(), self.clock.now(), self.settings.depth_max);
        let deliveries = deliveries.to_vec();
        let inserted =
            self.database.run(move |connection| enqueue::insert(connection, &deliveries, now, depth_max));
        // One transaction: if it fails, nothing of it stays.
        let answers = inserted.await.unwrap_or_else(|error| vec![Err(error.into()); count]);
        self.due.notify_waiters();
        answers
    }

    async fn rehearse(&self) -> Result<bool, QueueError> {
        let (now, depth_max) = (self.clock.now(), self.settings.depth_max);
        let id = MessageId::new(format!("{}{}", rehearsal::ID_PREFIX, now.as_millis()));
        let delivery = Delivery { id, received_at: now, traceparent: None, body: Bytes::from_static(b"{}") };
        let tried = self.database.run(move |connection| {
            rolled_back(connection, || {
                enqueue::insert(connection, std::slice::from_ref(&delivery), now, depth_max)
            })
        });
        for answer in tried.await? {
            answer?;
        }
        // Rolled back data never reaches the disk.
        let room = self.space().await?;
        match room.disk_available.filter(|left| *left < REHEARSED_BYTES) {
            None => Ok(true),
            Some(left) => Err(QueueError::OutOfSpace(format!("{left} bytes are left on its file system"))),
        }
    }
}

#[async_trait]
impl Consumer for SqliteQueue {
    async fn lease(&self, request: LeaseRequest) -> Result<Vec<Lease>, QueueError> {
        let deadline = Instant::now() + request.wait;
        loop {
            // Listens before it searches: a message that arrives in between must wake it.
            let mut woken = std::pin::pin!(self.due.notified());
            woken.as_mut().enable();
            let taken = self.lease_now(&request).await?;
            if taken.leases.len() >= request.max {
                // There may be more messages: wake the next lane.
                self.due.notify_one();
            }
            if !taken.leases.is_empty() || Instant::now() >= deadline {
                return Ok(taken.leases);
            }
            let next_due_in = taken.next_due_at.map_or(POLL, |due_at| due_at.since(self.clock.now()));
            // At least a millisecond: a clock that stands still must not make this spin.
            let pause = next_due_in.clamp(Duration::from_millis(1), POLL);
            tokio::select! {
                () = &mut woken => {}
                () = tokio::time::sleep_until(deadline.min(Instant::now() + pause)) => {}
            }
        }
    }

    async fn count_attempt(&self, lease: &Lease) -> Result<Settled, QueueError> {
        let lease = lease.clone();
        Ok(self.database.run(move |connection| settle::count_attempt(connection, &lease)).await?)
    }

    async fn settle_many(&self, settlements: &[(Lease, Settlement)]) -> Vec<Result<Settled, QueueError>> {
        if settlements.is_empty() {
            return Vec::new();
        }
        let (count, now) = (settlements.len(), self.clock.now());
        let releases = settlements.iter().any(|(_, settlement)| matches!(settlement, Settlement::Release));
        let settlements = settlements.to_vec();
        let settled = self.database.run(move |connection| settle::settle(connection, &settlements, now));
        let settled = match settled.await {
            Ok(settled) => settled.into_iter().map(Ok).collect(),
            Err(error) => vec![Err(error.into()); count],
        };
        if releases {
            self.due.notify_one();
        }
        settled
    }
}

#[async_trait]
impl QueueAdmin for SqliteQueue {
    async fn stats(&self) -> Result<QueueStats, QueueError> {
        let now = self.clock.now();
        Ok(self.reads.read(move |connection| admin::stats(connection, now)).await?)
    }

    async fn space(&self) -> Result<StorageSpace, QueueError> {
        let folder = self.folder.clone();
        // On the thread of the reading connection: a file system may block.
        Ok(self.reads.read(move |_| Ok(admin::space(&folder))).await?)
    }

    async fn dead_letters(&self, page: &DeadLetterPage) -> Result<Vec<DeadLetter>, QueueError> {
        let page = page.clone();
        Ok(self.reads.read(move |connection| admin::list(connection, &page)).await?)
    }

    async fn newest_dead_letters(&self, page: &DeadLetterPage) -> Result<Vec<DeadLetter>, QueueError> {
        let page = page.clone();
        Ok(self.reads.read(move |connection| admin::list_newest(connection, &page)).await?)
    }

    async fn sum_dead_letters(&self, page: &DeadLetterPage) -> Result<DeadLetterSums, QueueError> {
        let page = page.clone();
        Ok(self.reads.read(move |connection| admin::sum(connection, &page)).await?)
    }

    async fn discards(&self, id: &MessageId) -> Result<Vec<Discard>, QueueError> {
        let id = id.clone();
        Ok(self.reads.read(move |connection| admin::discards(connection, &id)).await?)
    }

    async fn redrive(&self, page: &DeadLetterPage) -> Result<BulkStep, QueueError> {
        let (page, now, depth_max) = (page.clone(), self.clock.now(), self.settings.depth_max);
        let moved = move |connection: &Connection| admin::redrive(connection, &page, now, depth_max);
        let moved = self.database.run(moved).await??;
        self.due.notify_waiters();
        Ok(moved)
    }

    async fn discard(&self, page: &DeadLetterPage) -> Result<BulkStep, QueueError> {
        let (page, now) = (page.clone(), self.clock.now());
        Ok(self.database.run(move |connection| admin::discard(connection, &page, now)).await?)
    }

    async fn count_dead_letters(&self, page: &DeadLetterPage) -> Result<BulkStep, QueueError> {
        let page = page.clone();
        Ok(self.reads.read(move |connection| admin::count_matching(connection, &page)).await?)
    }

    async fn messages(
        &self,
        after: Option<&MessagesCursor>,
        limit: usize,
    ) -> Result<MessagesPage, QueueError> {
        let (after, now) = (after.cloned(), self.clock.now());
        let page = move |connection: &Connection| messages::list(connection, after.as_ref(), limit, now);
        Ok(self.reads.read(page).await?)
    }

    async fn message(&self, id: &MessageId) -> Result<Option<QueuedMessage>, QueueError> {
        let (id, now) = (id.clone(), self.clock.now());
        Ok(self.reads.read(move |connection| messages::find(connection, &id, now)).await?)
    }

    async fn remove_many(&self, ids: &[MessageId]) -> Result<usize, QueueError> {
        let ids = ids.to_vec();
        Ok(self.database.run(move |connection| messages::remove(connection, &ids)).await?)
    }

    async fn audit(&self, repair: bool) -> Result<Audit, QueueError> {
        self.audited(repair).await
    }

    /// Reports no weakness: every opened file commits to the disk (see `connection.rs`).
    async fn durability(&self) -> Result<Durability, QueueError> {
        Ok(Durability::default())
    }
}

/// Row of counters.
#[derive(Clone, PartialEq, Eq)]
struct Counters {
    depth: u64,
    dead: u64,
    seq: i64,
    leased_to: i64,
    token: i64,
}

impl Counters {
    fn read(connection: &Connection) -> rusqlite::Result<Self> {
        let sql = "SELECT depth, dead, seq, leased_to, token FROM counters";
        connection.prepare_cached(sql)?.query_row([], |row| {
            Ok(Self {
                depth: row.get(0)?,
                dead: row.get(1)?,
                seq: row.get(2)?,
                leased_to: row.get(3)?,
                token: row.get(4)?,
            })
        })
    }

    fn write(&self, connection: &Connection) -> rusqlite::Result<()> {
        let sql = "UPDATE counters SET depth = ?1, dead = ?2, seq = ?3, leased_to = ?4, token = ?5";
        let values = (self.depth, self.dead, self.seq, self.leased_to, self.token);
        connection.prepare_cached(sql)?.execute(values)?;
        Ok(())
    }
}

/// Parses the trace of a column. An invalid trace is ignored.
fn traceparent(row: &Row<'_>, column: usize) -> rusqlite::Result<Option<Traceparent>> {
    Ok(match row.get_ref(column)? {
        ValueRef::Blob(bytes) => Traceparent::from_bytes(bytes),
        _ => None,
    })
}

/// Converts a number of rows to the type of the counters.
fn count(rows: usize) -> u64 {
    u64::try_from(rows).unwrap_or(u64::MAX)
}

/// Content of a page of bodies so far.
#[derive(Default)]
struct PageBytes {
    bytes: usize,
    is_begun: bool,
}

impl PageBytes {
    /// Takes room for a body. The first body always fits.
    fn has_room_for(&mut self, body: &[u8]) -> bool {
        self.bytes = self.bytes.saturating_add(body.len());
        !std::mem::replace(&mut self.is_begun, true) || self.bytes <= PAGE_BYTES_MAX
    }
}
