//! Cases in which a message is to blame, and in which none is.

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

fn broken() -> StoreError {
    StoreError::Ambiguous(Box::new(StoreError::Unavailable("the connection broke".into())))
}

fn is_postponed(verdict: Verdict) -> bool {
    matches!(verdict, Verdict::Postponed(after) if after >= POSTPONE / 2 && after <= POSTPONE)
}

impl Evidence {
    fn written(&self, changes: &[Change]) {
        self.passed(changes, &vec![Applied::Updated; changes.len()]);
    }

    fn is_blamed(&self, change: &Change, error: &StoreError) -> bool {
        self.judge(change, error) == Verdict::Blamed
    }
}

#[tokio::test(start_paused = true)]
async fn a_message_is_to_blame_if_others_of_its_table_were_written_since_and_once_for_each_of_these() {
    for error in [slow(), policy()] {
        let (evidence, all) = (Evidence::default(), users(0..10));
        evidence.failed(&all, &error);
        assert_eq!(evidence.judge(&all[3], &error), Verdict::Nobody, "nobody passed");
        evidence.written(&[an_organization()]);
        assert!(!evidence.is_blamed(&all[3], &error), "the table may be locked or closed");
        evidence.passed(&all[4..5], &[Applied::Stale]);
        assert!(!evidence.is_blamed(&all[3], &error), "a change without effect is not a proof");
        evidence.written(&all[5..6]);
        assert!(evidence.is_blamed(&all[3], &error));
        // The message is retried alone, without others: a policy may refuse every row by now.
        evidence.failed(&all[3..4], &error);
        assert_eq!(evidence.is_blamed(&all[3], &error), error == slow());
        evidence.written(&all[3..4]);
        evidence.failed(&users(20..30), &error);
        evidence.failed(&all[3..4], &error);
        assert!(!evidence.is_blamed(&all[3], &error), "it was applied since: that was another time");
    }
}

#[tokio::test(start_paused = true)]
async fn a_message_that_breaks_the_connection_is_to_blame_where_it_fails_between_others_and_again() {
    let (evidence, all, error) = (Evidence::default(), users(0..10), broken());
    let me = &all[3..4];
    // An outage in the midst of a batch: the others pass once it is over.
    evidence.written(&all[0..3]);
    evidence.failed(&all[3..10], &error);
    evidence.failed(me, &error);
    evidence.written(&all[4..5]);
    assert!(is_postponed(evidence.judge(&me[0], &error)));
    // Others fail right before or right after it.
    evidence.failed(&all[5..6], &error);
    evidence.failed(me, &error);
    evidence.written(&all[6..7]);
    assert!(!evidence.is_blamed(&me[0], &error), "one failed right before");
    evidence.failed(me, &error);
    evidence.failed(&all[5..6], &error);
    evidence.written(&all[5..6]);
    assert!(!evidence.is_blamed(&me[0], &error), "one failed right after");
    for _ in 1..PROOFS {
        evidence.failed(me, &error);
        evidence.written(&all[7..8]);
        assert!(!evidence.is_blamed(&me[0], &error), "by chance");
    }
    for _ in 0..3 {
        evidence.failed(me, &error);
        evidence.written(&all[7..8]);
        assert!(evidence.is_blamed(&me[0], &error), "only this one fails");
        evidence.failed(me, &error);
        assert!(!evidence.is_blamed(&me[0], &error), "nobody passed since");
        evidence.written(&all[8..9]);
        evidence.failed(me, &error);
        assert!(evidence.is_blamed(&me[0], &error));
        evidence.written(&all[9..10]);
        assert!(evidence.is_blamed(&me[0], &error));
    }
}

#[tokio::test(start_paused = true)]
async fn a_table_that_refuses_every_row_is_tried_by_one_message_now_and_then_until_one_is_written() {
    let (evidence, all, error) = (Evidence::default(), users(0..4), policy());
    evidence.failed(&all, &error);
    evidence.written(&[an_organization()]);
    for user in &all[..2] {
        evidence.failed(std::slice::from_ref(user), &error);
        assert!(is_postponed(evidence.judge(user, &error)));
    }
    assert_eq!(evidence.blocked(), [("users", error.innermost().to_string())]);
    let batch = [users(0..3), vec![an_organization()]].concat();
    let plan = evidence.plan(&batch);
    assert_eq!((plan.alone.len(), plan.postponed.len()), (0, 3), "not yet");
    tokio::time::advance(POSTPONE).await;
    let plan = evidence.plan(&batch);
    assert_eq!((plan.alone, plan.postponed.len()), (vec![2], 2), "one that was not judged before");
    assert_eq!(evidence.plan(&batch).alone.len(), 0, "one for all lanes");
    evidence.failed(&all[2..3], &error);
    assert!(is_postponed(evidence.judge(&all[2], &error)), "though nobody passed since");
    evidence.written(&all[2..3]);
    assert!(evidence.blocked().is_empty());
    let plan = evidence.plan(&batch);
    assert_eq!((plan.alone, plan.postponed.len()), (vec![0, 1], 0));
}

#[tokio::test(start_paused = true)]
async fn a_table_of_which_no_message_waits_any_more_is_not_shown_as_refusing() {
    let (evidence, two, error) = (Evidence::default(), users(0..2), policy());
    evidence.failed(&two, &error);
    evidence.written(&[an_organization()]);
    for user in &two {
        evidence.failed(std::slice::from_ref(user), &error);
        evidence.judge(user, &error);
    }
    tokio::time::advance(RECENT).await;
    assert_eq!(evidence.blocked().len(), 1);
    tokio::time::advance(POSTPONE).await;
    assert!(evidence.blocked().is_empty());
}

#[tokio::test(start_paused = true)]
async fn the_only_message_that_is_too_slow_is_to_blame_and_neither_two_nor_another_error_is() {
    let (evidence, two) = (Evidence::default(), users(0..2));
    let blamed = |which: usize| {
        [slow(), policy(), broken(), locked()].map(|error| evidence.is_blamed(&two[which], &error))
    };
    evidence.failed(&two[..1], &slow());
    assert_eq!(blamed(0), [true, false, false, false]);
    evidence.failed(&two[1..], &slow());
    assert_eq!((blamed(0), blamed(1)), ([false; 4], [false; 4]));
    tokio::time::advance(RECENT).await;
    evidence.failed(&two[1..], &slow());
    assert_eq!(blamed(1), [true, false, false, false], "the other one failed too long ago");
}

#[tokio::test(start_paused = true)]
async fn no_more_messages_are_remembered_than_the_limit_says() {
    let evidence = Evidence::default();
    for first in (0..3 * FAILED_MAX).step_by(100) {
        evidence.failed(&users(first..first + 100), &slow());
    }
    assert!(evidence.state().failed.len() <= FAILED_MAX);
    assert_eq!(evidence.judge(&users(0..1)[0], &slow()), Verdict::Nobody);
}

#[test]
fn waits_double_to_the_limit() {
    let waits: Vec<u64> = [1, 2, 3, 4, 5, 6, 7, u32::MAX].map(|times| wait(times).as_secs()).into();
    assert_eq!(waits, [2, 4, 8, 16, 32, 60, 60, 60]);
}
