//! An endpoint that is down, slow, or asks for a pause.

use std::collections::HashSet;
use std::time::Duration;

use rollbook_core::store::Changes as _;
use rollbook_forwarder::{ForwardSettings, Verdict};

use crate::stage::{Stage, by_subject, position, refused, settings};

const HOUR: Duration = Duration::from_secs(3_600);

/// Verdicts of endpoints that are down, each in its way, and how long an answer takes.
fn outages() -> [(Duration, Verdict); 4] {
    [
        (Duration::ZERO, Verdict::Unreachable("127.0.0.1:1 is unreachable".to_owned())),
        (Duration::ZERO, refused(500)),
        (Duration::from_secs(60), Verdict::Accepted),
        (Duration::ZERO, Verdict::Refused { status: 503, pause: Some(Duration::from_secs(30)) }),
    ]
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_that_is_down_for_an_hour_gets_everything_afterwards_in_order() {
    for down in outages() {
        let answer = down.clone();
        let stage = Stage::new(move |_, at| {
            if at < HOUR { answer.clone() } else { (Duration::from_millis(5), Verdict::Accepted) }
        });
        let running = stage.begin(settings()).await;
        let subjects: Vec<String> = (0..300).map(|number| format!("user_{}", number % 150)).collect();
        stage.write(&subjects.iter().map(String::as_str).collect::<Vec<_>>()).await;
        tokio::time::sleep(HOUR / 2).await;
        stage.write(&["user_1", "user_149", "user_new"]).await;
        stage.until_settled().await;
        let got = stage.endpoint.got();
        let accepted: HashSet<_> = stage.endpoint.accepted().into_iter().collect();
        assert_eq!(accepted.len(), 303, "{down:?}");
        assert!(by_subject(&got).values().all(|positions| positions.is_sorted()), "{down:?}");
        assert_eq!(stage.failed().await, [0; 0], "{down:?}: an outage makes no dead letter");
        let last = got.iter().map(|got| got.at).max().expect("requests");
        assert!(last < HOUR + Duration::from_secs(620), "{down:?}: {last:?}");
        running.stop().await;
    }
}

#[tokio::test(start_paused = true)]
async fn too_many_blocked_subjects_stop_the_reading_until_the_endpoint_is_up() {
    let stage = Stage::new(|_, at| {
        let verdict = if at < HOUR { refused(502) } else { Verdict::Accepted };
        (Duration::ZERO, verdict)
    });
    let running = stage.begin(ForwardSettings { blocked_max: 20, ..settings() }).await;
    let subjects: Vec<String> = (0..1_700).map(|number| format!("user_{number}")).collect();
    stage.write(&subjects.iter().map(String::as_str).collect::<Vec<_>>()).await;
    tokio::time::sleep(HOUR / 2).await;
    let forward = stage.forward().await;
    // The changes that were open when the limit was reached fail too.
    assert!((20..=1_500).contains(&forward.blocked), "{forward:?}");
    assert!(forward.position < 1_700, "{forward:?}");
    let asked: HashSet<String> = stage.endpoint.got().into_iter().map(|got| got.subject).collect();
    assert!(asked.len() <= 1_500, "{}", asked.len());
    stage.until_settled().await;
    assert_eq!(stage.endpoint.accepted().len(), 1_700);
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn retry_after_holds_the_forward_for_as_long_as_it_asks() {
    let pause = Some(Duration::from_secs(300));
    let stage = Stage::new(move |subject, at| {
        let is_first = at < Duration::from_secs(2);
        let verdict = if is_first && subject == "user_1" {
            Verdict::Refused { status: 429, pause }
        } else {
            Verdict::Accepted
        };
        (Duration::ZERO, verdict)
    });
    let running = stage.begin(ForwardSettings { concurrency: 1, ..settings() }).await;
    stage.write(&["user_1", "user_2", "user_3"]).await;
    stage.until_settled().await;
    let got = stage.endpoint.got();
    let pauses: Vec<Duration> = got.windows(2).map(|pair| pair[1].at.saturating_sub(pair[0].at)).collect();
    assert!(pauses[0] >= Duration::from_secs(300), "{pauses:?}");
    assert!(pauses[0] < Duration::from_secs(310), "{pauses:?}");
    assert_eq!(got[0].id, "chg_1");
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_that_hangs_gets_the_change_again_after_the_time_limit_with_the_same_id() {
    let stage = Stage::new(|_, at| {
        let delay = if at < Duration::from_secs(30) { HOUR } else { Duration::ZERO };
        (delay, Verdict::Accepted)
    });
    let running = stage.begin(settings()).await;
    stage.write(&["user_1"]).await;
    stage.until_settled().await;
    let got = stage.endpoint.got();
    assert_eq!((got.len(), position(&got[0].id)), (1, 1), "the others were dropped");
    assert!(running.metric("rollbook_forward_deliveries_total", "timeout") >= 2);
    assert_eq!(stage.store.feed().await.expect("a feed").last, 1);
    running.stop().await;
}
