//! Queue on Redis.
//!
//! A message's body stays in one hash from receipt to deletion, compressed (`value.rs`), and is never moved.
//! Only the id moves: through a stream while the message is new, into a sorted set while it waits for its
//! backoff, through a second stream when it is delivered again, into another sorted set when it is a dead
//! letter. Each step is one script (`scripts/`), atomic and for a complete batch.
//!
//! Constraints:
//!
//! * A stream entry is leased once. Taking over an expired lease creates a new entry, so an entry's id proves
//!   its lease, and the former holder finds the entry gone. Only a recreated group delivers its entries once
//!   more, counted from the start: the former holder may still settle them.
//! * The stream's group records which consumer holds an entry; a sorted set records until when, with one
//!   member per batch of leases.
//! * Blocking reads run on a separate connection and take nothing: a script leases the messages afterwards.

mod admin;
mod audit;
mod calls;
mod dead_letter_entry;
mod dead_letters;
mod discards;
mod enqueue;
mod idle;
mod lease;
mod list;
mod listener;
mod ownership;
mod remove;
mod room;
mod settle;
mod shard_meta;
mod wait;

pub use self::ownership::{FullCoverage, Ownership};

use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use redis::{Cmd, Script};
use rollbook_core::delivery::{Delivery, MessageId};
use rollbook_core::live::Live;
use rollbook_core::lock::lock;
use rollbook_core::protection::Protection;
use rollbook_core::queue::{
    Audit, BulkStep, Consumer, DISCARDS_KEPT, DeadLetter, DeadLetterPage, DeadLetterSums, Discard,
    Durability, Enqueued, Lease, LeaseRequest, MessagesCursor, MessagesPage, Producer, QueueAdmin,
    QueueError, QueueStats, QueuedMessage, Settled, Settlement, StorageSpace,
};
use tokio::time::Instant;

use crate::address::Address;
use crate::id;
use crate::owner::Owner;
use crate::pool::Options;
use crate::scripts::Scripts;
use crate::servers::Servers;
use crate::settings::{ClockSource, RedisSettings};
use crate::shard::{KEY_PREFIX_MAX, Keys, SHARDS_MAX, is_key_prefix, shard_of};

/// Version of the storage layout. A newer one is refused, because this code would misread it.
const FORMAT: u32 = 1;

/// Maximum messages in one script call: Lua's stack holds about 8,000 values.
const BATCH_MAX: usize = 1_000;

/// Queue in Redis.
pub struct RedisQueue {
    settings: RedisSettings,
    /// Identity of this deployment: that of the settings, and the secrets since.
    owner: Live<Owner>,
    due_times: ClockSource,
    scripts: Arc<Scripts>,
    servers: Servers,
    shards: Arc<[Shard]>,
    /// Consumer name of this process in the groups.
    consumer: String,
    /// Shard at which the next lease starts.
    next_start: AtomicUsize,
    reaped_at: Mutex<Option<Instant>>,
    listener: Arc<listener::Listener>,
    unanswered: lease::Unanswered,
}

struct Shard {
    index: usize,
    keys: Keys,
    /// Known epoch of the shard's data; `None` until set up. It changes when the data is lost.
    epoch: Mutex<Option<String>>,
    idle: idle::Idle,
}

impl Shard {
    fn is_known(&self) -> bool {
        lock(&self.epoch).is_some()
    }

    /// Marks the shard as possibly having due messages: the next lane to ask polls it.
    fn wake(&self) {
        self.idle.end();
    }
}

impl RedisQueue {
    /// Creates a queue at `redis://[USER[:PASSWORD]@]HOST[:PORT][/DB]`, `rediss://…` with TLS,
    /// `redis+sentinel://…@HOST:PORT,HOST:PORT/SERVICE[/DB]` or `redis+cluster://…@HOST:PORT,HOST:PORT`. Does
    /// not connect yet: each call connects as needed.
    ///
    /// # Errors
    /// Fails if the settings can't be used.
    pub fn new(settings: RedisSettings, due_times: ClockSource) -> Result<Self, QueueError> {
        // Two TLS providers may be linked in; without a choice the first TLS connection would panic. An error
        // means that one was chosen already.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let address = Address::of(&settings)?;
        let shards = settings.shards.clamp(1, SHARDS_MAX);
        if !is_key_prefix(&settings.key_prefix) {
            return Err(QueueError::Deployment(format!(
                "redis_key_prefix is {:?}; write 1 to {KEY_PREFIX_MAX} letters, digits, _, - and .",
                settings.key_prefix
            )));
        }
        let keys: Vec<Keys> = (0..shards).map(|shard| Keys::of(&settings.key_prefix, shard)).collect();
        let options = Options {
            strict: settings.strict,
            trusted: settings.trusted,
            replicas: settings.replicas,
            call_timeout: settings.call_timeout,
            restarted: Arc::default(),
        };
        let tagged: Vec<&str> = keys.iter().map(Keys::messages).collect();
        let servers = Servers::new(address, options, &tagged)?;
        let shard =
            |(index, keys)| Shard { index, keys, epoch: Mutex::new(None), idle: idle::Idle::default() };
        Ok(Self {
            owner: Live::new(settings.owner.clone()),
            settings: RedisSettings { shards, ..settings },
            due_times,
            scripts: Arc::new(Scripts::new()),
            servers,
            shards: keys.into_iter().enumerate().map(shard).collect(),
            consumer: consumer_name(),
            next_start: AtomicUsize::new(0),
            reaped_at: Mutex::new(None),
            listener: Arc::default(),
            unanswered: lease::Unanswered::default(),
        })
    }

    fn shard_of(&self, id: &str) -> usize {
        usize::from(shard_of(id, self.settings.shards))
    }

    /// Shards in which a message may be: one, unless another program than Rollbook stored it.
    fn shards_of(&self, id: &MessageId) -> std::ops::Range<usize> {
        if id::is_binary(id.as_str()) {
            return 0..self.shards.len();
        }
        let shard = self.shard_of(id.as_str());
        shard..shard + 1
    }

    /// Maximum number of messages per shard that are not settled.
    fn depth_max(&self) -> u64 {
        self.settings.depth_max.div_ceil(u64::from(self.settings.shards))
    }

    /// Starts the command that calls a script on a shard; the caller adds the script's arguments.
    fn command(&self, script: &Script, keys: &Keys) -> Cmd {
        let mut command = redis::cmd("EVALSHA");
        command.arg(script.get_hash()).arg(keys.all().len()).arg(keys.all()).arg(self.due_times.argument());
        command
    }

    /// Sets the shard up unless that is known to be done.
    async fn ensure_set_up(&self, shard: &Shard) -> Result<(), QueueError> {
        if shard.is_known() {
            return Ok(());
        }
        // The first shard before all others: if the data has another number of shards, only the first surely
        // exists.
        let first = &self.shards[0];
        if !first.is_known()
            && let Err(error) = self.set_up(first).await
        {
            let is_elsewhere = shard.index != first.index && matches!(error, QueueError::Unavailable(_));
            if !is_elsewhere {
                return Err(error);
            }
            // The first shard is unreachable for every process that needs it: the data of another shard
            // decides.
            self.load_meta(shard).await?;
            if shard.is_known() {
                return Ok(());
            }
            if !self.shards.iter().any(Shard::is_known) {
                return Err(error);
            }
        }
        if shard.is_known() { Ok(()) } else { self.set_up(shard).await }
    }

    /// Refuses a shard that this process can't use; never sets one up.
    async fn ensure_compatible(&self, shard: &Shard) -> Result<(), QueueError> {
        if shard.is_known() {
            return Ok(());
        }
        let first = &self.shards[0];
        if !first.is_known() && shard.index != first.index {
            match self.load_meta(first).await {
                Ok(()) | Err(QueueError::Unavailable(_)) => {}
                Err(error) => return Err(error),
            }
        }
        self.load_meta(shard).await
    }
}

/// Returns a consumer name that is unique for each process and shows host and process id to operators.
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
        self.store_owner().await
    }

    fn note_secrets(&self, fingerprints: &[String]) {
        self.owner.replace(self.owner.current().with_secrets(fingerprints));
    }

    async fn probe(&self) -> Result<bool, QueueError> {
        self.write_probe().await.map(|()| true)
    }
}

#[async_trait]
impl Consumer for RedisQueue {
    async fn lease(&self, request: LeaseRequest) -> Result<Vec<Lease>, QueueError> {
        self.lease_or_wait(request).await
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
        self.servers.address().protection()
    }

    async fn stats(&self) -> Result<QueueStats, QueueError> {
        self.read_stats().await
    }

    async fn dead_letters(&self, page: &DeadLetterPage) -> Result<Vec<DeadLetter>, QueueError> {
        self.with_bodies(&self.find_dead(page).await?).await
    }

    async fn newest_dead_letters(&self, page: &DeadLetterPage) -> Result<Vec<DeadLetter>, QueueError> {
        self.list_newest_dead(page).await
    }

    async fn sum_dead_letters(&self, page: &DeadLetterPage) -> Result<DeadLetterSums, QueueError> {
        self.sum_dead(page).await
    }

    async fn discards(&self, id: &MessageId) -> Result<Vec<Discard>, QueueError> {
        self.find_discards(id).await
    }

    async fn redrive(&self, page: &DeadLetterPage) -> Result<BulkStep, QueueError> {
        self.step(page, &self.scripts.redrive, self.depth_max()).await
    }

    async fn discard(&self, page: &DeadLetterPage) -> Result<BulkStep, QueueError> {
        self.step(page, &self.scripts.discard, DISCARDS_KEPT as u64).await
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

    async fn count_dead_letters(&self, page: &DeadLetterPage) -> Result<BulkStep, QueueError> {
        let (found, next) = self.next_dead(page).await?;
        Ok(BulkStep { changed: found.len(), next })
    }

    async fn restarted(&self) {
        self.servers.restarted().await;
    }

    async fn audit(&self, repair: bool) -> Result<Audit, QueueError> {
        let mut audit = Audit::default();
        for shard in &*self.shards {
            self.audit_shard(shard, repair, &mut audit).await?;
        }
        Ok(audit)
    }

    async fn durability(&self) -> Result<Durability, QueueError> {
        self.servers.durability().await
    }

    async fn space(&self) -> Result<StorageSpace, QueueError> {
        self.read_space().await
    }
}
