//! Forwards of the change feed: their state, their dead letters, and the commands that move them.

use rollbook_core::store::{
    Changes, FORWARD_CHANGES_MAX, FeedState, Forward, ForwardChange, ForwardMove, ForwardState, ForwardStop,
    Forwards, Position, StoreError,
};
use rollbook_core::time::{Clock, Timestamp};
use serde::Serialize;

use crate::changes::ChangeView;
use crate::serialize::optional_text;
use crate::words::thousands;

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
    /// Time at which it stopped.
    #[serde(serialize_with = "optional_text")]
    pub stopped_at: Option<Timestamp>,
    /// Reason of the stop.
    pub stop_reason: Option<String>,
    /// Time of the last save; `None` if it never ran.
    #[serde(serialize_with = "optional_text")]
    pub saved_at: Option<Timestamp>,
}

/// Activity of a forward.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ForwardActivity {
    /// A process has it, and sends.
    Running,
    /// The forward stopped until an operator starts it again.
    Stopped,
    /// No process has it.
    Idle,
    /// The forward is configured and never ran.
    New,
}

impl ForwardActivity {
    /// Returns the name, as in JSON.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Stopped => "stopped",
            Self::Idle => "idle",
            Self::New => "new",
        }
    }
}

impl ForwardView {
    fn of(forward: Forward, is_configured: bool, last: Position) -> Self {
        let state = match (&forward.stopped, forward.is_held) {
            (Some(_), _) => ForwardActivity::Stopped,
            (None, true) => ForwardActivity::Running,
            (None, false) => ForwardActivity::Idle,
        };
        let (stopped_at, stop_reason) =
            forward.stopped.map(|ForwardStop { at, reason }| (at, reason)).unzip();
        Self {
            forward: forward.name,
            state,
            is_configured,
            position: forward.position,
            last,
            blocked_subjects: forward.blocked,
            waiting_changes: forward.waiting,
            dead_letters: forward.failed,
            stopped_at,
            stop_reason,
            saved_at: Some(forward.saved_at),
        }
    }

    fn new(name: &str, last: Position) -> Self {
        Self {
            forward: name.to_owned(),
            state: ForwardActivity::New,
            is_configured: true,
            position: last,
            last,
            blocked_subjects: 0,
            waiting_changes: 0,
            dead_letters: 0,
            stopped_at: None,
            stop_reason: None,
            saved_at: None,
        }
    }
}

/// A dead letter of a forward.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FailedChange {
    /// Name of the forward.
    pub forward: String,
    /// The change.
    #[serde(flatten)]
    pub change: ChangeView,
    /// Number of requests that were made for it.
    pub tries: u32,
    /// Time of the first failure.
    #[serde(serialize_with = "optional_text")]
    pub failed_at: Option<Timestamp>,
    /// Reason of the last failure.
    pub reason: Option<String>,
}

impl FailedChange {
    fn of(forward: &str, change: ForwardChange) -> Self {
        Self {
            forward: forward.to_owned(),
            change: change.line.into(),
            tries: change.tries,
            failed_at: change.failed_at,
            reason: change.last_error,
        }
    }
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
    /// The feed does not have the position.
    #[error("the feed has the positions {} to {}; give one of them, or the next one", thousands(*first), thousands(*last))]
    Position {
        /// Oldest position that is kept.
        first: Position,
        /// Last position.
        last: Position,
    },
    /// A replay would begin behind the position, so that changes in between would never be sent.
    #[error(
        "the forward is at position {}: a replay from {} would leave out changes that it has not sent; begin at {} or before",
        thousands(*position), thousands(*from), thousands(*position + 1)
    )]
    Ahead {
        /// Position of the forward.
        position: Position,
        /// Position that was given.
        from: Position,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Returns the state of all forwards that ever ran or are configured, by name.
///
/// # Errors
/// The store can't be read.
pub async fn status(
    forwards: &dyn Forwards,
    changes: &dyn Changes,
    configured: &[String],
) -> Result<Vec<ForwardView>, StoreError> {
    let last = changes.feed().await?.last;
    let known = forwards.forwards().await?;
    let is_known = |name: &String| known.iter().any(|forward| forward.name == **name);
    let mut views: Vec<ForwardView> =
        configured.iter().filter(|name| !is_known(name)).map(|name| ForwardView::new(name, last)).collect();
    views.extend(known.into_iter().map(|forward| {
        let is_configured = configured.contains(&forward.name);
        ForwardView::of(forward, is_configured, last)
    }));
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

/// Returns dead letters of a forward, or of all, in the order of their positions, at most `limit` of each.
///
/// # Errors
/// The forward never ran, or the store can't be read.
pub async fn failed(
    forwards: &dyn Forwards,
    name: Option<&str>,
    limit: usize,
) -> Result<Vec<FailedChange>, ForwardError> {
    let names = match name {
        Some(name) => vec![find(forwards, name).await?.name],
        None => forwards.forwards().await?.into_iter().map(|forward| forward.name).collect(),
    };
    let mut found = Vec::new();
    for name in names {
        let (mut after, mut left) = (0, limit);
        while left > 0 {
            let page = forwards
                .forward_changes(&name, ForwardState::Failed, after, left.min(FORWARD_CHANGES_MAX))
                .await?;
            let Some(last) = page.last() else { break };
            after = last.line.position;
            left -= page.len();
            found.extend(page.into_iter().map(|change| FailedChange::of(&name, change)));
        }
    }
    Ok(found)
}

/// Command about dead letters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OfDeadLetters {
    /// Sends them again.
    Redrive,
    /// Removes them.
    Discard,
}

/// Changes the dead letters of a forward: these positions, or all. Returns the number of those that were there.
///
/// # Errors
/// The forward never ran, or the store failed: some may be changed.
pub async fn change_dead_letters(
    forwards: &dyn Forwards,
    clock: &dyn Clock,
    name: &str,
    positions: Option<&[Position]>,
    what: OfDeadLetters,
) -> Result<u64, ForwardError> {
    let all: Vec<Position>;
    let positions = if let Some(positions) = positions {
        find(forwards, name).await?;
        positions
    } else {
        let listed = failed(forwards, Some(name), usize::MAX).await?;
        all = listed.iter().map(|failed| failed.change.position).collect();
        &all
    };
    let mut changed = 0;
    for chunk in positions.chunks(FORWARD_CHANGES_MAX) {
        changed += match what {
            OfDeadLetters::Redrive => forwards.redrive_forward(name, chunk, clock.now()).await?,
            OfDeadLetters::Discard => forwards.discard_forward(name, chunk).await?,
        };
    }
    Ok(changed)
}

/// Sends all changes from a position on again. Returns the position that it was at before.
///
/// # Errors
/// The forward never ran, the feed does not have the position, it is ahead of the forward's, or the store failed.
pub async fn replay(
    forwards: &dyn Forwards,
    changes: &dyn Changes,
    name: &str,
    from: Position,
) -> Result<Position, ForwardError> {
    let before = find(forwards, name).await?.position;
    let FeedState { last, removed_through, .. } = changes.feed().await?;
    if from <= removed_through || from > last + 1 {
        return Err(ForwardError::Position { first: removed_through + 1, last });
    }
    if from > before + 1 {
        return Err(ForwardError::Ahead { position: before, from });
    }
    forwards.move_forward(name, ForwardMove::Replay(from - 1)).await?;
    Ok(before)
}

/// Starts a forward again that stopped. It goes on where it was, or at the oldest change that the feed still has. At a feed
/// that was restored to an older state, it goes on at the end, without its records of changes that the feed lost: their
/// positions will be those of other changes. Returns the position before, and the one after which it goes on.
///
/// # Errors
/// The forward never ran, or the store failed.
pub async fn resume(
    forwards: &dyn Forwards,
    changes: &dyn Changes,
    name: &str,
) -> Result<(Position, Position), ForwardError> {
    let before = find(forwards, name).await?.position;
    let FeedState { last, removed_through, .. } = changes.feed().await?;
    let after = before.max(removed_through).min(last);
    let to = if before > last { ForwardMove::Replay(after) } else { ForwardMove::Resume(after) };
    forwards.move_forward(name, to).await?;
    Ok((before, after))
}
