//! Applies a batch so that one bad or slow change does not affect the others.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rollbook_core::change::{Applied, Change};
use rollbook_core::store::{SlowCause, Store, StoreError};
use tokio::time::Instant;
use tracing::debug;

use crate::evidence::{AFTER_OTHERS, Evidence, POSTPONE, Plan, Verdict, jittered};
use crate::pace::Pace;

/// Number of Clerk instances that one process records. Two are enough: a reconciliation then asks which one the rows
/// belong to.
const INSTANCES_MAX: usize = 2;
/// Pause before a store that refuses to record an instance is asked again.
const REFUSED_FOR: Duration = Duration::from_secs(60);

/// Outcome of one change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ChangeOutcome {
    /// The change is durable in the store.
    Applied(Applied),
    /// The store refuses it; the text says why.
    Refused(String),
    /// The store ran into a time limit at this change alone; the text says which.
    TimedOut(String),
    /// The change fails by itself, and may not be to blame: retry it after this time. The text says why.
    Postponed(Duration, String),
    /// The store failed before its turn, or the time was over: nothing is known against it.
    NotAttempted,
}

/// Outcome of a batch.
#[derive(Debug)]
pub(crate) struct BatchOutcome {
    /// One for each change, in their order.
    pub(crate) outcomes: Vec<ChangeOutcome>,
    /// Error for which no change is to blame; it ended the work early, or every change failed with it.
    pub(crate) failure: Option<StoreError>,
}

impl BatchOutcome {
    /// Returns the outcome of a batch that the store failed before its first change.
    pub(crate) fn not_attempted(changes: usize, failure: StoreError) -> Self {
        Self { outcomes: vec![ChangeOutcome::NotAttempted; changes], failure: Some(failure) }
    }

    /// Returns whether the store has applied or judged anything.
    pub(crate) fn is_proof(&self) -> bool {
        self.outcomes
            .iter()
            .any(|outcome| matches!(outcome, ChangeOutcome::Applied(_) | ChangeOutcome::Refused(_)))
    }

    /// Returns whether anything was applied; else how many changes the store refused, and the reason for the last.
    pub(crate) fn refused_alone(&self) -> Result<(), (u64, &str)> {
        let mut refused = (0, "");
        for outcome in &self.outcomes {
            match outcome {
                ChangeOutcome::Applied(_) => return Ok(()),
                ChangeOutcome::Refused(why)
                | ChangeOutcome::TimedOut(why)
                | ChangeOutcome::Postponed(_, why) => {
                    refused = (refused.0 + 1, why);
                }
                ChangeOutcome::NotAttempted => {}
            }
        }
        Err(refused)
    }
}

/// Clerk instances of applied events, as far as this process has recorded them.
#[derive(Debug, Default)]
pub(crate) struct Instances {
    known: Mutex<BTreeSet<String>>,
    /// Time of the last refusal of the store.
    refused_at: Mutex<Option<Instant>>,
}

impl Instances {
    /// Records the instances that are new, before their events are applied. A worker without rights on the reconciler's
    /// tables applies deliveries all the same: without these rights no reconciliation runs.
    pub(crate) async fn remember(
        &self,
        store: &dyn Store,
        found: &BTreeSet<String>,
    ) -> Result<(), StoreError> {
        for id in found {
            let is_new = {
                let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
                known.len() < INSTANCES_MAX && !known.contains(id)
            };
            let refused_at = *self.refused_at.lock().unwrap_or_else(PoisonError::into_inner);
            if !is_new || refused_at.is_some_and(|at| at.elapsed() < REFUSED_FOR) {
                continue;
            }
            match store.remember_instance(id).await {
                Ok(()) => {
                    self.known.lock().unwrap_or_else(PoisonError::into_inner).insert(id.clone());
                }
                Err(StoreError::Deployment(why)) => {
                    *self.refused_at.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
                    // The reconciler logs the missing rights, where there is one.
                    debug!(%why, "the Clerk instance of the events can't be recorded; deliveries are applied");
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// One call to the store, for metrics.
pub(crate) struct Call {
    pub(crate) changes: usize,
    pub(crate) took: Duration,
    /// The time limit that it ran into.
    pub(crate) slow: Option<SlowCause>,
}

/// Applies `changes`: in one call where all are good. Where the store refuses or fails at a part, each half
/// is applied by itself, and so on until every bad change stands alone: about `2 log2 n` calls for one, fewer
/// than `2 n` for any number. The `evidence` says whether a change is to blame for an error that may be its
/// own or everyone's.
///
/// No call begins that would end after `time` if it took as long as the longest before it. What is left then
/// is [`ChangeOutcome::NotAttempted`]. `called` runs after each call.
pub(crate) async fn apply(
    store: &dyn Store,
    changes: &[Change],
    pace: &Pace,
    evidence: &Evidence,
    time: Duration,
    called: impl FnMut(Call),
) -> BatchOutcome {
    let (mut outcomes, plan) = (vec![ChangeOutcome::NotAttempted; changes.len()], evidence.plan(changes));
    let mut pending = parts(changes.len(), &plan);
    pending.reverse();
    for (position, after, why) in plan.postponed {
        outcomes[position] = ChangeOutcome::Postponed(after, why);
    }
    let work = Work {
        store,
        changes,
        pace,
        evidence,
        outcomes,
        alone: plan.alone,
        pending,
        failed: Vec::new(),
        last_slow: None,
        called,
    };
    work.run(time).await
}

struct Work<'a, F> {
    store: &'a dyn Store,
    changes: &'a [Change],
    pace: &'a Pace,
    evidence: &'a Evidence,
    outcomes: Vec<ChangeOutcome>,
    /// Changes that are tried by themselves.
    alone: Vec<usize>,
    /// The last in is the next out.
    pending: Vec<Range<usize>>,
    /// Changes that failed by themselves, with errors that may be everyone's.
    failed: Vec<(usize, StoreError)>,
    last_slow: Option<StoreError>,
    called: F,
}

impl<F: FnMut(Call)> Work<'_, F> {
    async fn run(mut self, time: Duration) -> BatchOutcome {
        let (began_at, mut longest, mut smallest) = (Instant::now(), Duration::ZERO, usize::MAX);
        while let Some(part) = self.pending.pop() {
            if smallest < usize::MAX && began_at.elapsed() + longest > time {
                self.out_of_time(smallest);
                break;
            }
            smallest = smallest.min(part.len());
            let called_at = Instant::now();
            let answer = self.store.apply_many(&self.changes[part.clone()]).await;
            let took = called_at.elapsed();
            longest = longest.max(took);
            let slow = if let Err(StoreError::Slow { cause, .. }) = &answer { Some(*cause) } else { None };
            (self.called)(Call { changes: part.len(), took, slow });
            if let Err(failure) = self.judge(part, answer, took) {
                // Changes that failed by themselves before count too: the store may have been failing by then.
                return BatchOutcome { outcomes: self.outcomes, failure: Some(failure) };
            }
        }
        self.conclude()
    }

    /// Takes note of an answer.
    ///
    /// # Errors
    /// An error for which no change is to blame.
    fn judge(
        &mut self,
        part: Range<usize>,
        answer: Result<Vec<Applied>, StoreError>,
        took: Duration,
    ) -> Result<(), StoreError> {
        let changes = &self.changes[part.clone()];
        match answer {
            Ok(outcomes) => {
                self.pace.passed(changes.len(), took);
                self.evidence.passed(changes, &outcomes);
                for (outcome, applied) in self.outcomes[part].iter_mut().zip(outcomes) {
                    *outcome = ChangeOutcome::Applied(applied);
                }
            }
            Err(StoreError::Event(detail)) if part.len() == 1 => {
                self.outcomes[part.start] = ChangeOutcome::Refused(detail);
            }
            Err(StoreError::Event(_)) => self.split(part.start + part.len() / 2, part),
            Err(error @ (StoreError::Ambiguous(_) | StoreError::Slow { .. })) => {
                self.evidence.failed(changes, &error);
                let mut middle = part.start + part.len() / 2;
                if let StoreError::Slow { cause, detail } = &error {
                    self.pace.cut_short(changes.len(), *cause, detail, took);
                    self.last_slow = Some(error.clone());
                    middle = between_tables(&part, self.changes);
                }
                if part.len() == 1 {
                    self.failed.push((part.start, error));
                    self.postpone_suspects();
                } else {
                    self.split(middle, part);
                }
            }
            Err(failure) => return Err(failure),
        }
        Ok(())
    }

    /// After one that failed by itself no suspect is tried before others have passed: two failures in a row
    /// would say nothing about either.
    fn postpone_suspects(&mut self) {
        while let Some(next) = self.pending.last().filter(|next| self.alone.contains(&next.start)) {
            self.outcomes[next.start] = ChangeOutcome::Postponed(jittered(POSTPONE), AFTER_OTHERS.to_owned());
            self.pending.pop();
        }
    }

    /// The earlier part is applied first.
    fn split(&mut self, middle: usize, part: Range<usize>) {
        self.pending.push(middle..part.end);
        self.pending.push(part.start..middle);
    }

    fn out_of_time(&self, smallest: usize) {
        let is_undecided = |outcome: &ChangeOutcome| matches!(outcome, ChangeOutcome::NotAttempted);
        if self.outcomes.iter().all(is_undecided) && self.failed.is_empty() {
            // Or the next batch would do the same.
            self.pace.out_of_time(smallest);
        }
    }

    /// Decides on the changes that failed by themselves.
    fn conclude(mut self) -> BatchOutcome {
        let has_passed = self.outcomes.iter().any(|outcome| matches!(outcome, ChangeOutcome::Applied(_)));
        let (mut failure, mut blamed) = (None, false);
        for (position, error) in self.failed {
            match self.evidence.judge(&self.changes[position], &error) {
                Verdict::Blamed => blamed = true,
                Verdict::Postponed(after) => {
                    self.outcomes[position] = ChangeOutcome::Postponed(after, words(error));
                    continue;
                }
                Verdict::Nobody => {
                    failure = failure.or(Some(error));
                    continue;
                }
            }
            let is_slow = matches!(error, StoreError::Slow { .. });
            let words = words(error);
            self.outcomes[position] =
                if is_slow { ChangeOutcome::TimedOut(words) } else { ChangeOutcome::Refused(words) };
        }
        if !has_passed && !blamed {
            failure = failure.or(self.last_slow);
        }
        BatchOutcome { outcomes: self.outcomes, failure }
    }
}

/// The parts of a batch in the order in which they are tried: each suspect by itself, after others and before
/// others as far as there are any.
fn parts(count: usize, plan: &Plan) -> Vec<Range<usize>> {
    let taken = |position: &usize| {
        plan.alone.contains(position) || plan.postponed.iter().any(|(postponed, ..)| postponed == position)
    };
    let mut others: Vec<Range<usize>> = Vec::new();
    for position in (0..count).filter(|position| !taken(position)) {
        match others.last_mut() {
            Some(last) if last.end == position => last.end += 1,
            _ => others.push(position..position + 1),
        }
    }
    while others.len() <= plan.alone.len() {
        let Some(large) = others.iter().position(|part| part.len() > 1) else { break };
        let part = others[large].clone();
        let middle = part.start + part.len() / 2;
        others.splice(large..=large, [part.start..middle, middle..part.end]);
    }
    let mut alone = plan.alone.iter().map(|position| *position..position + 1);
    let mut parts = Vec::new();
    for part in others {
        parts.push(part);
        parts.extend(alone.next());
    }
    parts.extend(alone);
    parts
}

/// Returns the text of an error, without the party to blame.
fn words(error: StoreError) -> String {
    match error {
        StoreError::Ambiguous(inner) => words(*inner),
        StoreError::Unavailable(text)
        | StoreError::Deployment(text)
        | StoreError::Slow { detail: text, .. } => text,
        other => other.to_string(),
    }
}

/// Returns where to split a part with changes in the order of their tables: at the end of the table that is
/// nearest to the middle, so that a locked table blocks no other table. In the middle if all are of one table.
fn between_tables(part: &Range<usize>, changes: &[Change]) -> usize {
    let middle = part.start + part.len() / 2;
    let is_end = |at: &usize| changes[at - 1].resource_name() != changes[*at].resource_name();
    (part.start + 1..part.end).filter(is_end).min_by_key(|at| at.abs_diff(middle)).unwrap_or(middle)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOTHING: [Range<usize>; 0] = [];

    fn planned(count: usize, alone: &[usize], postponed: &[usize]) -> Vec<Range<usize>> {
        let postponed = postponed.iter().map(|position| (*position, POSTPONE, String::new()));
        parts(count, &Plan { alone: alone.to_vec(), postponed: postponed.collect() })
    }

    #[test]
    fn suspects_are_tried_by_themselves_between_others() {
        assert_eq!(planned(5, &[], &[]).as_slice(), std::slice::from_ref(&(0..5)));
        assert_eq!(planned(0, &[], &[]), NOTHING);
        assert_eq!(planned(6, &[0, 5], &[]), [1..2, 0..1, 2..3, 5..6, 3..5]);
        assert_eq!(planned(4, &[1], &[2]), [0..1, 1..2, 3..4]);
        assert_eq!(planned(3, &[0, 1], &[]), [2..3, 0..1, 1..2], "as far as there are others");
        assert_eq!(planned(2, &[0, 1], &[]), [0..1, 1..2]);
        assert_eq!(planned(2, &[], &[0, 1]), NOTHING);
    }
}
