//! Port of the forwarder: how far each forward of the change feed came, and the changes that it could not deliver.
//!
//! A change is *settled* once the endpoint accepted it, or once it is recorded here: it waits for its next attempt, or waits
//! behind an earlier change of its subject, or is a dead letter. The position of a forward has no unsettled change at or
//! below it, so a process that is killed loses none. Changes are recorded with ids only, as in the feed.

use std::time::Duration;

use async_trait::async_trait;

use super::StoreError;
use super::changes::{ChangeLine, Generation, Position};
use super::open_changes::OpenChanges;
use crate::time::Timestamp;

/// Maximum number of recorded changes that one call returns or changes.
pub const FORWARD_CHANGES_MAX: usize = 1_000;

/// Port of the forwarder. Times are those of the caller, except the end of a hold, which is by the store's clock.
#[async_trait]
pub trait Forwards: Send + Sync {
    /// Checks that the forwarder may read and write its records. Reads only.
    ///
    /// # Errors
    /// [`StoreError::Deployment`] with the tables and rights that are missing.
    async fn check_forwards(&self) -> Result<(), StoreError> {
        Ok(())
    }

    /// Takes a forward for a process, which may have it already, for at most [`super::LOCK_MAX`]. Returns `None` while another
    /// process has it. The forward gets a new epoch: whoever took it before can save nothing any more. A forward without a
    /// record begins after the position `begin`.
    async fn take_forward(
        &self,
        name: &str,
        holder: &str,
        hold_for: Duration,
        begin: Position,
    ) -> Result<Option<Forward>, StoreError>;

    /// Saves progress and renews the hold, atomically. Returns `false` if the epoch is not the current one; then nothing
    /// was written.
    async fn save_forward(
        &self,
        name: &str,
        epoch: u64,
        hold_for: Duration,
        progress: &ForwardProgress,
    ) -> Result<bool, StoreError>;

    /// Gives a forward back, if the epoch is the current one.
    async fn release_forward(&self, name: &str, epoch: u64) -> Result<(), StoreError>;

    /// Returns all forwards that ever ran, by name.
    async fn forwards(&self) -> Result<Vec<Forward>, StoreError>;

    /// Returns recorded changes of a forward in one state, after a position, in the order of their positions.
    async fn forward_changes(
        &self,
        name: &str,
        state: ForwardState,
        after: Position,
        limit: usize,
    ) -> Result<Vec<ForwardChange>, StoreError>;

    /// Moves a forward for an operator, and starts it again if it stopped. Its pause ends, and it belongs to no generation of
    /// the feed until its next save. The process that has the forward must take it anew. Returns `false` if the forward never
    /// ran.
    async fn move_forward(&self, name: &str, to: ForwardMove) -> Result<bool, StoreError>;

    /// Lets dead letters wait for delivery again, from now on. Returns their number. The process that has the forward must
    /// take it anew.
    async fn redrive_forward(
        &self,
        name: &str,
        positions: &[Position],
        now: Timestamp,
    ) -> Result<u64, StoreError>;

    /// Removes dead letters. Returns their number. The process that has the forward must take it anew.
    async fn discard_forward(&self, name: &str, positions: &[Position]) -> Result<u64, StoreError>;
}

/// A forward, as the store knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Forward {
    /// Name.
    pub name: String,
    /// Position: every change up to it is settled.
    pub position: Position,
    /// Number that grows with every taking and every command of an operator.
    pub epoch: u64,
    /// Whether a process has the forward now.
    pub is_held: bool,
    /// Why it stopped, until an operator starts it again.
    pub stopped: Option<ForwardStop>,
    /// Time of the last save.
    pub saved_at: Timestamp,
    /// Number of changes that wait.
    pub waiting: u64,
    /// Number of subjects with changes that wait.
    pub blocked: u64,
    /// Number of dead letters.
    pub failed: u64,
    /// Changes above the position that are open, if the position is the one with which they were saved.
    pub open_changes: Option<OpenChanges>,
    /// Generation of the feed that the position belongs to; `None` before the first save, and after a move by an operator.
    pub generation: Option<Generation>,
    /// Time until which the endpoint asked for no requests.
    pub paused_until: Option<Timestamp>,
}

/// Stop of a forward, which lasts until an operator starts it again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ForwardStop {
    /// Time of the stop.
    pub at: Timestamp,
    /// Reason, for a person.
    pub reason: String,
}

/// Progress of a forward since the last save.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ForwardProgress {
    /// Position: every change up to it is settled.
    pub position: Position,
    /// Stop, if the forward stops with this save.
    pub stopped: Option<ForwardStop>,
    /// Changes to record. A recorded one is replaced.
    pub recorded: Vec<ForwardChange>,
    /// Positions of recorded changes that were delivered since.
    pub removed: Vec<Position>,
    /// Time of the save.
    pub saved_at: Timestamp,
    /// Changes above the position that are open; `None` if none is.
    pub open_changes: Option<OpenChanges>,
    /// Generation of the feed.
    pub generation: Option<Generation>,
    /// Time until which the endpoint asked for no requests.
    pub paused_until: Option<Timestamp>,
}

/// A recorded change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ForwardChange {
    /// The line of the feed.
    pub line: ChangeLine,
    /// State.
    pub state: ForwardState,
    /// Number of requests that were made for it.
    pub tries: u32,
    /// Number of those requests that count as attempts: while the endpoint accepts nothing, none does.
    pub attempts: u32,
    /// Time of the first failure; `None` if it only waits behind another change.
    pub failed_at: Option<Timestamp>,
    /// Time of the next attempt.
    pub next_try_at: Timestamp,
    /// Reason of the last failure. Contains nothing that the endpoint sent but the status.
    pub last_error: Option<String>,
}

crate::named! {
    /// State of a recorded change.
    pub enum ForwardState {
        /// Waits for its next attempt, or behind an earlier change of its subject.
        Waiting = "waiting",
        /// Dead letter.
        Failed = "failed",
    }
}

/// Move of a forward by an operator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ForwardMove {
    /// Goes on after this position. Recorded changes stay, and so does what is known of changes above the position.
    Resume(Position),
    /// Sends everything after this position again. Recorded changes after it are removed, since they are read again, and so
    /// is what is known of changes above the position.
    Replay(Position),
}

impl ForwardMove {
    /// Returns the position after which the forward goes on.
    pub const fn position(self) -> Position {
        match self {
            Self::Resume(position) | Self::Replay(position) => position,
        }
    }
}
