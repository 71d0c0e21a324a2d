//! A dead letter as the indexes have it, and its position in the listing of all shards.

use rollbook_core::queue::{DeadLetter, DeadLetterFilter, DeadLetterPosition};
use rollbook_core::retry::{Failure, Reason};
use rollbook_core::time::Timestamp;
use serde_json::Value;

use crate::id;
use crate::shard::SHARDS_MAX;
use crate::value::{self, Stored};

/// Positions of dead letters per millisecond (settle.lua).
const POSITIONS_A_MILLISECOND: i64 = 1024;

/// Detail of a dead letter without a readable reason.
const UNKNOWN: &str = "reason unknown: its entry in failures is missing or unreadable";

/// Dead letter without its body.
pub(super) struct Found {
    pub(super) position: DeadLetterPosition,
    pub(super) shard: usize,
    pub(super) id: Vec<u8>,
    pub(super) parked_at: Timestamp,
    pub(super) attempts: u32,
    pub(super) failure: Failure,
}

/// Returns the number of a shard.
#[expect(clippy::cast_possible_wrap, reason = "there are at most 64 shards")]
const fn number(shard: usize) -> i64 {
    shard as i64
}

/// Converts a shard's local position to one that is unique over all shards.
pub(super) fn listing_position(local: i64, shard: usize) -> DeadLetterPosition {
    DeadLetterPosition(local * i64::from(SHARDS_MAX) + number(shard))
}

/// Returns the last local position of a shard that does not follow `position`.
pub(super) fn local_position(position: DeadLetterPosition, shard: usize) -> i64 {
    (position.0 - number(shard)).div_euclid(i64::from(SHARDS_MAX))
}

/// Returns the last local position of a shard that precedes `position`.
pub(super) fn local_before(position: DeadLetterPosition, shard: usize) -> i64 {
    local_position(DeadLetterPosition(position.0 - 1), shard)
}

/// Parses an entry in `failures`: the time at which it became a dead letter, the number of attempts, and the reason.
pub(super) fn parse_failure(failure: Option<&str>, otherwise_at: Timestamp) -> (Timestamp, u32, Failure) {
    let parts = failure.and_then(|failure| failure.split_once(' '));
    let failure: Option<Value> = parts.and_then(|(_, failure)| serde_json::from_str(failure).ok());
    let is_known = failure.is_some();
    let failure = failure.unwrap_or_default();
    let text = |key: &str| failure[key].as_str();
    let parked_at = parts.and_then(|(parked_at, _)| parked_at.parse().ok()).map(Timestamp::from_millis);
    let attempts = failure["attempts"].as_u64().and_then(|count| u32::try_from(count).ok()).unwrap_or(0);
    let failure = Failure {
        // An unknown reason was written by a newer build.
        reason: text("reason").and_then(Reason::parse).unwrap_or(Reason::CorruptEntry),
        detail: if is_known { text("detail").unwrap_or_default() } else { UNKNOWN }.to_owned(),
        event_type: text("event_type").map(str::to_owned),
    };
    (parked_at.unwrap_or(otherwise_at), attempts, failure)
}

impl Found {
    /// Builds a dead letter from its indexes. Missing values are reported as unknown: it is listed in any
    /// case.
    pub(super) fn read(id: Vec<u8>, local: i64, shard: usize, failure: Option<&str>) -> Self {
        // The position starts with the time (settle.lua).
        let at = Timestamp::from_millis(local / POSITIONS_A_MILLISECOND);
        let (parked_at, attempts, failure) = parse_failure(failure, at);
        Self { position: listing_position(local, shard), shard, id, parked_at, attempts, failure }
    }

    pub(super) fn matches(&self, filter: &DeadLetterFilter) -> bool {
        let DeadLetterFilter { id, event_type, reason, since } = filter;
        id.as_ref().is_none_or(|id| *id::stored(id.as_str()) == self.id[..])
            && event_type.as_ref().is_none_or(|wanted| self.failure.event_type.as_ref() == Some(wanted))
            && reason.as_ref().is_none_or(|reason| self.failure.reason.as_str() == reason)
            && since.is_none_or(|since| self.parked_at >= since)
    }

    pub(super) fn letter(&self, stored: &[u8]) -> DeadLetter {
        let Stored { received_at, traceparent, body } = value::show(stored);
        DeadLetter {
            position: self.position,
            id: id::to_message_id(&self.id),
            received_at,
            traceparent,
            parked_at: self.parked_at,
            attempts: self.attempts,
            failure: self.failure.clone(),
            body,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn in_every_shard_a_page_starts_after_the_last_letter_of_the_previous_page_in_both_directions() {
        for (shard, local) in [(0, 5), (3, 5), (63, 7)] {
            let last = listing_position(local, shard);
            for other in 0..64 {
                for candidate in local - 1..=local + 1 {
                    let is_behind = listing_position(candidate, other) > last;
                    assert_eq!(
                        candidate > local_position(last, other),
                        is_behind,
                        "{shard} {other} {candidate}"
                    );
                    let is_before = listing_position(candidate, other) < last;
                    assert_eq!(
                        candidate <= local_before(last, other),
                        is_before,
                        "{shard} {other} {candidate}"
                    );
                }
            }
        }
    }
}
