//! Records of discarded dead letters: a stream for each shard, written by discard.lua.

use redis::cmd;
use rollbook_core::delivery::MessageId;
use rollbook_core::queue::{Discard, QueueError};
use rollbook_core::time::Timestamp;

use super::RedisQueue;
use super::dead_letter_entry::parse_failure;
use crate::id;

/// Maximum records read in one call.
const PAGE: usize = 1_000;

/// Entry of the stream: its id, and names and values in turn.
type Entry = (String, Vec<Vec<u8>>);

impl RedisQueue {
    /// Returns the records of discards of this message. A stream has no index by message: it is read to its end, at
    /// most [`DISCARDS_KEPT`](rollbook_core::queue::DISCARDS_KEPT) records.
    pub(super) async fn find_discards(&self, id: &MessageId) -> Result<Vec<Discard>, QueueError> {
        let stored = id::stored(id.as_str());
        let mut found = Vec::new();
        for index in self.shards_of(id) {
            let shard = &self.shards[index];
            let mut from = "-".to_owned();
            loop {
                let mut command = cmd("XRANGE");
                command.arg(shard.keys.discarded()).arg(&from).arg("+").arg("COUNT").arg(PAGE);
                let page: Vec<Entry> = self.read(shard, &command).await?;
                found.extend(page.iter().filter_map(|entry| record_of(entry, &stored)));
                match page.last() {
                    Some((last, _)) if page.len() == PAGE => from = format!("({last}"),
                    _ => break,
                }
            }
        }
        found.sort_by_key(|record| record.discarded_at);
        Ok(found)
    }
}

/// Reads a record, if it is of this message.
fn record_of((entry, fields): &Entry, stored: &[u8]) -> Option<Discard> {
    let [_, id, _, failure] = fields.as_slice() else { return None };
    if id != stored {
        return None;
    }
    let at = entry.split('-').next().and_then(|at| at.parse().ok()).unwrap_or_default();
    let discarded_at = Timestamp::from_millis(at);
    let failure = String::from_utf8_lossy(failure);
    let (parked_at, attempts, failure) = parse_failure(Some(&failure), discarded_at);
    Some(Discard { discarded_at, parked_at, attempts, failure })
}
