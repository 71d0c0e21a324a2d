//! Removing messages for good.
//!
//! A message that is delayed, leased again or dead is found by its id. One that is new is an entry in a stream
//! which may hold a million, and which knows no ids: it is searched here, page by page, so that no script holds up the
//! others, and the script then judges what was found.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::time::Duration;

use redis::cmd;
use rollbook_core::delivery::MessageId;
use rollbook_core::queue::QueueError;
use rollbook_core::time::Timestamp;

use super::{BATCH_MAX, RedisQueue, Shard};
use crate::id;

/// Where every stream begins.
const BEGINNING: &str = "-";

/// How many entries are looked at in one call.
const PAGE: usize = 1_000;

/// A message's entry is made soon after the message was received. Both clocks are read: so far may they differ, or
/// the search takes longer.
const CLOCKS_DIFFER_BY: Duration = Duration::from_secs(2);

/// How often a stream is searched for messages that were not there the last time: they must have come meanwhile, by
/// thousands.
const SEARCHES_MAX: usize = 100;

/// What a search of the stream of the new has brought.
struct Search {
    /// Entries, by the messages' ids.
    entries: HashMap<Vec<u8>, String>,
    /// From where on the stream has not been searched.
    from: String,
}

/// An entry of a stream: its id, and the fields' names and values.
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
            // As safe as what is taken in: what is erased must not be there again after a power cut.
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
        Err(QueueError::Unavailable(format!("{address}: messages come faster than they can be searched")))
    }
}

impl Search {
    /// Looks for these ids in the stream: first where their messages ought to be, by the time of their receipt.
    async fn run(queue: &RedisQueue, shard: &Shard, ids: &[Vec<u8>], since: i64) -> Result<Self, QueueError> {
        let wanted: HashSet<&[u8]> = ids.iter().map(Vec::as_slice).collect();
        let since = Timestamp::from_millis(since).minus(CLOCKS_DIFFER_BY).as_millis().max(0);
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
            // What comes while this goes on has its entry behind the last of all, which the first part has seen
            // unless it is empty.
            end = end.or(behind);
        }
        Ok(Self { entries, from: end.unwrap_or_else(|| BEGINNING.to_owned()) })
    }
}
