//! Settings of one forward.

use std::time::Duration;

use rollbook_core::catalog::Resource;
use rollbook_core::live::Live;
use rollbook_core::retry::RetryPolicy;
use rollbook_core::signature::SigningSecrets;
use rollbook_core::store::{ChangeKind, ChangeLine, ChangeOrigin, Forward};
use rollbook_operator::forwards::{FORWARD_FAILED_MAX, FORWARD_WAITING_MAX, full};

/// Maximum number of forwards of a process. Each has labels of its own in the metrics.
pub const FORWARDS_MAX: usize = 16;
/// Maximum length of a forward's name, in bytes.
pub const NAME_LENGTH_MAX: usize = 64;
/// Maximum time for one request.
pub const TIMEOUT_MAX: Duration = Duration::from_secs(30);
/// Maximum number of requests of a forward at once.
pub const CONCURRENCY_MAX: u64 = 64;
/// Maximum of `slow_max`.
pub const SLOW_MAX: u64 = 256;

/// Number of open changes (read, and neither delivered nor recorded) at which no further page is read.
pub(crate) const FRESH_MAX: usize = 1_000;
/// Maximum number of those of one user, organization or other row.
pub(crate) const FRESH_OF_SUBJECT_MAX: usize = 64;
/// Maximum time that is spent on the body of an answer, in addition to the time limit of the request.
pub(crate) const BODY_PATIENCE: Duration = Duration::from_secs(1);
/// Lines of one page.
pub(crate) const PAGE: usize = 500;
/// Time by which a hold outlasts one request: saves renew it more often.
pub(crate) const HOLD_MARGIN: Duration = Duration::from_secs(10);

/// Settings of one forward.
#[derive(Clone, Debug)]
pub struct ForwardSettings {
    /// Name: letters, digits, `_` and `-`.
    pub name: String,
    /// Secrets, which may be replaced at any time. Each request has a signature by each of them.
    pub secrets: Live<SigningSecrets>,
    /// Resources; empty selects all.
    pub resources: Vec<&'static Resource>,
    /// Kinds; empty selects all.
    pub kinds: Vec<ChangeKind>,
    /// Whether a request has the row as it is then.
    pub expand: bool,
    /// Whether changes of a backfill are sent too.
    pub backfill: bool,
    /// Maximum time for one request, at most [`TIMEOUT_MAX`].
    pub timeout: Duration,
    /// Maximum number of requests at once.
    pub concurrency: usize,
    /// Maximum number of first attempts in addition: those that take longer than a second while the endpoint accepts other
    /// changes within that time.
    pub slow_max: usize,
    /// Backoff, and the number of attempts that count after which a change becomes a dead letter.
    pub retry: RetryPolicy,
    /// Time since the first failure after which a change becomes a dead letter, however few attempts counted.
    pub give_up_after: Duration,
    /// Number of blocked subjects at which the forward reads no more.
    pub blocked_max: usize,
}

impl ForwardSettings {
    /// Whether a line of the feed is sent.
    pub(crate) fn selects(&self, line: &ChangeLine) -> bool {
        let has_resource =
            self.resources.is_empty() || self.resources.iter().any(|known| known.table == line.resource);
        let has_kind = self.kinds.is_empty() || self.kinds.contains(&line.kind);
        has_resource && has_kind && (self.backfill || line.origin != ChangeOrigin::Backfill)
    }

    /// Reason why the forward reads no more, by the numbers that the store has.
    pub(crate) fn full(&self, forward: &Forward) -> Option<String> {
        let (waiting, failed) =
            ((forward.waiting, FORWARD_WAITING_MAX), (forward.failed, FORWARD_FAILED_MAX));
        full((forward.blocked, self.blocked_max as u64), waiting, failed)
    }

    /// Returns how long a process takes the forward for. A request must end within it.
    pub(crate) fn hold_for(&self) -> Duration {
        self.timeout.min(TIMEOUT_MAX) + HOLD_MARGIN
    }
}
