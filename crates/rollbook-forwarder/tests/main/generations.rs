//! A feed that is another one than before: the store was restored.

use std::time::Duration;

use rollbook_core::store::{Changes as _, ForwardState, Forwards as _};
use rollbook_operator::forwards::{Resumed, resume};

use crate::stage::{NAME, Stage, settings, until};

#[tokio::test(start_paused = true)]
async fn a_forward_that_meets_another_generation_stops_says_so_and_goes_on_when_it_is_resumed() {
    for is_running in [true, false] {
        let stage = Stage::accepting();
        let mut running = stage.begin(settings()).await;
        stage.write(&["user_1", "user_2"]).await;
        stage.until_settled().await;
        if is_running {
            stage.store.renew_feed().await.expect("a generation");
        } else {
            running.stop().await;
            stage.store.renew_feed().await.expect("a generation");
            running = stage.start(settings());
        }
        stage.write(&["user_3"]).await;
        until("it stopped", || async { stage.forward().await.stopped.is_some() }).await;
        let reason = stage.forward().await.stopped.expect("a stop").reason;
        assert!(
            reason.starts_with("the feed is another one (0000000000000002, before 0000000000000001)"),
            "{reason}"
        );
        tokio::time::sleep(Duration::from_secs(600)).await;
        assert_eq!(stage.endpoint.accepted().len(), 2, "nothing is sent with an id of the feed before");
        let resumed = resume(&*stage.store, &*stage.store, NAME).await.expect("it is resumed");
        assert_eq!(resumed, Resumed { before: 2, position: 2, is_other_feed: true });
        stage.until_settled().await;
        let got = stage.endpoint.got();
        let last = got.last().expect("a request");
        assert_eq!((last.id.as_str(), &last.change["feed"]), ("chg_3", &"0000000000000002".into()));
        assert_eq!(stage.forward().await.generation, Some(2));
        running.stop().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_discarded_dead_letter_above_the_position_does_not_come_back() {
    let stage = Stage::new(|subject, at| match subject {
        "poison" => (Duration::ZERO, crate::stage::refused(422)),
        // It holds the position below all others.
        "hangs" if at < Duration::from_secs(60) => {
            (Duration::from_secs(29), rollbook_forwarder::Verdict::Accepted)
        }
        _ => (Duration::ZERO, rollbook_forwarder::Verdict::Accepted),
    });
    let mut forward = rollbook_forwarder::ForwardSettings { timeout: Duration::from_secs(30), ..settings() };
    (forward.retry.backoff, forward.retry.backoff_max, forward.retry.attempts_max) =
        (Duration::from_secs(1), Duration::from_secs(1), 3);
    let running = stage.begin(forward).await;
    stage.write(&["hangs", "poison", "user_1"]).await;
    until("it is a dead letter", || async {
        stage.write(&["user_1"]).await;
        stage.failed().await == [2]
    })
    .await;
    let before = stage.forward().await;
    assert_eq!(before.position, 0, "the first change is in progress");
    let of_poison = || stage.endpoint.got().iter().filter(|got| got.subject == "poison").count();
    let tries = of_poison();
    assert_eq!(stage.store.discard_forward(NAME, &[2]).await, Ok(1));
    stage.until_settled().await;
    tokio::time::sleep(Duration::from_secs(600)).await;
    assert_eq!(of_poison(), tries);
    assert_eq!(stage.failed().await, [0; 0]);
    assert_eq!(stage.store.forward_changes(NAME, ForwardState::Waiting, 0, 9).await, Ok(Vec::new()));
    running.stop().await;
}
