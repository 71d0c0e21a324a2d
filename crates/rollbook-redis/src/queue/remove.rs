//! Permanent removal of messages.
//!
//! A delayed, leased or dead message is found by its id. A new message is an entry of a stream that may hold
//! a million entries and has no index by id: it is searched here page by page, so that no script blocks the
//! server for long, and the script then decides about the entries found.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::time::Duration;

use redis::cmd;
use rollbook_core::delivery::MessageId;
use rollbook_core::queue::QueueError;
use rollbook_core::time::Timestamp;

use super::{BATCH_MAX, RedisQueue, Shard};
use crate::id;

/// Start of every stream.
const BEGINNING: &str = "-";

/// Maximum entries read in one call.
const PAGE: usize = 1_000;

/// Assumed maximum difference between the receiver's clock and the server's: an entry is created soon after
/// its message is received. A larger difference only makes the search slower.
const CLOCK_DIFFERENCE_MAX: Duration = Duration::from_secs(2);

/// Maximum searches of a stream for messages that the search before did not contain: thousands of messages
/// must have arrived in between.
const SEARCHES_MAX: usize = 100;

/// Result of a search in the stream of new messages.
struct Search {
    /// Entries by message id.
    entries: HashMap<Vec<u8>, String>,
    /// Start of the part that was not searched.
    from: String,
}

/// Stream entry: its id, and the names and values of its fields.
type Entry = (String, Vec<Vec<u8>>);

impl RedisQueue {
    pub(super) async fn remove_messages(&self, ids: &[MessageId]) -> Result<usize, QueueError> {
        let mut parts: BTreeMap<usize, BTreeSet<Vec<u8>>> = BTreeMap::new();
        for id in ids {
            for shard in self.shards_of(id) {
                parts.entry(shard).or_default().insert(id::stored(id.as_str()).into_owned());
            }
        }
        let mut removed = 0;
        for (shard, part) in parts {
            let part: Vec<Vec<u8>> = part.into_iter().collect();
            for piece in part.chunks(BATCH_MAX) {
                removed += self.remove_piece(shard, piece).await?;
            }
        }
        Ok(removed)
    }

    async fn remove_piece(&self, index: usize, ids: &[Vec<u8>]) -> Result<usize, QueueError> {
        let shard = &self.shards[index];
        let (mut left, mut removed) = (ids.to_vec(), 0);
        let mut search = Search { entries: HashMap::new(), from: BEGINNING.to_owned() };
        for _ in 0..=SEARCHES_MAX {
            // Confirmed like a delivery: an erased message must not reappear after a power failure.
            let (count, unfound, since): (usize, Vec<Vec<u8>>, i64) = self
                .call_confirmed(&self.scripts.remove, shard, |command| {
                    command.arg(&search.from).arg(left.len());
                    for id in &left {
                        command.arg(id);
                    }
                    for id in &left {
                        command.arg(search.entries.get(id).map_or("", String::as_str));
                    }
                })
                .await?;
            removed += count;
            if unfound.is_empty() {
                return Ok(removed);
            }
            left = unfound;
            search = Search::run(self, shard, &left, since).await?;
        }
        let address = self.address();
        Err(QueueError::Unavailable(format!("{address}: messages arrive faster than they can be searched")))
    }
}

impl Search {
    /// Searches the stream for these ids: first where they should be by their time of receipt.
    async fn run(queue: &RedisQueue, shard: &Shard, ids: &[Vec<u8>], since: i64) -> Result<Self, QueueError> {
        let wanted: HashSet<&[u8]> = ids.iter().map(Vec::as_slice).collect();
        let since = Timestamp::from_millis(since).minus(CLOCK_DIFFERENCE_MAX).as_millis().max(0);
        let start = format!("{since}-0");
        let (mut entries, mut end) = (HashMap::with_capacity(ids.len()), None);
        for (first, last) in [(start.as_str(), "+"), (BEGINNING, start.as_str())] {
            let mut behind = None;
            loop {
                let mut command = cmd("XRANGE");
                command
                    .arg(shard.keys.new_messages())
                    .arg(behind.as_deref().unwrap_or(first))
                    .arg(last)
                    .arg("COUNT")
                    .arg(PAGE);
                let page: Vec<Entry> = queue.read(shard, &command).await?;
                let is_last = page.len() < PAGE;
                for (entry, mut fields) in page {
                    behind = Some(format!("({entry}"));
                    if fields.get(1).is_some_and(|id| wanted.contains(&id[..])) {
                        entries.insert(fields.swap_remove(1), entry);
                    }
                }
                if entries.len() == wanted.len() {
                    return Ok(Self { entries, from: BEGINNING.to_owned() });
                }
                if is_last {
                    break;
                }
            }
            // Entries added during the search follow the last entry, which the first part has seen unless it
            // is empty.
            end = end.or(behind);
        }
        Ok(Self { entries, from: end.unwrap_or_else(|| BEGINNING.to_owned()) })
    }
}
