//! Tests of what one subject may take, of exact limits, and of what a restart knows.

use std::time::Duration;

use rollbook_core::store::{ForwardProgress, OpenChanges};

use super::tests::{LIMITS, at, forward, line, refused};
use super::*;

fn board_of(limits: Limits, lines: &[(Position, &str)]) -> Board {
    let mut board = Board::new(limits, &forward(0, 0), at(0));
    let through = lines.last().map_or(0, |(position, _)| *position);
    board.read(lines.iter().map(|(position, subject)| line(*position, subject)), through, at(0));
    board
}

/// Positions of the requests that can begin now.
fn begun(board: &mut Board, now: Timestamp) -> Vec<Position> {
    std::iter::from_fn(|| board.next(now)).map(|line| line.position).collect()
}

fn fail(board: &mut Board, change: &ChangeLine, now: Timestamp) {
    board.answered(change, &Verdict::TimedOut, now, 0.0);
}

/// A board of the process after a kill: from what was saved.
fn after_kill(limits: Limits, saved: &ForwardProgress, stored: &[ForwardChange], now: Timestamp) -> Board {
    let known = Forward {
        open_changes: saved.open_changes.clone(),
        paused_until: saved.paused_until,
        ..forward(saved.position, 0)
    };
    let mut board = Board::new(limits, &known, now);
    for change in stored {
        board.restore(change.clone(), now);
    }
    board
}

#[test]
fn retries_leave_room_for_first_attempts_and_get_room_from_them() {
    let limits = Limits { concurrency: 8, ..LIMITS };
    let old: Vec<(Position, String)> =
        (1..=20).map(|position| (position, format!("old_{position}"))).collect();
    let lines: Vec<(Position, &str)> =
        old.iter().map(|(position, name)| (*position, name.as_str())).collect();
    let mut board = board_of(limits, &lines);
    for _ in 0..20 {
        let change = board.next(at(0)).expect("a change");
        fail(&mut board, &change, at(0));
    }
    let retries = begun(&mut board, at(100));
    assert_eq!(retries.len(), 4, "half of the requests at once");
    board.read((21..=60).map(|position| line(position, &format!("new_{position}"))), 60, at(100));
    let first = begun(&mut board, at(100));
    assert_eq!(first, [21, 22, 23, 24], "the other half is left for first attempts");
    // All eight hang. The requests that end give their room to both kinds in turn.
    fail(&mut board, &line(21, "new_21"), at(110));
    fail(&mut board, &line(retries[0], &format!("old_{}", retries[0])), at(110));
    fail(&mut board, &line(retries[1], &format!("old_{}", retries[1])), at(110));
    fail(&mut board, &line(retries[2], &format!("old_{}", retries[2])), at(110));
    let next = begun(&mut board, at(110));
    assert_eq!(next.iter().filter(|position| **position <= 20).count(), 1, "{next:?}");
    assert_eq!(next.len(), 4);
}

#[test]
fn with_one_request_at_once_retries_and_first_attempts_take_turns() {
    let mut board = board_of(Limits { concurrency: 1, ..LIMITS }, &[(1, "a"), (2, "b"), (3, "c"), (4, "d")]);
    for _ in 0..2 {
        let change = board.next(at(0)).expect("a change");
        fail(&mut board, &change, at(0));
    }
    let mut sent = Vec::new();
    for _ in 0..4 {
        let change = board.next(at(100)).expect("a change");
        sent.push(change.position);
        fail(&mut board, &change, at(100));
    }
    assert_eq!(sent, [1, 3, 2, 4]);
}

#[test]
fn a_slow_subject_with_many_changes_keeps_few_in_hand_and_others_are_read() {
    let limits = Limits { fresh_max: 10, fresh_of_subject_max: 4, ..LIMITS };
    let mut board = Board::new(limits, &forward(0, 0), at(0));
    for position in 1..=100 {
        board.read([line(position, "slow")], position, at(0));
    }
    assert!(board.wants_more(), "the slow one takes 4 of 10");
    board.read([line(101, "other")], 101, at(0));
    assert_eq!(begun(&mut board, at(0)), [1, 101]);
    board.answered(&line(101, "other"), &Verdict::Accepted, at(0), 0.0);
    let saved = board.progress(at(0));
    assert_eq!((saved.position, saved.recorded.len()), (0, 96));
    assert_eq!(saved.open_changes, Some(OpenChanges { through: 101, open: vec![1, 2, 3, 4] }));
    // After a kill, the open changes are read again, and come before the recorded ones.
    let mut board = after_kill(limits, &saved, &saved.recorded, at(1));
    assert_eq!(begun(&mut board, at(1)), [0; 0], "earlier changes of the subject are not read yet");
    assert!(board.wants_more());
    board.read(
        (1..=101).map(|position| line(position, if position == 101 { "other" } else { "slow" })),
        101,
        at(1),
    );
    let mut sent = Vec::new();
    while let Some(change) = board.next(at(1)) {
        sent.push(change.position);
        board.answered(&change, &Verdict::Accepted, at(1), 0.0);
    }
    assert_eq!(sent, (1..=100).collect::<Vec<Position>>(), "in order, and 101 is not repeated");
    assert_eq!(board.position(), 101);
}

#[test]
fn what_was_delivered_or_discarded_above_the_position_is_not_sent_again_after_a_kill() {
    let mut board = board_of(LIMITS, &[(1, "hangs"), (2, "b"), (3, "c"), (4, "d")]);
    assert_eq!(begun(&mut board, at(0)), [1, 2, 3, 4]);
    for (position, subject) in [(2, "b"), (4, "d")] {
        board.answered(&line(position, subject), &Verdict::Accepted, at(0), 0.0);
    }
    board.answered(&line(3, "c"), &refused(422), at(0), 0.0);
    let saved = board.progress(at(0));
    assert_eq!((saved.position, saved.recorded.len()), (0, 1));
    // The dead letter 3 was discarded: the store has no record of it.
    let mut board = after_kill(LIMITS, &saved, &[], at(1));
    board.read([line(1, "hangs"), line(2, "b"), line(3, "c"), line(4, "d"), line(5, "e")], 5, at(1));
    assert_eq!(begun(&mut board, at(1)), [1, 5]);
    assert_eq!(board.progress(at(1)).open_changes, Some(OpenChanges { through: 5, open: vec![1, 5] }));
}

#[test]
fn the_limits_of_blocked_subjects_waiting_changes_and_dead_letters_are_exact() {
    let limits = Limits { blocked_max: 2, waiting_max: 3, failed_max: 1, ..LIMITS };
    let names: Vec<String> = (1..=8).map(|number| format!("s{}", number % 4)).collect();
    let lines: Vec<(Position, &str)> = (1..).zip(names.iter().map(String::as_str)).collect();
    let mut board = board_of(limits, &lines);
    for round in 0..20 {
        let now = at(round * 1_000);
        // Another change is accepted each time, so that attempts count.
        let position = 100 + round.unsigned_abs();
        board.read([line(position, "healthy")], position, now);
        let mut sent = Vec::new();
        while let Some(change) = board.next(now) {
            sent.push(change);
        }
        for change in &sent {
            let verdict = if change.subject_id == "healthy" { Verdict::Accepted } else { refused(422) };
            board.answered(change, &verdict, now, 0.0);
        }
        assert!(board.blocked <= 2 && board.waiting <= 3 && board.failed <= 1, "{board:?}");
        let recorded = board.progress(now).recorded;
        let failed = recorded.iter().filter(|change| change.state == ForwardState::Failed).count();
        assert!(failed <= 1, "{failed}");
        board.saved();
    }
    assert_eq!(board.dead_letters(), 1);
    assert!(!board.wants_more());
    let saved = board.progress(at(0));
    let open = saved.open_changes.expect("open changes").open;
    assert_eq!(open.len() as u64 + board.waiting + board.failed, 8, "nothing is lost");
}

#[test]
fn a_pause_that_the_endpoint_asked_for_is_saved_and_holds_after_a_restart() {
    let mut board = board_of(LIMITS, &[(1, "a")]);
    let change = board.next(at(0)).expect("a change");
    let pause = Some(Duration::from_secs(600));
    board.answered(&change, &Verdict::Refused { status: 503, pause }, at(0), 0.0);
    let saved = board.progress(at(1));
    assert_eq!(saved.paused_until, Some(at(600)));
    let mut board = after_kill(LIMITS, &saved, &saved.recorded, at(2));
    assert_eq!((board.next(at(599)), board.next_at()), (None, Some(at(600))));
    assert_eq!(begun(&mut board, at(600)), [1]);
    board.end_pause(at(600));
    assert_eq!(board.progress(at(600)).paused_until, None);
}

#[test]
fn times_that_were_saved_by_a_clock_that_was_ahead_delay_a_change_by_one_backoff_at_most() {
    let mut board = board_of(LIMITS, &[(1, "a")]);
    let ahead = at(365 * 86_400);
    let change = board.next(ahead).expect("a change");
    let pause = Some(Duration::from_secs(60));
    board.answered(&change, &Verdict::Refused { status: 503, pause }, ahead, 1.0);
    let saved = board.progress(ahead);
    let mut board = after_kill(LIMITS, &saved, &saved.recorded, at(0));
    let next = board.next_at().expect("it waits");
    assert!(next <= at(0).plus(RETRY_AFTER_MAX), "{next}");
    let without_pause = ForwardProgress { paused_until: None, ..saved.clone() };
    board = after_kill(LIMITS, &without_pause, &saved.recorded, at(0));
    assert_eq!(board.next_at(), Some(at(4)));
}

#[test]
fn a_clock_that_stepped_forward_between_two_processes_makes_no_dead_letter() {
    let mut board = board_of(LIMITS, &[(1, "a")]);
    let change = board.next(at(0)).expect("a change");
    fail(&mut board, &change, at(0));
    let saved = board.progress(at(0));
    let later = at(365 * 86_400);
    let mut board = after_kill(LIMITS, &saved, &saved.recorded, later);
    for tries in 2..=3_u32 {
        assert_eq!(board.dead_letters(), 0, "{tries}");
        let change = board.next(later.plus(Duration::from_secs(3_600))).expect("a change");
        fail(&mut board, &change, later);
    }
    assert_eq!(board.dead_letters(), 1, "after attempts_max requests the time decides");
}

#[test]
fn a_change_with_a_row_that_can_not_be_read_becomes_a_dead_letter_and_others_go_on() {
    let mut board = board_of(LIMITS, &[(1, "a"), (2, "a")]);
    for round in 1..=3 {
        let now = at(round * 1_000);
        let position = 10 + round.unsigned_abs();
        board.read([line(position, "other")], position, now);
        assert_eq!(begun(&mut board, now), [1, position]);
        board.answered(&line(position, "other"), &Verdict::Accepted, now, 0.0);
        board.answered(&line(1, "a"), &Verdict::Unreadable, now, 0.0);
    }
    let failed = board.progress(at(0)).recorded.remove(0);
    assert_eq!((failed.state, failed.attempts), (ForwardState::Failed, 3));
    assert_eq!(failed.last_error.as_deref(), Some("the store could not read the row for expand"));
}

#[test]
fn a_change_without_room_for_its_row_is_sent_again_and_no_attempt_counts() {
    let mut board = board_of(LIMITS, &[(1, "a")]);
    assert_eq!(begun(&mut board, at(0)), [1]);
    board.answered(&line(1, "a"), &Verdict::Postponed, at(1), 0.0);
    assert_eq!(begun(&mut board, at(1)), [1]);
    assert_eq!(board.progress(at(1)).recorded, []);
}
