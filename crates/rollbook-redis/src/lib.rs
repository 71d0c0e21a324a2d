//! The queue on Redis: 7.0 or newer, alone, behind sentinels, or a cluster.
//!
//! Constraints:
//!
//! * What is acknowledged is on the server's disk, or it is said that it is not (`durability.rs`).
//! * A batch is one call of one script, whatever its size: Redis flushes once for each turn of its loop.
//! * A step never acknowledges before it has written: whatever breaks off, a message is twice there
//!   rather than not at all.
//! * The server's clock decides what is due: processes on several machines share no other.
//! * Every error is of one of three kinds: it passes, there is no room, or a person must mend something.

mod address;
mod backend;
mod connection;
mod durability;
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
mod value;

pub use owner::Owner;
pub use queue::{FullCoverage, Ownership, RedisQueue};
pub use settings::{DueTimes, RedisSettings};
pub use shard::{KEY_PREFIX, KEY_PREFIX_MAX, is_key_prefix};
