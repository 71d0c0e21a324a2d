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
mod audit;
mod calls;
mod dead_letters;
mod enqueue;
mod found;
mod idle;
mod lease;
mod look;
mod remove;
mod room;
mod settle;
mod wait;
mod whole;

pub use self::whole::{FullCoverage, Ownership};

use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use redis::{Cmd, Script};
use rollbook_core::delivery::{Delivery, MessageId};
use rollbook_core::protection::Protection;
use rollbook_core::queue::{
    Audit, BulkStep, Consumer, DeadLetter, DeadLetterFilter, DeadLetterPosition, Durability, Enqueued, Lease,
    LeaseRequest, MessagesCursor, MessagesPage, Producer, QueueAdmin, QueueError, QueueStats, QueuedMessage,
    Room, Settled, Settlement,
};
use tokio::time::Instant;

use crate::address::Address;
use crate::id;
use crate::pool::Options;
use crate::scripts::Scripts;
use crate::servers::Servers;
use crate::settings::{DueTimes, RedisSettings};
use crate::shard::{KEY_PREFIX_MAX, Keys, SHARDS_MAX, is_key_prefix, shard_of};

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
        if !is_key_prefix(&settings.key_prefix) {
            return Err(QueueError::Deployment(format!(
                "redis_key_prefix is {:?}; write at most {KEY_PREFIX_MAX} letters, digits, _, - and .",
                settings.key_prefix
            )));
        }
        let keys: Vec<Keys> = (0..shards).map(|shard| Keys::of(&settings.key_prefix, shard)).collect();
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

    /// The shards in which a message may lie: one, unless something else than Rollbook put it there.
    fn shards_of(&self, id: &MessageId) -> std::ops::Range<usize> {
        if id::is_odd(id.as_str()) {
            return 0..self.shards.len();
        }
        let shard = self.shard_of(id.as_str());
        shard..shard + 1
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

    async fn prepare(&self) -> Result<(), QueueError> {
        self.note_owner().await
    }

    async fn probe(&self) -> Result<bool, QueueError> {
        self.write_probe().await.map(|()| true)
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
    fn protection(&self) -> Option<Protection> {
        Some(self.servers.address().protection())
    }

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

    async fn count_dead_letters(
        &self,
        filter: &DeadLetterFilter,
        after: Option<DeadLetterPosition>,
        limit: usize,
    ) -> Result<BulkStep, QueueError> {
        self.count_dead(filter, after, limit).await
    }

    async fn audit(&self, repair: bool) -> Result<Audit, QueueError> {
        self.audit_all(repair).await
    }

    async fn durability(&self) -> Result<Durability, QueueError> {
        self.servers.durability().await
    }

    async fn room(&self) -> Result<Room, QueueError> {
        self.read_room().await
    }
}
