//! The forwarder's port of the store in memory.

use std::collections::BTreeMap;
use std::time::Duration;

use async_trait::async_trait;
use rollbook_core::store::{
    FORWARD_CHANGES_MAX, Forward, ForwardChange, ForwardMove, ForwardProgress, ForwardState, ForwardStop,
    Forwards, Generation, LOCK_MAX, OpenChanges, Position, StoreError,
};
use rollbook_core::time::Timestamp;

use super::MemoryStore;

/// Records of the forwarder, by the names of forwards.
pub(super) type Records = BTreeMap<String, Record>;

/// Record of a forward.
pub(super) struct Record {
    position: Position,
    epoch: u64,
    /// Holder, and the end of its hold.
    holder: Option<(String, Timestamp)>,
    stopped: Option<ForwardStop>,
    saved_at: Timestamp,
    open_changes: Option<OpenChanges>,
    generation: Option<Generation>,
    paused_until: Option<Timestamp>,
    changes: BTreeMap<Position, ForwardChange>,
}

impl Record {
    fn view(&self, name: &str, now: Timestamp) -> Forward {
        let of = |state: ForwardState| self.changes.values().filter(move |change| change.state == state);
        let mut subjects: Vec<_> = of(ForwardState::Waiting)
            .map(|change| (&change.line.resource, &change.line.subject_id))
            .collect();
        subjects.sort_unstable();
        subjects.dedup();
        Forward {
            name: name.to_owned(),
            position: self.position,
            epoch: self.epoch,
            is_held: self.holder.as_ref().is_some_and(|(_, until)| *until > now),
            stopped: self.stopped.clone(),
            saved_at: self.saved_at,
            waiting: of(ForwardState::Waiting).count() as u64,
            blocked: subjects.len() as u64,
            failed: of(ForwardState::Failed).count() as u64,
            open_changes: self.open_changes.clone(),
            generation: self.generation,
            paused_until: self.paused_until,
        }
    }

    /// Changes dead letters, and the epoch if there are any. Returns their number.
    fn change_dead_letters(
        &mut self,
        positions: &[Position],
        change: impl Fn(&mut BTreeMap<Position, ForwardChange>, Position),
    ) -> u64 {
        let is_failed = |position: &&Position| {
            self.changes.get(position).is_some_and(|change| change.state == ForwardState::Failed)
        };
        let found: Vec<Position> = positions.iter().filter(is_failed).copied().collect();
        for position in &found {
            change(&mut self.changes, *position);
        }
        self.epoch += u64::from(!found.is_empty());
        found.len() as u64
    }
}

#[async_trait]
impl Forwards for MemoryStore {
    async fn take_forward(
        &self,
        name: &str,
        holder: &str,
        hold_for: Duration,
        begin: Position,
    ) -> Result<Option<Forward>, StoreError> {
        let (mut state, now) = (self.state(), self.clock.now());
        let record = state.forwards.entry(name.to_owned()).or_insert_with(|| Record {
            position: begin,
            epoch: 0,
            holder: None,
            stopped: None,
            saved_at: now,
            open_changes: None,
            generation: None,
            paused_until: None,
            changes: BTreeMap::new(),
        });
        let lasts = |until| until > now && until <= now.plus(LOCK_MAX);
        if record.holder.as_ref().is_some_and(|(other, until)| other != holder && lasts(*until)) {
            return Ok(None);
        }
        record.holder = Some((holder.to_owned(), now.plus(hold_for.min(LOCK_MAX))));
        record.epoch += 1;
        Ok(Some(record.view(name, now)))
    }

    async fn save_forward(
        &self,
        name: &str,
        epoch: u64,
        hold_for: Duration,
        progress: &ForwardProgress,
    ) -> Result<bool, StoreError> {
        let (mut state, now) = (self.state(), self.clock.now());
        let Some(record) = state.forwards.get_mut(name).filter(|record| record.epoch == epoch) else {
            return Ok(false);
        };
        record.position = progress.position;
        record.saved_at = progress.saved_at;
        record.open_changes.clone_from(&progress.open_changes);
        (record.generation, record.paused_until) = (progress.generation, progress.paused_until);
        if let Some((_, until)) = &mut record.holder {
            *until = now.plus(hold_for.min(LOCK_MAX));
        }
        record.stopped = progress.stopped.clone().or(record.stopped.take());
        for position in &progress.removed {
            record.changes.remove(position);
        }
        for change in &progress.recorded {
            record.changes.insert(change.line.position, change.clone());
        }
        Ok(true)
    }

    async fn release_forward(&self, name: &str, epoch: u64) -> Result<(), StoreError> {
        if let Some(record) = self.state().forwards.get_mut(name).filter(|record| record.epoch == epoch) {
            record.holder = None;
        }
        Ok(())
    }

    async fn forwards(&self) -> Result<Vec<Forward>, StoreError> {
        let (state, now) = (self.state(), self.clock.now());
        Ok(state.forwards.iter().map(|(name, record)| record.view(name, now)).collect())
    }

    async fn forward_changes(
        &self,
        name: &str,
        of: ForwardState,
        after: Position,
        limit: usize,
    ) -> Result<Vec<ForwardChange>, StoreError> {
        let state = self.state();
        let changes = state.forwards.get(name).into_iter().flat_map(|record| record.changes.values());
        let selected = changes.filter(|change| change.state == of && change.line.position > after);
        Ok(selected.take(limit.min(FORWARD_CHANGES_MAX)).cloned().collect())
    }

    async fn move_forward(&self, name: &str, to: ForwardMove) -> Result<bool, StoreError> {
        let mut state = self.state();
        let Some(record) = state.forwards.get_mut(name) else { return Ok(false) };
        record.epoch += 1;
        record.position = to.position();
        (record.stopped, record.generation, record.paused_until) = (None, None, None);
        if let ForwardMove::Replay(position) = to {
            record.open_changes = None;
            record.changes.retain(|at, _| *at <= position);
        }
        Ok(true)
    }

    async fn redrive_forward(
        &self,
        name: &str,
        positions: &[Position],
        now: Timestamp,
    ) -> Result<u64, StoreError> {
        let mut state = self.state();
        let Some(record) = state.forwards.get_mut(name) else { return Ok(0) };
        Ok(record.change_dead_letters(positions, |changes, position| {
            changes.entry(position).and_modify(|change| {
                change.state = ForwardState::Waiting;
                (change.tries, change.attempts, change.failed_at) = (0, 0, None);
                change.next_try_at = now;
            });
        }))
    }

    async fn discard_forward(&self, name: &str, positions: &[Position]) -> Result<u64, StoreError> {
        let mut state = self.state();
        let Some(record) = state.forwards.get_mut(name) else { return Ok(0) };
        Ok(record.change_dead_letters(positions, |changes, position| drop(changes.remove(&position))))
    }
}
