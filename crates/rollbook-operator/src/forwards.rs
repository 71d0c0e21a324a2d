//! Forwards of the change feed: their state, their dead letters, and the commands that move them.

mod recorded;

use std::collections::BTreeMap;

use rollbook_core::named;
use rollbook_core::store::{
    Changes, FeedState, Forward, ForwardMove, ForwardStop, Forwards, Position, StoreError,
};
use rollbook_core::time::Timestamp;
use serde::Serialize;

use self::recorded::first_failure;
pub use self::recorded::{OfDeadLetters, RecordedChange, change_dead_letters, recorded};
use crate::words::{many, thousands};

/// State of a forward.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ForwardView {
    /// Name.
    pub forward: String,
    /// State.
    pub state: ForwardActivity,
    /// Whether the configuration of the caller has it.
    pub is_configured: bool,
    /// Position up to which every change is delivered or recorded.
    pub position: Position,
    /// Position of the last change of the feed.
    pub last: Position,
    /// Number of subjects that wait after a failure.
    pub blocked_subjects: u64,
    /// Number of changes of blocked subjects.
    pub waiting_changes: u64,
    /// Number of dead letters.
    pub dead_letters: u64,
    /// Reason why it reads no more: a limit is reached.
    pub full: Option<String>,
    /// Reason of the last failure of the first change that waits after one.
    pub last_error: Option<String>,
    /// Number of requests that were made for this change; 0 if none waits after a failure.
    pub tries: u32,
    /// Time of the next request for it.
    pub next_try_at: Option<Timestamp>,
    /// Time until which the endpoint asked for no requests.
    pub paused_until: Option<Timestamp>,
    /// Time at which it stopped.
    pub stopped_at: Option<Timestamp>,
    /// Reason of the stop.
    pub stop_reason: Option<String>,
    /// Time of the last save; `None` if it never ran.
    pub saved_at: Option<Timestamp>,
}

named! {
    /// Activity of a forward.
    pub enum ForwardActivity {
        /// A process has it, and sends.
        Running = "running",
        /// The forward stopped until an operator starts it again.
        Stopped = "stopped",
        /// No process has it.
        Idle = "idle",
        /// The forward is configured and never ran.
        New = "new",
    }
}

impl ForwardView {
    /// View of a forward that never ran.
    pub fn new(name: &str, last: Position) -> Self {
        Self {
            forward: name.to_owned(),
            state: ForwardActivity::New,
            is_configured: true,
            position: last,
            last,
            blocked_subjects: 0,
            waiting_changes: 0,
            dead_letters: 0,
            full: None,
            last_error: None,
            tries: 0,
            next_try_at: None,
            paused_until: None,
            stopped_at: None,
            stop_reason: None,
            saved_at: None,
        }
    }

    fn of(forward: Forward, blocked_max: Option<usize>, last: Position, now: Timestamp) -> Self {
        let state = match (&forward.stopped, forward.is_held) {
            (Some(_), _) => ForwardActivity::Stopped,
            (None, true) => ForwardActivity::Running,
            (None, false) => ForwardActivity::Idle,
        };
        let blocked_max = blocked_max.map_or(u64::MAX, |most| most as u64);
        let full = full(
            (forward.blocked, blocked_max),
            (forward.waiting, FORWARD_WAITING_MAX),
            (forward.failed, FORWARD_FAILED_MAX),
        );
        let (stopped_at, stop_reason) =
            forward.stopped.map(|ForwardStop { at, reason }| (at, reason)).unzip();
        Self {
            state,
            is_configured: blocked_max != u64::MAX,
            position: forward.position,
            blocked_subjects: forward.blocked,
            waiting_changes: forward.waiting,
            dead_letters: forward.failed,
            full,
            paused_until: forward.paused_until.filter(|until| *until > now),
            stopped_at,
            stop_reason,
            saved_at: Some(forward.saved_at),
            ..Self::new(&forward.name, last)
        }
    }
}

/// Maximum number of recorded changes of a forward that wait. At the limit it reads no more.
pub const FORWARD_WAITING_MAX: u64 = 10_000;
/// Maximum number of dead letters of a forward. At the limit it reads no more.
pub const FORWARD_FAILED_MAX: u64 = 10_000;

/// Reason why a forward with such numbers of blocked objects, waiting changes and dead letters reads no more. Each comes with
/// its maximum.
pub fn full(blocked: (u64, u64), waiting: (u64, u64), failed: (u64, u64)) -> Option<String> {
    let is_full = |(number, most): (u64, u64)| number >= most;
    if is_full(blocked) {
        return Some(format!("{} (blocked_max)", many(blocked.0, "blocked object")));
    }
    if is_full(waiting) {
        return Some(format!("{}, the maximum", many(waiting.0, "waiting change")));
    }
    is_full(failed).then(|| format!("{}, the maximum", many(failed.0, "dead letter")))
}

/// Reason why a command did nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ForwardError {
    /// The forward never ran.
    #[error("the forward {name} never ran, or has another name; known are: {known}")]
    Unknown {
        /// Name that was given.
        name: String,
        /// Names of forwards that ran, or a word for none.
        known: String,
    },
    /// The feed does not have the changes after the position.
    #[error("the feed has the changes after {}, up to {}; give a position in between", thousands(*removed_through), thousands(*last))]
    Position {
        /// Position up to which changes were removed.
        removed_through: Position,
        /// Last position.
        last: Position,
    },
    /// A replay would begin ahead of the position, so that changes in between would never be sent.
    #[error(
        "the forward is at position {}: a replay after {} would leave out changes that it has not sent; give {} or less",
        thousands(*position), thousands(*after), thousands(*position)
    )]
    Ahead {
        /// Position of the forward.
        position: Position,
        /// Position that was given.
        after: Position,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Returns the state of all forwards that ever ran or are configured, by name. `configured` has the `blocked_max` of each.
///
/// # Errors
/// The store can't be read.
pub async fn status(
    forwards: &dyn Forwards,
    changes: &dyn Changes,
    configured: &BTreeMap<String, usize>,
    now: Timestamp,
) -> Result<Vec<ForwardView>, StoreError> {
    let last = changes.feed().await?.last;
    let known = forwards.forwards().await?;
    let is_known = |name: &String| known.iter().any(|forward| forward.name == **name);
    let mut views: Vec<ForwardView> =
        configured.keys().filter(|name| !is_known(name)).map(|name| ForwardView::new(name, last)).collect();
    for forward in known {
        let failure = match forward.waiting {
            0 => None,
            _ => first_failure(forwards, &forward.name).await?,
        };
        let blocked_max = configured.get(&forward.name).copied();
        let mut view = ForwardView::of(forward, blocked_max, last, now);
        if let Some(failure) = failure {
            view.tries = failure.tries;
            (view.last_error, view.next_try_at) = (failure.last_error, Some(failure.next_try_at));
        }
        views.push(view);
    }
    views.sort_by(|one, other| one.forward.cmp(&other.forward));
    Ok(views)
}

/// Returns the forward with this name.
///
/// # Errors
/// It never ran, or the store can't be read.
pub async fn find(forwards: &dyn Forwards, name: &str) -> Result<Forward, ForwardError> {
    let all = forwards.forwards().await?;
    if let Some(found) = all.iter().find(|forward| forward.name == name) {
        return Ok(found.clone());
    }
    let known = all.into_iter().map(|forward| forward.name).collect::<Vec<_>>().join(", ");
    let known = if known.is_empty() { "none".to_owned() } else { known };
    Err(ForwardError::Unknown { name: name.to_owned(), known })
}

/// Sends all changes after a position again. Returns the position that it was at before.
///
/// # Errors
/// The forward never ran, the feed does not have the position, it is ahead of the forward's, or the store failed.
pub async fn replay(
    forwards: &dyn Forwards,
    changes: &dyn Changes,
    name: &str,
    after: Position,
) -> Result<Position, ForwardError> {
    let before = find(forwards, name).await?.position;
    let FeedState { last, removed_through, .. } = changes.feed().await?;
    if after < removed_through || after > last {
        return Err(ForwardError::Position { removed_through, last });
    }
    if after > before {
        return Err(ForwardError::Ahead { position: before, after });
    }
    forwards.move_forward(name, ForwardMove::Replay(after)).await?;
    Ok(before)
}

/// A forward that was started again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Resumed {
    /// Position before.
    pub before: Position,
    /// Position after which it goes on.
    pub position: Position,
    /// Whether the feed is of another generation than the position before.
    pub is_other_feed: bool,
}

/// Starts a forward again that stopped. It goes on where it was, or at the oldest change that the feed still has. At a feed
/// that was restored to an older state, it goes on at the end, without its records of changes that the feed lost: later changes
/// get the positions of those.
///
/// # Errors
/// The forward never ran, or the store failed.
pub async fn resume(
    forwards: &dyn Forwards,
    changes: &dyn Changes,
    name: &str,
) -> Result<Resumed, ForwardError> {
    let Forward { position: before, generation, .. } = find(forwards, name).await?;
    let FeedState { last, removed_through, generation: now, .. } = changes.feed().await?;
    let position = before.max(removed_through).min(last);
    let to = if before > last { ForwardMove::Replay(position) } else { ForwardMove::Resume(position) };
    forwards.move_forward(name, to).await?;
    let is_other_feed = generation.is_some_and(|generation| generation != now);
    Ok(Resumed { before, position, is_other_feed })
}
