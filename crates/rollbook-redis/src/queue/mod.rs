//! The queue on Redis.
//!
//! A message's body lies in one hash from its arrival to its end, packed (`value.rs`), and is never moved.
//! What moves is its id: through a stream when it is new, into a sorted set while it waits for its
//! backoff, through a second stream when it comes again, into another sorted set when it is dead. Each
//! step is one script (`scripts/`), atomic and for a whole batch.
//!
//! Constraints:
//!
//! * An entry of a stream is leased once. Who takes over a lease that ran out makes a new entry, so an
//!   entry's id is the proof of its lease, and whoever lost it finds the entry gone. Only a group that had to
//!   be made anew gives its entries out once more, counted from the start: who held one may still settle it.
//! * The stream's group tells what is in whose hands; a sorted set tells until when, one member for each
//!   batch of leases.
//! * Reads that block run on a connection of their own and take nothing: what they find is leased by a
//!   script afterwards. Giving one up loses nothing.

mod admin;
mod calls;
mod dead_letters;
mod enqueue;
mod idle;
mod lease;
mod look;
mod remove;
mod settle;
mod wait;
mod whole;

use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use redis::{Cmd, Script};
use rollbook_core::delivery::{Delivery, MessageId};
use rollbook_core::queue::{
    BulkStep, Consumer, DeadLetter, DeadLetterFilter, DeadLetterPosition, Durability, Enqueued, Lease,
    LeaseRequest, MessagesCursor, MessagesPage, Producer, QueueAdmin, QueueError, QueueStats, QueuedMessage,
    Settled, Settlement,
};
use tokio::time::Instant;
use tracing::error;

use crate::address::Address;
use crate::pool::{Call, Options};
use crate::scripts::Scripts;
use crate::servers::Servers;
use crate::settings::{DueTimes, RedisSettings};
use crate::shard::{Keys, SHARDS_MAX, shard_of};

/// How what is stored is arranged. A newer arrangement is refused, since this code would misread it.
const FORMAT: u32 = 1;

/// The most messages in one call of a script: Lua's stack holds some 8,000 values.
const BATCH_MAX: usize = 1_000;

/// A queue in Redis.
pub struct RedisQueue {
    settings: RedisSettings,
    due_times: DueTimes,
    scripts: Arc<Scripts>,
    servers: Servers,
    shards: Vec<Shard>,
    /// This process's name in the groups.
    consumer: String,
    /// The shard at which the next lease begins to look.
    turn: AtomicUsize,
    reaped_at: Mutex<Option<Instant>>,
    doorbell: wait::Doorbell,
    unanswered: lease::Unanswered,
}

struct Shard {
    index: usize,
    keys: Keys,
    /// Which life of the shard we know; `None` until it is set up. It changes when the data are lost.
    epoch: Mutex<Option<String>>,
    idle: idle::Idle,
}

impl Shard {
    fn epoch(&self) -> std::sync::MutexGuard<'_, Option<String>> {
        self.epoch.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_known(&self) -> bool {
        self.epoch().is_some()
    }

    /// Something may be due here: it is looked at when a lane asks next.
    fn stir(&self) {
        self.idle.end();
    }
}

impl RedisQueue {
    /// A queue at `redis://[USER[:PASSWORD]@]HOST[:PORT][/DB]`, `rediss://…` with TLS,
    /// `redis+sentinel://…@HOST:PORT,HOST:PORT/SERVICE[/DB]` or `redis+cluster://…@HOST:PORT,HOST:PORT`.
    /// Nothing is connected to yet: every call connects where it must.
    ///
    /// # Errors
    /// The settings can't be used.
    pub fn new(settings: RedisSettings, due_times: DueTimes) -> Result<Self, QueueError> {
        // Two may be linked in; without a choice the first TLS connection would panic. Chosen already is fine.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let address = Address::of(&settings)?;
        let shards = settings.shards.clamp(1, SHARDS_MAX);
        let keys: Vec<Keys> = (0..shards).map(Keys::of).collect();
        let options = Options {
            strict: settings.strict,
            replicas: settings.replicas,
            call_timeout: settings.call_timeout,
        };
        let tagged: Vec<&str> = keys.iter().map(Keys::messages).collect();
        let servers = Servers::new(address, options, &tagged)?;
        let shard =
            |(index, keys)| Shard { index, keys, epoch: Mutex::new(None), idle: idle::Idle::default() };
        Ok(Self {
            settings: RedisSettings { shards, ..settings },
            due_times,
            scripts: Arc::new(Scripts::new()),
            servers,
            shards: keys.into_iter().enumerate().map(shard).collect(),
            consumer: consumer_name(),
            turn: AtomicUsize::new(0),
            reaped_at: Mutex::new(None),
            doorbell: wait::Doorbell::default(),
            unanswered: lease::Unanswered::default(),
        })
    }

    fn shard_of(&self, id: &str) -> usize {
        usize::from(shard_of(id, self.settings.shards))
    }

    /// How many messages may wait in each shard.
    fn depth_max(&self) -> u64 {
        self.settings.depth_max.div_ceil(u64::from(self.settings.shards))
    }

    /// The call of a script on a shard, to which its arguments are added.
    fn command(&self, script: &Script, keys: &Keys) -> Cmd {
        let mut command = redis::cmd("EVALSHA");
        command.arg(script.get_hash()).arg(keys.all().len()).arg(keys.all()).arg(self.due_times.argument());
        command
    }

    /// Makes sure that the shard is set up.
    async fn ensure_set_up(&self, shard: &Shard) -> Result<(), QueueError> {
        if shard.is_known() {
            return Ok(());
        }
        // The first before all others: of data with another number of shards it may be the only one there is.
        let first = &self.shards[0];
        if !first.is_known()
            && let Err(error) = self.set_up(first).await
        {
            let is_elsewhere = shard.index != first.index && matches!(error, QueueError::Unavailable(_));
            if !is_elsewhere {
                return Err(error);
            }
            // The first is unreachable, and so are those who have it only: what another shard says is as good.
            self.meet_if_there(shard).await?;
            if shard.is_known() {
                return Ok(());
            }
            if !self.shards.iter().any(Shard::is_known) {
                return Err(error);
            }
        }
        if shard.is_known() { Ok(()) } else { self.set_up(shard).await }
    }

    /// Refuses a shard that this process can't work with, and sets none up.
    async fn ensure_met(&self, shard: &Shard) -> Result<(), QueueError> {
        if shard.is_known() {
            return Ok(());
        }
        let first = &self.shards[0];
        if !first.is_known() && shard.index != first.index {
            match self.meet_if_there(first).await {
                Ok(()) | Err(QueueError::Unavailable(_)) => {}
                Err(error) => return Err(error),
            }
        }
        self.meet_if_there(shard).await
    }

    async fn meet_if_there(&self, shard: &Shard) -> Result<(), QueueError> {
        let mut command = redis::cmd("HMGET");
        command.arg(shard.keys.meta()).arg(&["format", "shards", "epoch"]);
        let found: (Option<u32>, Option<u16>, Option<String>) = self.command_on(shard, &command).await?;
        if let (Some(format), Some(shards), Some(epoch)) = found {
            self.meet(shard, format, shards, epoch)?;
        }
        Ok(())
    }

    async fn set_up(&self, shard: &Shard) -> Result<(), QueueError> {
        let script = &self.scripts.set_up;
        let mut command = self.command(script, &shard.keys);
        let ours = format!("{:016x}", fastrand::u64(..));
        command.arg(FORMAT).arg(self.settings.shards).arg(ours);
        let call = Call { command: &command, script: Some(script), confirm: false };
        let answer = self.servers.call(shard.index, &call).await?;
        let (format, shards, epoch): (u32, u16, String) = self.read_answer(answer.value)?;
        self.meet(shard, format, shards, epoch)
    }

    /// Takes note of what a shard is, where we can work with it.
    fn meet(&self, shard: &Shard, format: u32, shards: u16, epoch: String) -> Result<(), QueueError> {
        let address = self.address();
        if format != FORMAT {
            return Err(QueueError::Deployment(format!(
                "{address}: its data are in format {format} and this Rollbook knows {FORMAT}; use the Rollbook that made them, or a newer one"
            )));
        }
        if shards != self.settings.shards {
            return Err(QueueError::Deployment(format!(
                "{address}: its queue has {shards} shards and queue_shards is {}; set it to {shards}, or drain the queue and delete its keys first",
                self.settings.shards
            )));
        }
        *shard.epoch() = Some(epoch);
        Ok(())
    }

    /// Whether the shard's data are the ones we knew. Says so where they are not.
    fn is_known(&self, shard: &Shard, found: Option<&str>) -> bool {
        let mut known = shard.epoch();
        let is_known = known.is_none() || known.as_deref() == found;
        if !is_known {
            error!(
                "{}: the queue was emptied or replaced (FLUSHALL, a restart without its data, another server); what \
                 waited there is gone and the work goes on. Replay the time since from Clerk's dashboard",
                self.address()
            );
            *known = None;
        }
        is_known
    }
}

/// Unique for each process, and telling for whoever looks into the group.
fn consumer_name() -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    format!("{}-{}-{:08x}", host.trim(), std::process::id(), fastrand::u32(..))
}

#[async_trait]
impl Producer for RedisQueue {
    async fn enqueue_many(&self, deliveries: &[Delivery]) -> Vec<Result<Enqueued, QueueError>> {
        self.enqueue(deliveries).await
    }
}

#[async_trait]
impl Consumer for RedisQueue {
    async fn lease(&self, request: LeaseRequest) -> Result<Vec<Lease>, QueueError> {
        self.take_or_wait(request).await
    }

    async fn count_attempt(&self, lease: &Lease) -> Result<Settled, QueueError> {
        self.count(lease).await
    }

    async fn settle_many(&self, settlements: &[(Lease, Settlement)]) -> Vec<Result<Settled, QueueError>> {
        self.settle(settlements).await
    }
}

#[async_trait]
impl QueueAdmin for RedisQueue {
    async fn stats(&self) -> Result<QueueStats, QueueError> {
        self.read_stats().await
    }

    async fn dead_letters(
        &self,
        filter: &DeadLetterFilter,
        after: Option<DeadLetterPosition>,
        limit: usize,
    ) -> Result<Vec<DeadLetter>, QueueError> {
        self.list_dead(filter, after, limit).await
    }

    async fn redrive(
        &self,
        filter: &DeadLetterFilter,
        after: Option<DeadLetterPosition>,
        limit: usize,
    ) -> Result<BulkStep, QueueError> {
        self.redrive_dead(filter, after, limit).await
    }

    async fn discard(
        &self,
        filter: &DeadLetterFilter,
        after: Option<DeadLetterPosition>,
        limit: usize,
    ) -> Result<BulkStep, QueueError> {
        self.discard_dead(filter, after, limit).await
    }

    async fn messages(
        &self,
        after: Option<&MessagesCursor>,
        limit: usize,
    ) -> Result<MessagesPage, QueueError> {
        self.list(after, limit).await
    }

    async fn message(&self, id: &MessageId) -> Result<Option<QueuedMessage>, QueueError> {
        self.find(id).await
    }

    async fn remove_many(&self, ids: &[MessageId]) -> Result<usize, QueueError> {
        self.remove_messages(ids).await
    }

    async fn durability(&self) -> Result<Durability, QueueError> {
        self.servers.durability().await
    }
}
