//! Dead letters: listing, summing, showing, redriving and discarding them.

mod follower;
mod summary;

use std::time::Duration;

use rollbook_core::delivery::MessageId;
use rollbook_core::queue::{BulkStep, DeadLetter, DeadLetterFilter, DeadLetterPage, QueueAdmin, QueueError};
use rollbook_core::retry::Reason;
use rollbook_core::time::Timestamp;
use rollbook_core::trace::Traceparent;
use serde::Serialize;

pub use self::follower::{FOLLOWED_MAX, Follower};
pub use self::summary::{Group, Summary, summary};
use crate::DEAD_LETTERS_PAGE;
use crate::words::thousands;

/// Dead letters per step of a bulk operation. A step is one transaction, and deliveries wait for at most one step.
const STEP: usize = 500;
/// Dead letters per step of counting, which reads no bodies.
const COUNT_STEP: usize = 5_000;
/// Pause between two steps, which leaves the queue to deliveries and workers.
const PAUSE: Duration = Duration::from_millis(5);
/// Maximum number of attempts of a step while the queue is busy or unreachable.
const ATTEMPTS_MAX: u32 = 8;
/// Increase of the wait between two attempts.
const RETRY_AFTER: Duration = Duration::from_millis(250);

/// A dead letter, without its body unless requested.
#[derive(Debug, Serialize)]
pub struct DeadLetterView {
    /// Message id (`svix-id`).
    pub id: MessageId,
    /// Event type, if known.
    #[serde(rename = "type")]
    pub event_type: Option<String>,
    /// Reason of the last failure.
    pub reason: Reason,
    /// Details of the last failure.
    pub detail: String,
    /// Number of counted attempts.
    pub attempts: u32,
    /// Time at which the receiver had read the delivery.
    pub received_at: Timestamp,
    /// Time at which the message became a dead letter.
    pub parked_at: Timestamp,
    /// Length of the body in bytes.
    pub body_bytes: usize,
    /// Trace context of the delivery.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub traceparent: Option<Traceparent>,
    /// Signed bytes, as text. Contains personal data.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub body: Option<String>,
}

impl From<DeadLetter> for DeadLetterView {
    fn from(letter: DeadLetter) -> Self {
        Self {
            id: letter.id,
            event_type: letter.failure.event_type,
            reason: letter.failure.reason,
            detail: letter.failure.detail,
            attempts: letter.attempts,
            received_at: letter.received_at,
            parked_at: letter.parked_at,
            body_bytes: letter.body.len(),
            traceparent: letter.traceparent,
            body: None,
        }
    }
}

/// Returns at most `limit` dead letters that match, newest first. Reads them page by page.
///
/// # Errors
/// The queue cannot be read.
pub async fn list(
    queue: &dyn QueueAdmin,
    filter: &DeadLetterFilter,
    limit: usize,
) -> Result<Vec<DeadLetterView>, QueueError> {
    let (mut listed, mut before) = (Vec::new(), None);
    while listed.len() < limit {
        let room = DEAD_LETTERS_PAGE.min(limit - listed.len());
        let page = queue.newest_dead_letters(&filter.page(before, room)).await?;
        // A page may have fewer than requested: only an empty page is the end.
        let Some(last) = page.last() else { break };
        before = Some(last.position);
        listed.extend(page.into_iter().map(DeadLetterView::from));
    }
    listed.truncate(limit);
    Ok(listed)
}

/// Returns one dead letter, with its body if requested; `None` if there is none with this id.
///
/// # Errors
/// The queue cannot be read.
pub async fn show(
    queue: &dyn QueueAdmin,
    id: &str,
    with_body: bool,
) -> Result<Option<DeadLetterView>, QueueError> {
    let filter = DeadLetterFilter { id: Some(MessageId::new(id)), ..DeadLetterFilter::default() };
    let Some(letter) = queue.dead_letters(&filter.page(None, 1)).await?.pop() else { return Ok(None) };
    let body = with_body.then(|| String::from_utf8_lossy(&letter.body).into_owned());
    Ok(Some(DeadLetterView { body, ..letter.into() }))
}

/// Kind of a bulk operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// Returns dead letters to the queue.
    Redrive,
    /// Removes dead letters.
    Discard,
}

impl Change {
    /// Returns the past participle, which is also the JSON key of the count.
    pub const fn done(self) -> &'static str {
        match self {
            Self::Redrive => "redriven",
            Self::Discard => "discarded",
        }
    }

    async fn step(self, queue: &dyn QueueAdmin, page: &DeadLetterPage) -> Result<BulkStep, QueueError> {
        match self {
            Self::Redrive => queue.redrive(page).await,
            Self::Discard => queue.discard(page).await,
        }
    }
}

/// Limits of a bulk operation.
#[derive(Clone, Copy, Debug)]
pub struct BulkLimits {
    /// Maximum number of dead letters, oldest first.
    pub total: usize,
    /// Maximum number per second.
    pub per_second: Option<u32>,
    /// Whether matching dead letters are only counted.
    pub dry_run: bool,
}

/// Result of a bulk operation, complete or not.
#[derive(Debug, Serialize)]
pub struct BulkResult {
    /// Number of dead letters that matched.
    pub matching: usize,
    /// Number of dead letters redriven; `None` for another operation.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub redriven: Option<usize>,
    /// Number of dead letters discarded; `None` for another operation.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub discarded: Option<usize>,
    /// Whether matching dead letters were only counted.
    pub dry_run: bool,
    /// Error that ended the operation early.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

impl BulkResult {
    /// Number of dead letters that were changed.
    pub fn done(&self) -> usize {
        self.redriven.or(self.discarded).unwrap_or_default()
    }
}

/// Redrives or discards dead letters in steps. `progress` is called after each step with a line of text. It
/// is only formatted when `progress` calls its argument.
pub async fn change(
    queue: &dyn QueueAdmin,
    filter: &DeadLetterFilter,
    change: Change,
    limits: BulkLimits,
    progress: &(dyn Fn(&dyn Fn() -> String) + Send + Sync),
) -> BulkResult {
    let mut bulk = Bulk { queue, filter, change, matching: 0, done: 0, progress };
    // Counted first: a redriven message that becomes a dead letter again must not be redriven without end.
    let mut outcome = bulk.count(limits.total).await;
    if outcome.is_ok() && !limits.dry_run {
        outcome = bulk.run(limits.per_second).await;
    }
    BulkResult {
        matching: bulk.matching,
        redriven: (change == Change::Redrive).then_some(bulk.done),
        discarded: (change == Change::Discard).then_some(bulk.done),
        dry_run: limits.dry_run,
        error: outcome.err().map(|error| error.to_string()),
    }
}

/// A bulk operation in progress.
struct Bulk<'a> {
    queue: &'a dyn QueueAdmin,
    filter: &'a DeadLetterFilter,
    change: Change,
    /// Number of dead letters that match; while they are counted, so far.
    matching: usize,
    done: usize,
    progress: &'a (dyn Fn(&dyn Fn() -> String) + Send + Sync),
}

impl Bulk<'_> {
    /// Counts the dead letters that match, at most `limit`.
    async fn count(&mut self, limit: usize) -> Result<(), QueueError> {
        let mut after = None;
        loop {
            let (queue, page) = (self.queue, self.filter.page(after, COUNT_STEP));
            let step = with_retries(|| queue.count_dead_letters(&page)).await?;
            self.matching = limit.min(self.matching + step.changed);
            after = step.next;
            if after.is_none() || self.matching == limit {
                return Ok(());
            }
            let matching = self.matching as u64;
            (self.progress)(&|| format!("{} dead letters match so far", thousands(matching)));
        }
    }

    /// Changes the counted dead letters, at most `rate` per second.
    async fn run(&mut self, rate: Option<u32>) -> Result<(), QueueError> {
        let mut seconds = tokio::time::interval(Duration::from_secs(1));
        let (mut after, mut is_over) = (None, self.matching == 0);
        while !is_over {
            let mut left_in_second = self.matching - self.done;
            if let Some(rate) = rate {
                seconds.tick().await;
                left_in_second = left_in_second.min(rate as usize);
            }
            while left_in_second > 0 && !is_over {
                let (change, queue) = (self.change, self.queue);
                let page = self.filter.page(after, left_in_second.min(STEP));
                let step = with_retries(|| change.step(queue, &page)).await?;
                self.done += step.changed;
                left_in_second -= step.changed.min(left_in_second);
                after = step.next;
                is_over = after.is_none() || self.done >= self.matching;
                let (done, matching) = (self.done as u64, self.matching as u64);
                let shown = || format!("{} of {} {}", thousands(done), thousands(matching), change.done());
                (self.progress)(&shown);
                tokio::time::sleep(PAUSE).await;
            }
        }
        Ok(())
    }
}

/// Makes a call, and repeats it while the queue is busy or unreachable for a short time. A step with a lost
/// answer is not applied twice: the messages it changed are not dead letters any more.
async fn with_retries<T, Call>(mut call: impl FnMut() -> Call) -> Result<T, QueueError>
where
    Call: Future<Output = Result<T, QueueError>>,
{
    let mut attempts = 0;
    loop {
        let error = match call().await {
            Ok(done) => return Ok(done),
            Err(error) => error,
        };
        attempts += 1;
        if attempts >= ATTEMPTS_MAX || !matches!(error, QueueError::Unavailable(_)) {
            return Err(error);
        }
        tokio::time::sleep(RETRY_AFTER * attempts).await;
    }
}

#[cfg(test)]
mod tests;
