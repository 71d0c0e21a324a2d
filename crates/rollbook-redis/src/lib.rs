//! Queue on Redis 7.0 or newer: a single server, a master behind sentinels, or a cluster.
//!
//! Constraints:
//!
//! * Acknowledged data is on the server's disk, or the queue reports itself as degraded (`durability.rs`).
//! * A batch is one call of one script, whatever its size: Redis flushes its log once per event-loop
//!   iteration.
//! * No step acknowledges before it has written: after an interruption a message may exist twice, but is
//!   never missing.
//! * The server's clock decides when a message is due: it is the only clock that processes on several
//!   machines share.
//! * Every error has one of three kinds: temporary, no room, or manual action needed.

mod address;
mod backend;
mod certificate;
mod connection;
mod durability;
mod failure;
mod fault;
mod id;
mod owner;
mod pool;
mod queue;
mod scripts;
mod servers;
mod settings;
mod shard;
mod slots;
mod tls;
mod value;

pub use certificate::Fingerprint;
pub use owner::Owner;
pub use queue::{FullCoverage, Ownership, RedisQueue};
pub use settings::{ClockSource, RedisSettings};
pub use shard::{KEY_PREFIX, KEY_PREFIX_MAX, is_key_prefix};
