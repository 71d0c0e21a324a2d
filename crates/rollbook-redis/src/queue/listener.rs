//! Listener for new and due messages: one blocking read for all lanes of a process.
//!
//! * One task reads from the streams of new messages and of notifications (`bell`) of all shards, on a
//!   connection of its own. It takes nothing, so stopping it loses nothing. It runs while lanes wait.
//! * One read lasts as long as the pause between two polls: an idle process sends a few commands a minute.
//! * While the listener does not listen (no connection, a server that refuses blocking reads), the lanes poll
//!   with short pauses. They also poll when it begins again: a notification may be lost meanwhile.
//! * A cluster has no blocking read on several shards: there the lanes poll.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use redis::{Cmd, RedisResult, cmd};
use rollbook_core::lock::lock;
use rollbook_core::queue::QueueError;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, timeout};
use tracing::{debug, info, warn};

use super::idle::Cursors;
use super::{RedisQueue, Shard};
use crate::connection::Connection;
use crate::servers::WeakServers;

/// Time of one read while a shard is not idle: the next read includes that shard.
const BLOCK_WHILE_BUSY: Duration = Duration::from_millis(250);
/// Time after which the task ends if no lane has waited.
const WANTED_FOR: Duration = Duration::from_secs(60);
/// Pause after a connection failed, if it had not answered before; it doubles up to the maximum.
const RETRY_FIRST: Duration = Duration::from_millis(250);
const RETRY_MAX: Duration = Duration::from_secs(5);
/// Pause after the server refused to block.
const REFUSED_FOR: Duration = Duration::from_secs(60);
/// Divisor of the call's time limit after which the answer of a finished read is late.
const LATE_AFTER_SHARE: u32 = 4;

/// State that the lanes and the task share.
#[derive(Default)]
pub(super) struct Listener {
    /// Wakes one lane.
    lane: Notify,
    /// Wakes the task: a shard became idle.
    idle: Notify,
    /// Makes the task replace its connection.
    reconnect: Notify,
    is_listening: AtomicBool,
    task: Mutex<Task>,
}

#[derive(Default)]
struct Task {
    is_running: bool,
    wanted_at: Option<Instant>,
}

/// Streams with new entries: name, then entries as id and fields.
type NewEntries = Option<Vec<(String, Vec<(String, Vec<Vec<u8>>)>)>>;

/// Reason why a read failed.
enum Failed {
    /// The connection broke, or does not answer.
    Broken(QueueError),
    /// The server answers and does not block.
    Refused(String),
}

impl Listener {
    /// Waits for a notification of the listener. One lane gets each.
    pub(super) async fn notified(&self) {
        self.lane.notified().await;
    }

    /// Returns whether a blocking read is under way.
    pub(super) fn is_listening(&self) -> bool {
        self.is_listening.load(Ordering::Relaxed)
    }

    /// Notifies the listener that a shard became idle.
    pub(super) fn shard_is_idle(&self) {
        self.idle.notify_one();
    }

    /// Makes the listener connect again: another connection to its server failed.
    pub(super) fn reconnect(&self) {
        if self.is_listening() {
            self.reconnect.notify_one();
        }
    }

    /// Notes that a lane waits. Returns whether the caller must start the task.
    fn want(&self) -> bool {
        let mut task = lock(&self.task);
        task.wanted_at = Some(Instant::now());
        !std::mem::replace(&mut task.is_running, true)
    }

    /// Returns whether lanes have waited lately; otherwise the task counts as ended.
    fn is_wanted(&self) -> bool {
        let mut task = lock(&self.task);
        task.is_running = task.wanted_at.is_some_and(|at| at.elapsed() < WANTED_FOR);
        task.is_running
    }
}

/// Marks the task as ended, also when it is aborted.
struct Running(Arc<Listener>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.is_listening.store(false, Ordering::Relaxed);
        lock(&self.0.task).is_running = false;
    }
}

impl RedisQueue {
    /// Returns whether one blocking read can cover all shards.
    pub(super) fn can_listen(&self) -> bool {
        !self.servers.is_cluster() || self.shards.len() == 1
    }

    /// Starts the listener unless it runs.
    pub(super) fn listen(&self) {
        if !self.can_listen() || !self.listener.want() {
            return;
        }
        let reader = Reader {
            servers: self.servers.downgrade(),
            shards: Arc::clone(&self.shards),
            running: Running(Arc::clone(&self.listener)),
            block_max: self.settings.idle_poll,
            late_after: self.servers.call_timeout() / LATE_AFTER_SHARE,
            connection: None,
            is_refused: false,
        };
        self.servers.spawn_background(reader.run());
    }
}

/// The task.
struct Reader {
    servers: WeakServers,
    shards: Arc<[Shard]>,
    running: Running,
    block_max: Duration,
    late_after: Duration,
    /// Connection that has answered its last read.
    connection: Option<Connection>,
    is_refused: bool,
}

impl Reader {
    async fn run(mut self) {
        let listener = Arc::clone(&self.running.0);
        let mut pause = RETRY_FIRST;
        while listener.is_wanted() {
            let Some((command, block)) = self.read_command() else {
                _ = timeout(BLOCK_WHILE_BUSY, listener.idle.notified()).await;
                continue;
            };
            let had_answered = self.connection.is_some();
            let wait = match self.read(&command, block).await {
                Ok(found) => {
                    pause = RETRY_FIRST;
                    if std::mem::take(&mut self.is_refused) {
                        info!("blocking reads work again: workers listen for messages");
                    }
                    self.record(found);
                    continue;
                }
                Err(Failed::Broken(error)) => {
                    debug!("the blocking read for new messages failed: {error}");
                    // The server may have closed the connection for its age: the next one is tried at once.
                    let this = if had_answered { Duration::ZERO } else { pause };
                    if !had_answered {
                        pause = (pause * 2).min(RETRY_MAX);
                    }
                    this
                }
                Err(Failed::Refused(why)) => {
                    if !std::mem::replace(&mut self.is_refused, true) {
                        warn!(
                            "{why}: workers poll every {} ms instead, which a provider may bill. Fix: allow XREAD with BLOCK",
                            BLOCK_WHILE_BUSY.as_millis()
                        );
                    }
                    REFUSED_FOR
                }
            };
            self.stop_listening();
            sleep(wait).await;
        }
    }

    /// Builds the read on all idle shards; `None` if there is none.
    fn read_command(&self) -> Option<(Cmd, Duration)> {
        let known: Vec<(&Shard, Cursors)> =
            self.shards.iter().filter_map(|shard| Some((shard, shard.idle.cursors()?))).collect();
        let block = if known.len() == self.shards.len() { self.block_max } else { BLOCK_WHILE_BUSY };
        let mut command = cmd("XREAD");
        command.arg("COUNT").arg(1).arg("BLOCK").arg(super::lease::millis(block)).arg("STREAMS");
        for (shard, _) in &known {
            command.arg(shard.keys.new_messages()).arg(shard.keys.bell());
        }
        for (_, cursors) in &known {
            command.arg(&cursors.new).arg(&cursors.bell);
        }
        (!known.is_empty()).then_some((command, block))
    }

    async fn read(&mut self, command: &Cmd, block: Duration) -> Result<NewEntries, Failed> {
        let gone = || Failed::Broken(QueueError::Unavailable("the queue is closed".to_owned()));
        let servers = self.servers.upgrade().ok_or_else(gone)?;
        let server = servers.server_of(0).await.map_err(Failed::Broken)?;
        // The task must not keep the servers, which own it, while it waits.
        drop(servers);
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => server.connect_to_wait(self.block_max).await.map_err(Failed::Broken)?,
        };
        self.running.0.is_listening.store(true, Ordering::Relaxed);
        let started = Instant::now();
        let answer: RedisResult<NewEntries> = tokio::select! {
            answer = timeout(block + self.late_after, command.query_async(&mut connection)) => {
                let late = || QueueError::Unavailable(format!("{}: no answer in time", server.name()));
                answer.map_err(|_| Failed::Broken(late()))?
            }
            () = self.running.0.reconnect.notified() => {
                return Err(Failed::Broken(QueueError::Unavailable("another connection failed".to_owned())));
            }
        };
        match answer.map_err(|error| server.classify(&error)) {
            Ok(None) if started.elapsed() < block / 2 => {
                Err(Failed::Refused(format!("{}: XREAD with BLOCK does not wait", server.name())))
            }
            Ok(found) => {
                self.connection = Some(connection);
                Ok(found)
            }
            Err(error @ QueueError::Unavailable(_)) => Err(Failed::Broken(error)),
            Err(error) => Err(Failed::Refused(error.to_string())),
        }
    }

    fn record(&self, found: NewEntries) {
        for (stream, entries) in found.into_iter().flatten() {
            let Some((entry, fields)) = entries.into_iter().next() else { continue };
            let now = Instant::now();
            if let Some(shard) = self.shards.iter().find(|shard| shard.keys.new_messages() == stream) {
                shard.idle.record_new_entry(now, entry);
            } else if let Some(shard) = self.shards.iter().find(|shard| shard.keys.bell() == stream) {
                let after = fields.get(1).and_then(|after| std::str::from_utf8(after).ok()?.parse().ok());
                let after = after.unwrap_or(0);
                shard.idle.record_bell(now + Duration::from_millis(after), entry);
            }
            self.running.0.lane.notify_one();
        }
    }

    /// Lets the lanes poll: a notification may be lost.
    fn stop_listening(&self) {
        if self.running.0.is_listening.swap(false, Ordering::Relaxed) {
            let now = Instant::now();
            for shard in &*self.shards {
                shard.idle.poll_by(now);
            }
            self.running.0.lane.notify_one();
        }
    }
}
