//! Changes that a forward could not deliver: dead letters, and those that wait.

use rollbook_core::store::{
    FORWARD_CHANGES_MAX, ForwardChange, ForwardState, Forwards, Position, StoreError,
};
use rollbook_core::time::{Clock, Timestamp};
use serde::Serialize;

use super::{ForwardError, find};
use crate::changes::ChangeView;

/// A recorded change of a forward: a dead letter, or one that waits.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RecordedChange {
    /// Name of the forward.
    pub forward: String,
    /// The change.
    #[serde(flatten)]
    pub change: ChangeView,
    /// State.
    pub state: ForwardState,
    /// Number of requests that were made for it.
    pub tries: u32,
    /// Number of those that count.
    pub attempts: u32,
    /// Time of the first failure.
    pub failed_at: Option<Timestamp>,
    /// Time of the next request; `None` for a dead letter.
    pub next_try_at: Option<Timestamp>,
    /// Reason of the last failure.
    pub reason: Option<String>,
}

impl RecordedChange {
    fn of(forward: &str, change: ForwardChange) -> Self {
        Self {
            forward: forward.to_owned(),
            change: change.line.into(),
            state: change.state,
            tries: change.tries,
            attempts: change.attempts,
            failed_at: change.failed_at,
            next_try_at: (change.state == ForwardState::Waiting).then_some(change.next_try_at),
            reason: change.last_error,
        }
    }
}

/// Returns the first change that waits after a failure.
///
/// # Errors
/// The store can't be read.
pub(super) async fn first_failure(
    forwards: &dyn Forwards,
    name: &str,
) -> Result<Option<ForwardChange>, StoreError> {
    let mut after = 0;
    loop {
        let page = forwards.forward_changes(name, ForwardState::Waiting, after, FORWARD_CHANGES_MAX).await?;
        let Some(last) = page.last() else { return Ok(None) };
        after = last.line.position;
        if let Some(found) = page.into_iter().find(|change| change.last_error.is_some()) {
            return Ok(Some(found));
        }
    }
}

/// Returns dead letters, or changes that wait, of a forward, or of all, in the order of their positions, at most `limit` of
/// each.
///
/// # Errors
/// The forward never ran, or the store can't be read.
pub async fn recorded(
    forwards: &dyn Forwards,
    name: Option<&str>,
    state: ForwardState,
    limit: usize,
) -> Result<Vec<RecordedChange>, ForwardError> {
    let names = match name {
        Some(name) => vec![find(forwards, name).await?.name],
        None => forwards.forwards().await?.into_iter().map(|forward| forward.name).collect(),
    };
    let mut found = Vec::new();
    for name in names {
        let (mut after, mut left) = (0, limit);
        while left > 0 {
            let page = forwards.forward_changes(&name, state, after, left.min(FORWARD_CHANGES_MAX)).await?;
            let Some(last) = page.last() else { break };
            after = last.line.position;
            left -= page.len();
            found.extend(page.into_iter().map(|change| RecordedChange::of(&name, change)));
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
        let listed = recorded(forwards, Some(name), ForwardState::Failed, usize::MAX).await?;
        all = listed.iter().map(|letter| letter.change.position).collect();
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
