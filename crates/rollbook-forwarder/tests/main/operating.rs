//! Stops, commands of an operator, and several processes.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rollbook_core::store::{
    ForwardMove, ForwardState, ForwardStop, Forwards as _, RetentionLimits, Store as _,
};
use rollbook_core::time::{Clock as _, Timestamp};
use rollbook_forwarder::Verdict;
use rollbook_operator::forwards::{ForwardError, Resumed, replay, resume};

use crate::stage::{NAME, Stage, refused, settings, until};

#[tokio::test(start_paused = true)]
async fn an_answer_410_stops_the_forward_until_it_is_resumed_and_loses_nothing() {
    let is_gone = Arc::new(AtomicBool::new(true));
    let gone = Arc::clone(&is_gone);
    let stage = Stage::new(move |_, _| {
        let verdict = if gone.load(Ordering::Relaxed) { Verdict::Gone } else { Verdict::Accepted };
        (Duration::ZERO, verdict)
    });
    let running = stage.begin(settings()).await;
    stage.write(&["user_1", "user_2"]).await;
    until("it stopped", || async { stage.forward().await.stopped.is_some() }).await;
    let ForwardStop { reason, .. } = stage.forward().await.stopped.expect("a stop");
    assert_eq!(reason, "the endpoint answered 410: it wants no more changes");
    let asked = stage.endpoint.got().len();
    tokio::time::sleep(Duration::from_secs(3_600)).await;
    assert_eq!(stage.endpoint.got().len(), asked, "nothing more is sent");
    running.stop().await;
    let running = stage.start(settings());
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(stage.endpoint.got().len(), asked, "a restart does not start it again");
    is_gone.store(false, Ordering::Relaxed);
    let position = stage.forward().await.position;
    stage.store.move_forward(NAME, ForwardMove::Resume(position)).await.expect("it is moved");
    stage.until_settled().await;
    let mut accepted = stage.endpoint.accepted();
    accepted.sort_unstable();
    assert_eq!(accepted, [1, 2]);
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_forward_that_would_miss_removed_changes_stops_and_says_so() {
    let stage = Stage::accepting();
    stage.begin(settings()).await.stop().await;
    stage.write(&["user_1", "user_2", "user_3"]).await;
    let end = Timestamp::parse("9000-01-01T00:00:00.000Z");
    let due = RetentionLimits { changes_before: end, limit: 2, ..RetentionLimits::default() };
    stage.store.retain(&due).await.expect("the store retains");
    let running = stage.start(settings());
    until("it stopped", || async { stage.forward().await.stopped.is_some() }).await;
    let ForwardStop { reason, .. } = stage.forward().await.stopped.expect("a stop");
    assert!(reason.starts_with("changes after position 0 were removed"), "{reason}");
    stage.store.move_forward(NAME, ForwardMove::Resume(2)).await.expect("it is moved");
    stage.until_settled().await;
    assert_eq!(stage.endpoint.accepted(), [3]);
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_replay_sends_again_from_its_position_while_the_process_runs() {
    let stage = Stage::accepting();
    let running = stage.begin(settings()).await;
    stage.write(&["user_1", "user_2", "user_3", "user_4"]).await;
    stage.until_settled().await;
    stage.store.move_forward(NAME, ForwardMove::Replay(2)).await.expect("it is moved");
    until("it is sent again", || async { stage.endpoint.accepted().len() == 6 }).await;
    let mut again = stage.endpoint.accepted().split_off(4);
    again.sort_unstable();
    assert_eq!(again, [3, 4]);
    stage.until_settled().await;
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_replay_from_ahead_of_the_position_is_refused_since_changes_would_never_be_sent() {
    let stage = Stage::accepting();
    stage.begin(settings()).await.stop().await;
    stage.write(&["user_1", "user_2", "user_3"]).await;
    let replay = |after| replay(&*stage.store, &*stage.store, NAME, after);
    let refused = replay(1).await.expect_err("1 would never be sent");
    assert!(matches!(refused, ForwardError::Ahead { position: 0, after: 1 }), "{refused}");
    let refused = replay(4).await.expect_err("the feed has 3 changes");
    assert!(matches!(refused, ForwardError::Position { removed_through: 0, last: 3 }), "{refused}");
    assert_eq!(replay(0).await.expect("it is at the position"), 0);
}

#[tokio::test(start_paused = true)]
async fn a_forward_that_is_resumed_at_an_older_feed_forgets_the_changes_that_the_feed_lost() {
    let stage = Stage::new(|subject, _| {
        (Duration::ZERO, if subject == "lost" { refused(422) } else { Verdict::Accepted })
    });
    let running = stage.begin(settings()).await;
    stage.write(&["user_1", "lost"]).await;
    until("it waits", || async { stage.forward().await.waiting == 1 }).await;
    running.stop().await;
    // The same records, and a feed that has neither of the two changes yet.
    let restored = Stage::accepting();
    let resumed = resume(&*stage.store, &*restored.store, NAME).await.expect("it is resumed");
    assert_eq!(resumed, Resumed { before: 2, position: 0, is_other_feed: false });
    let waiting = stage.store.forward_changes(NAME, ForwardState::Waiting, 0, 10).await;
    assert_eq!(waiting, Ok(Vec::new()));
}

#[tokio::test(start_paused = true)]
async fn a_redriven_dead_letter_is_sent_while_the_process_runs() {
    let is_poison = Arc::new(AtomicBool::new(true));
    let poison = Arc::clone(&is_poison);
    let stage = Stage::new(move |subject, _| {
        let fails = subject == "poison" && poison.load(Ordering::Relaxed);
        (Duration::ZERO, if fails { refused(422) } else { Verdict::Accepted })
    });
    let running = stage.begin(settings()).await;
    stage.write(&["poison"]).await;
    until("it is a dead letter", || async {
        stage.write(&["user_1"]).await;
        stage.failed().await == [1]
    })
    .await;
    is_poison.store(false, Ordering::Relaxed);
    let now = stage.clock.now();
    assert_eq!(stage.store.redrive_forward(NAME, &[1], now).await, Ok(1));
    stage.until_settled().await;
    assert_eq!(stage.endpoint.accepted().iter().filter(|position| **position == 1).count(), 1);
    assert_eq!(stage.failed().await, [0; 0]);
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn one_of_two_processes_sends_and_the_other_goes_on_when_it_stops() {
    let stage = Stage::accepting();
    let first = stage.begin(settings()).await;
    let second = stage.start(settings());
    stage.write(&["user_1", "user_2"]).await;
    stage.until_settled().await;
    let delivered =
        |running: &crate::stage::Running| running.metric("rollbook_forward_deliveries_total", "delivered");
    assert_eq!((delivered(&first), delivered(&second)), (2, 0));
    first.stop().await;
    stage.write(&["user_1"]).await;
    stage.until_settled().await;
    assert_eq!(stage.endpoint.accepted().len(), 3, "nothing is sent twice");
    assert_eq!(delivered(&second), 1);
    second.stop().await;
}

#[tokio::test(start_paused = true)]
async fn the_metrics_show_position_lag_blocked_subjects_dead_letters_and_stops() {
    let stage = Stage::new(|subject, at| {
        let fails = subject == "poison" && at < Duration::from_secs(300);
        (Duration::ZERO, if fails { refused(422) } else { Verdict::Accepted })
    });
    let running = stage.begin(settings()).await;
    let metric = |name: &str| running.metric(&format!("rollbook_{name}"), NAME);
    stage.write(&["poison", "poison", "user_1"]).await;
    tokio::time::sleep(Duration::from_secs(30)).await;
    let seen = ["forward_position", "forward_blocked_subjects", "forward_waiting_changes"].map(metric);
    assert_eq!(seen, [3, 1, 2]);
    assert_eq!(["forward_dead_letters", "forward_stopped", "feed_lag_seconds"].map(metric), [0, 0, 0]);
    let stop = ForwardStop { at: stage.clock.now(), reason: "a test".to_owned() };
    running.stop().await;
    let taken = stage.store.take_forward(NAME, "test", Duration::from_secs(9), 0).await.expect("the store");
    let taken = taken.expect("it is free");
    let progress = rollbook_core::store::ForwardProgress {
        position: taken.position,
        stopped: Some(stop),
        ..Default::default()
    };
    let saved = stage.store.save_forward(NAME, taken.epoch, Duration::from_secs(9), &progress).await;
    assert_eq!(saved, Ok(true));
    let running = stage.start(settings());
    stage.write(&["user_2"]).await;
    tokio::time::sleep(Duration::from_secs(600)).await;
    let metric = |name: &str| running.metric(&format!("rollbook_{name}"), NAME);
    assert_eq!(metric("forward_stopped"), 1);
    assert!((580..=600).contains(&metric("feed_lag_seconds")), "{}", metric("feed_lag_seconds"));
    running.stop().await;
}
