//! New dead letters, in turns.

use std::collections::BTreeSet;
use std::time::Duration;

use rollbook_core::delivery::MessageId;
use rollbook_core::queue::{DeadLetterFilter, QueueAdmin, QueueError};
use rollbook_core::time::Timestamp;

use super::DeadLetterView;

/// Time over which each turn reads back.
const OVERLAP: Duration = Duration::from_secs(10);
/// Maximum number of dead letters that a turn returns.
pub const FOLLOWED_MAX: usize = 10_000;
/// Dead letters per page: a turn usually finds none or one.
const PAGE: usize = 16;

/// Reader of dead letters that it has not returned yet.
///
/// Positions of different shards follow the clocks of their servers, so a dead letter may appear before one that was returned
/// already. Each turn reads back over ten seconds.
#[derive(Debug, Default)]
pub struct Follower {
    /// Dead letters of the last turns that may be read again.
    returned: BTreeSet<(Timestamp, MessageId)>,
    newest_at: Option<Timestamp>,
    /// Time before which nothing is returned: a turn was full, and older ones were left out.
    floor: Option<Timestamp>,
}

impl Follower {
    /// Returns the dead letters that appeared since the last turn, oldest first; at most [`FOLLOWED_MAX`], the newest. The
    /// first turn returns those that exist.
    ///
    /// # Errors
    /// The queue cannot be read.
    pub async fn turn(
        &mut self,
        queue: &dyn QueueAdmin,
        filter: &DeadLetterFilter,
    ) -> Result<Vec<DeadLetterView>, QueueError> {
        let from = self.newest_at.map(|newest| newest.minus(OVERLAP)).max(self.floor);
        let (mut new, mut before) = (Vec::new(), None);
        'pages: loop {
            let page = queue.newest_dead_letters(&filter.page(before, PAGE)).await?;
            // A page may have fewer than requested: only an empty page is the end.
            let Some(last) = page.last() else { break };
            before = Some(last.position);
            for letter in page.into_iter().map(DeadLetterView::from) {
                if from.is_some_and(|from| letter.parked_at < from) || new.len() == FOLLOWED_MAX {
                    break 'pages;
                }
                if !self.returned.contains(&(letter.parked_at, letter.id.clone())) {
                    new.push(letter);
                }
            }
        }
        new.reverse();
        for letter in &new {
            self.newest_at = self.newest_at.max(Some(letter.parked_at));
            self.returned.insert((letter.parked_at, letter.id.clone()));
        }
        if new.len() == FOLLOWED_MAX {
            self.floor = new.first().map(|oldest| oldest.parked_at.plus(Duration::from_millis(1)));
        }
        if let Some(from) = self.newest_at.map(|newest| newest.minus(OVERLAP)) {
            self.returned.retain(|(parked_at, _)| *parked_at >= from);
        }
        Ok(new)
    }
}
