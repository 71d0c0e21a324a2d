//! Which messages failed lately, and whether others passed since: what tells one message's failure from everyone's.
//!
//! Some errors may be caused by one row or by everything: a time limit, a policy that refuses a row, a disk that fails.
//! A message is remembered when a batch with it failed in such a way. It is to blame when it fails by itself and others
//! passed since. Where others fail too and none passes, the store or the deployment is to blame, and no message.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rollbook_core::change::Change;
use rollbook_core::delivery::MessageId;
use rollbook_core::store::{SlowCause, StoreError};
use tokio::time::Instant;

/// How many messages are remembered, at most.
const FAILED_MAX: usize = 1000;
/// How long a message is remembered: longer than it waits for its next attempt.
const REMEMBERED_FOR: Duration = Duration::from_secs(3600);
/// A failure that is older says nothing about the store of now.
const RECENT: Duration = Duration::from_secs(600);

/// Shared by all lanes of a worker.
#[derive(Default)]
pub(crate) struct Evidence(Mutex<BTreeMap<MessageId, Failed>>);

/// A message whose last batch failed.
struct Failed {
    table: &'static str,
    seen: Instant,
    /// Whether another message passed since.
    others_passed: bool,
    /// Whether another message of the same table passed since.
    table_passed: bool,
}

impl Evidence {
    /// A batch of these failed with an error that may be one row's or everyone's.
    pub(crate) fn failed(&self, changes: &[Change]) {
        let (mut failed, now) = (self.all(), Instant::now());
        if failed.len() + changes.len() > FAILED_MAX {
            failed.retain(|_, failed| failed.seen + RECENT > now);
        }
        if failed.len() + changes.len() > FAILED_MAX {
            failed.clear();
        }
        for change in changes {
            let (id, table) = (change.origin.message_id.clone(), change.resource_name());
            let new = Failed { table, seen: now, others_passed: false, table_passed: false };
            failed.entry(id).or_insert(new).seen = now;
        }
    }

    /// These were applied.
    pub(crate) fn passed(&self, changes: &[Change]) {
        let mut all = self.all();
        if all.is_empty() {
            return;
        }
        for change in changes {
            all.remove(&change.origin.message_id);
        }
        let now = Instant::now();
        all.retain(|_, failed| failed.seen + REMEMBERED_FOR > now);
        for failed in all.values_mut() {
            failed.others_passed = true;
            failed.table_passed |= changes.iter().any(|change| change.resource_name() == failed.table);
        }
    }

    /// Whether a message that failed by itself with this error is to blame for it.
    ///
    /// * A time limit: where others of its table passed since. A table may be locked while others are not.
    /// * Any other error: where others passed since.
    /// * Where nothing passed: only for a statement's time limit, if it is the only message that failed lately.
    pub(crate) fn is_to_blame(&self, change: &Change, error: &StoreError) -> bool {
        let (all, now) = (self.all(), Instant::now());
        let is_slow = matches!(error, StoreError::Slow { .. });
        let have_passed = |failed: &Failed| if is_slow { failed.table_passed } else { failed.others_passed };
        let id = &change.origin.message_id;
        if all.get(id).is_some_and(have_passed) {
            return true;
        }
        let mut others = all.iter().filter(|(other, _)| *other != id);
        let is_alone = !others.any(|(_, failed)| !have_passed(failed) && failed.seen + RECENT > now);
        is_alone && matches!(error, StoreError::Slow { cause: SlowCause::Statement, .. })
    }

    fn all(&self) -> MutexGuard<'_, BTreeMap<MessageId, Failed>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rollbook_testkit::events::{START, change_of, event, organization, user};

    fn users(ids: std::ops::Range<usize>) -> Vec<Change> {
        let of = |id| event("user.updated", START, &user(&format!("user_{id}"), START));
        ids.map(|id| change_of(&format!("msg_{id}"), &of(id))).collect()
    }

    fn an_organization() -> Change {
        change_of("msg_org", &event("organization.updated", START, &organization("org_1", START)))
    }

    fn slow() -> StoreError {
        StoreError::Slow { cause: SlowCause::Statement, detail: "longer than statement_timeout".into() }
    }

    fn locked() -> StoreError {
        StoreError::Slow { cause: SlowCause::Lock, detail: "a lock was not free".into() }
    }

    fn policy() -> StoreError {
        StoreError::Ambiguous(Box::new(StoreError::Deployment("a policy".into())))
    }

    fn disk() -> StoreError {
        StoreError::Ambiguous(Box::new(StoreError::Dependency("disk full".into())))
    }

    #[tokio::test(start_paused = true)]
    async fn a_message_is_to_blame_where_others_passed_since_and_for_a_time_limit_others_of_its_table() {
        let (evidence, all) = (Evidence::default(), users(0..10));
        evidence.failed(&all);
        let blamed = || [slow(), policy(), disk()].map(|error| evidence.is_to_blame(&all[3], &error));
        assert_eq!(blamed(), [false; 3], "nobody passed");
        evidence.passed(&[an_organization()]);
        assert_eq!(blamed(), [false, true, true], "the table may be locked");
        evidence.passed(&all[5..6]);
        assert_eq!(blamed(), [true; 3]);
        // It comes again, alone, and nobody else does.
        evidence.failed(&all[3..4]);
        assert_eq!(blamed(), [true; 3]);
        evidence.passed(&all[3..4]);
        evidence.failed(&users(20..30));
        evidence.failed(&all[3..4]);
        assert_eq!(blamed(), [false; 3], "it was applied since: that was another time");
    }

    #[tokio::test(start_paused = true)]
    async fn the_only_message_that_is_too_slow_is_to_blame_and_neither_two_nor_another_error_is() {
        let (evidence, two) = (Evidence::default(), users(0..2));
        let blamed = |which: usize| {
            [slow(), policy(), disk(), locked()].map(|error| evidence.is_to_blame(&two[which], &error))
        };
        evidence.failed(&two[..1]);
        assert_eq!(blamed(0), [true, false, false, false]);
        evidence.failed(&two[1..]);
        assert_eq!((blamed(0), blamed(1)), ([false; 4], [false; 4]));
        tokio::time::advance(RECENT).await;
        evidence.failed(&two[1..]);
        assert_eq!(blamed(1), [true, false, false, false], "the other one failed too long ago");
    }

    #[tokio::test(start_paused = true)]
    async fn no_more_messages_are_remembered_than_the_limit_says() {
        let evidence = Evidence::default();
        for first in (0..3 * FAILED_MAX).step_by(100) {
            evidence.failed(&users(first..first + 100));
        }
        assert!(evidence.all().len() <= FAILED_MAX);
        assert!(!evidence.is_to_blame(&users(0..1)[0], &slow()));
    }
}
