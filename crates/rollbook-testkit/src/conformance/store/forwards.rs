//! Records of the forwarder: holds, positions, changes that wait, and dead letters.

use std::time::Duration;

use rollbook_core::store::{
    ChangeKind, ChangeLine, ChangeOrigin, ChangesQuery, Forward, ForwardChange, ForwardMove, ForwardProgress,
    ForwardState, ForwardStop, GENERATION_MAX, OpenChanges, Position, StoreError,
};
use rollbook_core::time::Timestamp;
use tokio::task::JoinSet;

use super::{Mirror, StoreHarness};
use crate::events::{START, event, user};
use crate::process::until;

const HOUR: Duration = Duration::from_secs(3_600);
const LIMIT: usize = 100;

fn at(millis: i64) -> Timestamp {
    Timestamp::from_millis(START + millis)
}

/// A change of this subject that waits.
fn waiting(position: Position, subject: &str) -> ForwardChange {
    ForwardChange {
        line: ChangeLine {
            position,
            resource: "users".to_owned(),
            subject_id: subject.to_owned(),
            kind: ChangeKind::Updated,
            changed: Vec::new(),
            origin: ChangeOrigin::Cascade,
            cause: None,
            event_at: None,
            at: at(0),
        },
        state: ForwardState::Waiting,
        tries: 0,
        attempts: 0,
        failed_at: None,
        next_try_at: at(5),
        last_error: None,
    }
}

fn failed(position: Position, subject: &str) -> ForwardChange {
    let failed_at = Some(at(7));
    ForwardChange {
        state: ForwardState::Failed,
        tries: 9,
        attempts: 4,
        failed_at,
        ..waiting(position, subject)
    }
}

fn progress(position: Position, recorded: Vec<ForwardChange>) -> ForwardProgress {
    ForwardProgress { position, recorded, saved_at: at(3), ..ForwardProgress::default() }
}

impl<H: StoreHarness> Mirror<H> {
    async fn take(&self, holder: &str, begin: Position) -> Option<Forward> {
        self.harness.store().take_forward("crm", holder, HOUR, begin).await.expect("the store takes it")
    }

    async fn save(&self, epoch: u64, progress: &ForwardProgress) -> bool {
        self.harness.store().save_forward("crm", epoch, HOUR, progress).await.expect("the store saves")
    }

    async fn forward(&self) -> Forward {
        let mut all = self.harness.store().forwards().await.expect("the store lists forwards");
        assert_eq!(all.len(), 1);
        all.remove(0)
    }

    async fn recorded(&self, state: ForwardState) -> Vec<ForwardChange> {
        let listed = self.harness.store().forward_changes("crm", state, 0, LIMIT).await;
        listed.expect("the store lists changes")
    }

    async fn positions(&self, state: ForwardState) -> Vec<Position> {
        self.recorded(state).await.iter().map(|change| change.line.position).collect()
    }
}

pub async fn a_forward_has_one_holder_at_a_time_and_begins_where_it_first_ran(
    mirror: Mirror<impl StoreHarness>,
) {
    let store = mirror.harness.store();
    assert_eq!(store.forwards().await, Ok(Vec::new()));
    let taken = mirror.take("one", 40).await.expect("it is free");
    assert_eq!((taken.position, taken.epoch, taken.is_held), (40, 1, true));
    assert_eq!((taken.name.as_str(), taken.stopped, taken.waiting, taken.failed), ("crm", None, 0, 0));
    assert_eq!(mirror.take("other", 50).await, None);
    let again = mirror.take("one", 50).await.expect("its holder takes it again");
    assert_eq!((again.position, again.epoch), (40, 2), "it goes on where it is");
    let other = store.take_forward("mail", "other", HOUR, 0).await.expect("the store takes it");
    assert_eq!(other.map(|taken| taken.position), Some(0), "each name is a forward of its own");
    store.release_forward("crm", 1).await.expect("the store answers");
    assert_eq!(mirror.take("other", 50).await, None, "only the current epoch gives it back");
    store.release_forward("crm", 2).await.expect("the store gives it back");
    let names: Vec<(String, bool)> = store
        .forwards()
        .await
        .expect("the store lists forwards")
        .into_iter()
        .map(|forward| (forward.name, forward.is_held))
        .collect();
    assert_eq!(names, [("crm".to_owned(), false), ("mail".to_owned(), true)]);
    assert_eq!(mirror.take("other", 50).await.map(|taken| taken.epoch), Some(3));
}

pub async fn the_hold_of_a_forward_ends_by_itself_and_a_save_renews_it(
    mut mirror: Mirror<impl StoreHarness>,
) {
    let taken = mirror.take("one", 0).await.expect("it is free");
    mirror.harness.reopen().await;
    assert_eq!(mirror.take("other", 0).await, None, "the hold survives its process");
    let store = mirror.harness.store();
    let short = Duration::from_millis(20);
    assert_eq!(store.save_forward("crm", taken.epoch, short, &progress(0, Vec::new())).await, Ok(true));
    mirror.harness.clock().advance(short);
    until("the hold ends", || async { mirror.take("other", 0).await.is_some() }).await;
    assert_eq!(mirror.take("one", 0).await, None);
    let longest = store.take_forward("crm", "other", Duration::MAX, 0).await;
    assert!(longest.expect("the longest hold is limited").is_some());
}

pub async fn one_of_many_processes_that_take_a_forward_at_once_gets_it(mirror: Mirror<impl StoreHarness>) {
    for round in 0..5 {
        let mut takers = JoinSet::new();
        for number in 0..16 {
            let (store, name) = (mirror.harness.store(), format!("forward_{round}"));
            takers.spawn(async move {
                let holder = format!("holder_{number}");
                store.take_forward(&name, &holder, HOUR, 0).await.expect("the store takes it").is_some()
            });
        }
        let taken = takers.join_all().await.into_iter().filter(|taken| *taken).count();
        assert_eq!(taken, 1);
    }
}

pub async fn whoever_lost_a_forward_can_save_nothing(mirror: Mirror<impl StoreHarness>) {
    let store = mirror.harness.store();
    let first = mirror.take("one", 0).await.expect("it is free").epoch;
    assert!(mirror.save(first, &progress(4, Vec::new())).await);
    let second = mirror.take("one", 0).await.expect("its holder takes it again").epoch;
    assert!(!mirror.save(first, &progress(9, vec![waiting(9, "user_1")])).await);
    assert_eq!((mirror.forward().await.position, mirror.positions(ForwardState::Waiting).await), (4, vec![]));
    assert!(mirror.save(second, &progress(5, vec![failed(5, "user_1")])).await);
    let unknown = store.save_forward("mail", 1, HOUR, &progress(1, Vec::new())).await;
    assert_eq!(unknown, Ok(false), "a forward that never ran has no epoch");
    // A command of an operator takes the epoch from the process, and not the forward.
    let command = |number: u32| {
        let store = mirror.harness.store();
        async move {
            match number {
                0 => store.redrive_forward("crm", &[5], at(0)).await.map(|changed| changed == 1),
                1 => store.move_forward("crm", ForwardMove::Resume(5)).await,
                _ => store.move_forward("crm", ForwardMove::Replay(5)).await,
            }
        }
    };
    for number in 0..3 {
        let epoch = mirror.take("one", 0).await.expect("its holder takes it again").epoch;
        assert_eq!(command(number).await, Ok(true), "{number}");
        assert!(!mirror.save(epoch, &progress(7, Vec::new())).await, "{number}");
        assert_eq!(mirror.take("other", 0).await, None, "{number}");
    }
}

pub async fn a_save_moves_the_position_and_records_and_removes_changes_at_once(
    mut mirror: Mirror<impl StoreHarness>,
) {
    let epoch = mirror.take("one", 0).await.expect("it is free").epoch;
    let first = vec![waiting(3, "user_1"), waiting(5, "user_1"), waiting(6, "user_2"), failed(7, "user_3")];
    assert!(mirror.save(epoch, &progress(7, first)).await);
    let forward = mirror.forward().await;
    assert_eq!((forward.position, forward.waiting, forward.blocked, forward.failed), (7, 3, 2, 1));
    assert_eq!((forward.saved_at, forward.is_held), (at(3), true));
    let later = ForwardProgress {
        removed: vec![3, 99],
        recorded: vec![failed(5, "user_1"), waiting(8, "user_2")],
        ..progress(8, Vec::new())
    };
    assert!(mirror.save(epoch, &later).await);
    mirror.harness.reopen().await;
    assert_eq!(mirror.positions(ForwardState::Waiting).await, [6, 8]);
    assert_eq!(mirror.recorded(ForwardState::Failed).await, [failed(5, "user_1"), failed(7, "user_3")]);
    let forward = mirror.forward().await;
    assert_eq!((forward.position, forward.waiting, forward.blocked, forward.failed), (8, 2, 1, 2));
}

pub async fn a_recorded_change_comes_back_with_all_its_fields(mut mirror: Mirror<impl StoreHarness>) {
    let epoch = mirror.take("one", 0).await.expect("it is free").epoch;
    let mut all = Vec::new();
    for (kind, position) in ChangeKind::ALL.into_iter().zip(1..) {
        let mut change = failed(position, "org_\u{e9}'\"\\");
        "organizations".clone_into(&mut change.line.resource);
        change.line.kind = kind;
        change.line.changed = vec!["name".to_owned(), "a \"quoted\", odd one".to_owned()];
        change.line.cause = Some("msg_1".to_owned());
        change.line.event_at = Some(at(-70));
        (change.tries, change.attempts) = (u32::MAX, 12);
        change.last_error = Some("the endpoint answered 500".to_owned());
        all.push(change);
    }
    for (origin, position) in ChangeOrigin::ALL.into_iter().zip(11..) {
        let mut change = failed(position, "user_1");
        change.line.origin = origin;
        all.push(change);
    }
    let last = Position::try_from(i64::MAX).expect("a position");
    all.push(failed(last, "user_1"));
    assert!(mirror.save(epoch, &progress(last, all.clone())).await);
    mirror.harness.reopen().await;
    assert_eq!(mirror.recorded(ForwardState::Failed).await, all);
    assert_eq!(mirror.forward().await.position, last);
}

pub async fn a_stop_stays_until_an_operator_moves_the_forward(mut mirror: Mirror<impl StoreHarness>) {
    let epoch = mirror.take("one", 0).await.expect("it is free").epoch;
    let stop = ForwardStop { at: at(9), reason: "the endpoint answered 410".to_owned() };
    let stopping = ForwardProgress { stopped: Some(stop.clone()), ..progress(2, Vec::new()) };
    assert!(mirror.save(epoch, &stopping).await);
    assert!(mirror.save(epoch, &progress(2, Vec::new())).await);
    mirror.harness.reopen().await;
    let taken = mirror.take("one", 0).await.expect("its holder takes it again");
    assert_eq!(taken.stopped, Some(stop.clone()));
    assert_eq!(mirror.forward().await.stopped, Some(stop));
    let store = mirror.harness.store();
    assert_eq!(store.move_forward("crm", ForwardMove::Resume(2)).await, Ok(true));
    let forward = mirror.forward().await;
    assert_eq!((forward.stopped, forward.position), (None, 2));
    assert_eq!(store.move_forward("mail", ForwardMove::Resume(2)).await, Ok(false), "it never ran");
}

pub async fn a_replay_removes_what_is_read_again_and_a_resume_keeps_everything(
    mirror: Mirror<impl StoreHarness>,
) {
    let store = mirror.harness.store();
    let epoch = mirror.take("one", 0).await.expect("it is free").epoch;
    let recorded = vec![waiting(3, "user_1"), failed(4, "user_2"), waiting(8, "user_1"), failed(9, "user_2")];
    assert!(mirror.save(epoch, &progress(9, recorded)).await);
    let other = store.take_forward("mail", "one", HOUR, 0).await.expect("the store takes it");
    let epoch = other.expect("it is free").epoch;
    let saved = store.save_forward("mail", epoch, HOUR, &progress(9, vec![failed(9, "user_2")])).await;
    assert_eq!(saved, Ok(true));
    assert_eq!(store.move_forward("crm", ForwardMove::Resume(6)).await, Ok(true));
    assert_eq!(mirror.positions(ForwardState::Waiting).await, [3, 8]);
    assert_eq!(mirror.positions(ForwardState::Failed).await, [4, 9]);
    assert_eq!(store.move_forward("crm", ForwardMove::Replay(4)).await, Ok(true));
    assert_eq!(mirror.positions(ForwardState::Waiting).await, [3]);
    assert_eq!(mirror.positions(ForwardState::Failed).await, [4]);
    let forwards = store.forwards().await.expect("the store lists forwards");
    let seen: Vec<_> = forwards.iter().map(|forward| (forward.position, forward.failed)).collect();
    assert_eq!(seen, [(4, 1), (9, 1)], "the other forward is left alone");
}

pub async fn dead_letters_are_redriven_or_discarded_and_others_are_left_alone(
    mirror: Mirror<impl StoreHarness>,
) {
    let store = mirror.harness.store();
    let epoch = mirror.take("one", 0).await.expect("it is free").epoch;
    let recorded = vec![waiting(3, "user_1"), failed(4, "user_2"), failed(5, "user_2"), failed(6, "user_2")];
    assert!(mirror.save(epoch, &progress(9, recorded)).await);
    assert_eq!(store.redrive_forward("crm", &[3, 4, 77], at(50)).await, Ok(1));
    let expected = ForwardChange { next_try_at: at(50), ..waiting(4, "user_2") };
    assert_eq!(mirror.recorded(ForwardState::Waiting).await, [waiting(3, "user_1"), expected]);
    assert_eq!(store.discard_forward("crm", &[3, 6, 77]).await, Ok(1));
    assert_eq!(mirror.positions(ForwardState::Failed).await, [5]);
    assert_eq!(mirror.positions(ForwardState::Waiting).await, [3, 4]);
    let epoch = mirror.forward().await.epoch;
    assert_eq!(store.discard_forward("crm", &[77]).await, Ok(0));
    assert_eq!(mirror.forward().await.epoch, epoch, "nothing changed, so the process goes on");
    assert_eq!(store.redrive_forward("mail", &[1], at(0)).await, Ok(0));
}

pub async fn recorded_changes_are_listed_in_pages_by_position(mirror: Mirror<impl StoreHarness>) {
    let store = mirror.harness.store();
    assert_eq!(store.check_forwards().await, Ok::<(), StoreError>(()));
    let epoch = mirror.take("one", 0).await.expect("it is free").epoch;
    let recorded = (1..=7).rev().map(|position| waiting(position, &format!("user_{position}"))).collect();
    assert!(mirror.save(epoch, &progress(7, recorded)).await);
    let mut found = Vec::new();
    loop {
        let after = found.last().copied().unwrap_or_default();
        let page = store.forward_changes("crm", ForwardState::Waiting, after, 3).await.expect("a page");
        if page.is_empty() {
            break;
        }
        assert!(page.len() <= 3);
        found.extend(page.iter().map(|change| change.line.position));
    }
    assert_eq!(found, [1, 2, 3, 4, 5, 6, 7]);
}

pub async fn open_changes_generation_and_pause_are_saved_with_the_position(
    mut mirror: Mirror<impl StoreHarness>,
) {
    let known = |forward: &Forward| (forward.open_changes.clone(), forward.generation, forward.paused_until);
    let epoch = mirror.take("one", 0).await.expect("it is free").epoch;
    assert_eq!(known(&mirror.forward().await), (None, None, None));
    let open_changes = Some(OpenChanges { through: 90, open: vec![6, 7, 8, 41] });
    let saved = ForwardProgress {
        open_changes: open_changes.clone(),
        generation: Some(GENERATION_MAX),
        paused_until: Some(at(77)),
        ..progress(5, Vec::new())
    };
    assert!(mirror.save(epoch, &saved).await);
    mirror.harness.reopen().await;
    let taken = mirror.take("one", 0).await.expect("its holder takes it again");
    assert_eq!(known(&taken), (open_changes.clone(), Some(GENERATION_MAX), Some(at(77))));
    let store = mirror.harness.store();
    // A resume keeps what is known of changes above the position, also at a later position. A replay forgets it.
    assert_eq!(store.move_forward("crm", ForwardMove::Resume(7)).await, Ok(true));
    assert_eq!(known(&mirror.forward().await), (open_changes, None, None));
    let epoch = mirror.take("one", 0).await.expect("its holder takes it again").epoch;
    assert!(mirror.save(epoch, &saved).await);
    assert_eq!(store.move_forward("crm", ForwardMove::Replay(5)).await, Ok(true));
    assert_eq!(known(&mirror.forward().await), (None, None, None));
    let epoch = mirror.take("one", 0).await.expect("its holder takes it again").epoch;
    assert!(mirror.save(epoch, &progress(6, Vec::new())).await);
    assert_eq!(known(&mirror.forward().await), (None, None, None));
}

pub async fn a_feed_has_one_generation_until_it_is_renewed(mut mirror: Mirror<impl StoreHarness>) {
    let feed = mirror.harness.store().feed().await.expect("a feed");
    assert!(feed.generation > 0 && feed.generation <= GENERATION_MAX, "{}", feed.generation);
    mirror.apply_one("msg_1", event("user.created", START, &user("user_1", START))).await;
    mirror.harness.reopen().await;
    let store = mirror.harness.store();
    let query = ChangesQuery { limit: 1, ..ChangesQuery::default() };
    assert_eq!(store.changes(&query).await.expect("a page").generation, feed.generation);
    let renewed = store.renew_feed().await.expect("the store renews it");
    assert_ne!(renewed, feed.generation);
    mirror.harness.reopen().await;
    let store = mirror.harness.store();
    assert_eq!(store.feed().await.expect("a feed").generation, renewed);
    assert_eq!(store.changes(&query).await.expect("a page").generation, renewed);
}
