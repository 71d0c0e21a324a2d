//! Tests of the rules, one by one.

use std::time::Duration;

use rollbook_core::retry::RetryPolicy;
use rollbook_core::store::{ChangeKind, ChangeOrigin};

use super::*;

pub(super) const LIMITS: Limits = Limits {
    retry: RetryPolicy {
        backoff: Duration::from_secs(4),
        backoff_max: Duration::from_secs(600),
        attempts_max: 3,
    },
    give_up_after: Duration::from_secs(86_400),
    concurrency: 1_000,
    slow_max: 0,
    blocked_max: 1_000,
    waiting_max: 10_000,
    failed_max: 10_000,
    fresh_max: 1_000,
    fresh_of_subject_max: 64,
};

/// A forward that the store has at this position, with so many dead letters.
pub(super) fn forward(position: Position, failed: u64) -> Forward {
    Forward {
        name: "crm".to_owned(),
        position,
        epoch: 1,
        is_held: true,
        stopped: None,
        saved_at: at(0),
        waiting: 0,
        blocked: 0,
        failed,
        open_changes: None,
        generation: None,
        paused_until: None,
    }
}

fn board_at(limits: Limits, position: Position, failed: u64) -> Board {
    Board::new(limits, &forward(position, failed), at(0))
}

pub(super) fn at(seconds: i64) -> Timestamp {
    Timestamp::from_seconds(1_785_312_000 + seconds)
}

pub(super) fn line(position: Position, subject: &str) -> ChangeLine {
    ChangeLine {
        position,
        resource: "users".to_owned(),
        subject_id: subject.to_owned(),
        kind: ChangeKind::Updated,
        changed: Vec::new(),
        origin: ChangeOrigin::Webhook,
        cause: None,
        event_at: None,
        at: at(0),
    }
}

fn board(lines: &[(Position, &str)]) -> Board {
    let mut board = board_at(LIMITS, 0, 0);
    let through = lines.last().map_or(0, |(position, _)| *position);
    board.read(lines.iter().map(|(position, subject)| line(*position, subject)), through, at(0));
    board
}

pub(super) const fn refused(status: u16) -> Verdict {
    Verdict::Refused { status, pause: None }
}

/// Positions that can be sent at a time.
fn sendable(board: &mut Board, now: Timestamp) -> Vec<Position> {
    std::iter::from_fn(|| board.next(now)).map(|line| line.position).collect()
}

#[test]
fn subjects_are_sent_in_parallel_and_the_changes_of_one_in_order() {
    let mut board = board(&[(1, "a"), (2, "a"), (3, "b"), (4, "a")]);
    assert_eq!(sendable(&mut board, at(0)), [1, 3]);
    board.answered(&line(1, "a"), &Verdict::Accepted, at(0), 0.0);
    assert_eq!(sendable(&mut board, at(0)), [2]);
    assert_eq!(board.position(), 1, "2 is being sent");
    board.answered(&line(2, "a"), &Verdict::Accepted, at(0), 0.0);
    assert_eq!((board.position(), sendable(&mut board, at(0))), (2, vec![4]));
    board.answered(&line(4, "a"), &Verdict::Accepted, at(0), 0.0);
    assert_eq!(board.position(), 2, "3 is being sent");
    board.answered(&line(3, "b"), &Verdict::Accepted, at(0), 0.0);
    assert_eq!((board.position(), board.progress(at(0)).removed.len()), (4, 0));
}

#[test]
fn a_failed_change_is_recorded_with_what_follows_and_the_position_passes_them() {
    let mut board = board(&[(1, "a"), (2, "b"), (3, "a")]);
    assert_eq!(sendable(&mut board, at(0)), [1, 2]);
    board.answered(&line(1, "a"), &refused(500), at(0), 0.0);
    let progress = board.progress(at(1));
    let recorded: Vec<_> = progress.recorded.iter().map(|of| (of.line.position, of.tries)).collect();
    assert_eq!((progress.position, recorded), (1, vec![(1, 1), (3, 0)]), "2 is being sent");
    board.saved();
    board.answered(&line(2, "b"), &Verdict::Accepted, at(0), 0.0);
    assert_eq!((board.position(), board.blocked), (3, 1));
    board.read([line(4, "a"), line(5, "b")], 5, at(0));
    assert_eq!(sendable(&mut board, at(0)), [1, 5], "the endpoint accepts changes: 1 is due at once");
    let recorded: Vec<_> = board.progress(at(1)).recorded.iter().map(|of| of.line.position).collect();
    assert_eq!(recorded, [4], "it waits behind 1");
    board.saved();
    board.answered(&line(1, "a"), &Verdict::Accepted, at(2), 0.0);
    assert_eq!(board.progress(at(3)).removed, [1]);
    for position in [3, 4] {
        assert_eq!(sendable(&mut board, at(2)), [position]);
        board.answered(&line(position, "a"), &Verdict::Accepted, at(2), 0.0);
    }
    assert_eq!(board.blocked, 0);
}

#[test]
fn the_backoff_doubles_from_half_of_the_limit_to_all_of_it() {
    for (jitter, delays) in [(0.0, [2, 4, 8]), (1.0, [4, 8, 16])] {
        let mut board = board(&[(1, "a")]);
        let mut now = at(0);
        for delay in delays.map(Duration::from_secs) {
            assert_eq!(sendable(&mut board, now), [1]);
            board.answered(&line(1, "a"), &refused(500), now, jitter);
            assert_eq!(board.next_at(), Some(now.plus(delay)));
            assert_eq!(
                sendable(&mut board, now.plus(delay.saturating_sub(Duration::from_millis(1)))),
                [0; 0]
            );
            now = now.plus(delay);
        }
    }
}

/// Fails the change 1 of `a` once, with a change of another subject accepted meanwhile if that is wanted.
fn fail_once(board: &mut Board, other: Option<Position>, now: Timestamp) {
    if let Some(position) = other {
        board.read([line(position, "other")], position, now);
    }
    let sent = sendable(board, now);
    assert_eq!(sent.len(), 1 + usize::from(other.is_some()));
    if let Some(position) = other {
        board.answered(&line(position, "other"), &Verdict::Accepted, now, 0.0);
    }
    board.answered(&line(1, "a"), &refused(500), now, 0.0);
}

#[test]
fn a_change_that_fails_while_others_are_accepted_becomes_a_dead_letter_and_the_next_goes_on() {
    let mut board = board(&[(1, "a"), (2, "a")]);
    for (attempt, position) in (1..=3).zip(10..) {
        assert_eq!(board.progress(at(0)).recorded.iter().filter(|of| of.attempts >= 3).count(), 0);
        fail_once(&mut board, Some(position), at(attempt * 1_000));
    }
    let progress = board.progress(at(0));
    let states: Vec<_> = progress.recorded.iter().map(|of| (of.line.position, of.state)).collect();
    assert_eq!(states, [(1, ForwardState::Failed), (2, ForwardState::Waiting)]);
    assert_eq!(progress.recorded[0].last_error.as_deref(), Some("the endpoint answered 500"));
    assert_eq!(sendable(&mut board, at(5_000)), [0; 0], "a kill now would bring 1 back");
    board.saved();
    assert_eq!(sendable(&mut board, at(5_000)), [2]);
}

#[test]
fn while_nothing_is_accepted_no_attempt_counts_until_it_is_given_up() {
    let mut board = board(&[(1, "a")]);
    for hour in 0..24 {
        fail_once(&mut board, None, at(hour * 3_600));
        let recorded = board.progress(at(0)).recorded;
        assert_eq!((recorded[0].state, recorded[0].attempts), (ForwardState::Waiting, 0));
    }
    fail_once(&mut board, None, at(86_400));
    assert_eq!(board.progress(at(0)).recorded[0].state, ForwardState::Failed);
}

#[test]
fn a_rate_limit_counts_against_no_change_and_holds_the_whole_forward() {
    let mut board = board(&[(1, "a")]);
    for (attempt, position) in (0..5).zip(2..) {
        let now = at(attempt * 10_000);
        board.read([line(position, "other")], position, now);
        assert_eq!(sendable(&mut board, now), [1, position]);
        board.answered(&line(position, "other"), &Verdict::Accepted, now, 0.0);
        let limited = Verdict::Refused { status: 429, pause: Some(Duration::from_secs(1_800)) };
        board.answered(&line(1, "a"), &limited, now, 0.0);
        assert_eq!(sendable(&mut board, now.plus(Duration::from_secs(1_799))), [0; 0]);
        assert_eq!(board.next_at(), Some(now.plus(Duration::from_secs(1_800))));
        let recorded = board.progress(now).recorded;
        assert_eq!((recorded[0].attempts, recorded[0].state), (0, ForwardState::Waiting));
    }
}

#[test]
fn a_limited_change_keeps_its_backoff_while_others_are_accepted() {
    let mut board = board(&[(1, "a"), (2, "b")]);
    assert_eq!(sendable(&mut board, at(0)), [1, 2]);
    board.answered(&line(1, "a"), &refused(429), at(0), 0.0);
    board.answered(&line(2, "b"), &Verdict::Accepted, at(0), 0.0);
    assert_eq!(sendable(&mut board, at(1)), [0; 0]);
    assert_eq!(board.next_at(), Some(at(2)));
}

#[test]
fn a_change_that_failed_before_a_restart_is_due_at_the_first_acceptance() {
    let mut earlier = board(&[(1, "a")]);
    let sent = earlier.next(at(0)).expect("a change");
    earlier.answered(&sent, &Verdict::TimedOut, at(0), 0.0);
    let mut board = board_at(LIMITS, 1, 0);
    for change in earlier.progress(at(0)).recorded {
        board.restore(change, at(0));
    }
    board.read([line(2, "b")], 2, at(0));
    assert_eq!(sendable(&mut board, at(0)), [2]);
    board.answered(&line(2, "b"), &Verdict::Accepted, at(0), 0.0);
    assert_eq!(sendable(&mut board, at(0)), [1]);
}

#[test]
fn too_many_blocked_subjects_changes_and_dead_letters_stop_the_reading() {
    let limits = Limits { blocked_max: 2, waiting_max: 4, failed_max: 1, fresh_max: 3, ..LIMITS };
    let mut board = board_at(limits, 0, 0);
    board.read([line(1, "a"), line(2, "b")], 2, at(0));
    assert!(board.wants_more());
    board.read([line(3, "c")], 3, at(0));
    assert!(!board.wants_more() && board.full().is_none(), "three are open");
    for subject in ["a", "b"] {
        let line = board.next(at(0)).expect("a change");
        assert_eq!(line.subject_id, subject);
        board.answered(&line, &refused(500), at(0), 0.0);
    }
    assert!(!board.wants_more());
    assert_eq!(board.full().expect("full"), "2 blocked objects (blocked_max)");
    let again = board.next(at(10)).expect("a retry takes its turn");
    assert_eq!(again.subject_id, "a");
    board.answered(&again, &Verdict::Accepted, at(10), 0.0);
    assert!(board.wants_more());
    let many = board_at(Limits { blocked_max: 9, ..limits }, 0, 1);
    assert_eq!(many.full().expect("full"), "1 dead letter, the maximum");
    let mut waiting = board_at(Limits { blocked_max: 9, ..limits }, 0, 0);
    waiting.read((1..=4).map(|position| line(position, "a")), 4, at(0));
    let first = waiting.next(at(0)).expect("a change");
    waiting.answered(&first, &refused(500), at(0), 0.0);
    assert_eq!(waiting.full().expect("full"), "4 waiting changes, the maximum");
}
