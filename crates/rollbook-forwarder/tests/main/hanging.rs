//! Objects at which the endpoint hangs or is slow, next to healthy ones.

use std::collections::HashSet;
use std::time::Duration;

use rollbook_forwarder::{ForwardSettings, Verdict};

use crate::stage::{Stage, settings, until};

fn names(prefix: &str, count: usize) -> Vec<String> {
    (0..count).map(|number| format!("{prefix}_{number}")).collect()
}

async fn write(stage: &Stage, names: &[String]) {
    stage.write(&names.iter().map(String::as_str).collect::<Vec<_>>()).await;
}

#[tokio::test(start_paused = true)]
async fn a_hundred_objects_at_which_the_endpoint_hangs_hold_up_no_healthy_one() {
    let stage = Stage::new(|subject, _| {
        let delay = if subject.starts_with("hangs") { 3_600 } else { 0 };
        (Duration::from_secs(delay), Verdict::Accepted)
    });
    let settings = ForwardSettings { give_up_after: Duration::from_secs(30 * 86_400), ..settings() };
    let running = stage.begin(settings).await;
    write(&stage, &names("hangs", 100)).await;
    until("each of them was tried", || async { stage.forward().await.waiting == 100 }).await;
    let healthy = names("healthy", 90);
    let began = stage.began();
    write(&stage, &healthy).await;
    until("the healthy ones are delivered", || async { stage.endpoint.accepted().len() == 90 }).await;
    let took = stage.began().saturating_sub(began);
    assert!(took < Duration::from_secs(2), "half of the requests are left for them: {took:?}");
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn new_changes_without_end_hold_up_no_retry() {
    let stage = Stage::new(|subject, at| {
        let verdict = if subject == "late" && at < Duration::from_secs(5) {
            crate::stage::refused(500)
        } else {
            Verdict::Accepted
        };
        (Duration::from_secs(1), verdict)
    });
    let running = stage.begin(ForwardSettings { concurrency: 2, ..settings() }).await;
    stage.write(&["late"]).await;
    write(&stage, &names("user", 600)).await;
    until("the retry is accepted", || async {
        stage.endpoint.got().iter().any(|got| got.subject == "late" && got.verdict == Verdict::Accepted)
    })
    .await;
    assert!(stage.began() < Duration::from_secs(30), "{:?}", stage.began());
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn one_slow_object_with_2_000_changes_holds_up_no_other_one_and_stays_in_order() {
    let stage = Stage::new(|subject, _| {
        let delay = if subject == "slow" { 2 } else { 0 };
        (Duration::from_secs(delay), Verdict::Accepted)
    });
    let running = stage.begin(settings()).await;
    stage.write(&vec!["slow"; 2_000]).await;
    let healthy = names("user", 90);
    write(&stage, &healthy).await;
    until("the others are delivered", || async {
        let got = stage.endpoint.got();
        got.iter().map(|got| &got.subject).collect::<HashSet<_>>().len() == 91
    })
    .await;
    assert!(stage.began() < Duration::from_secs(30), "{:?}", stage.began());
    stage.until_settled().await;
    let slow = crate::stage::by_subject(&stage.endpoint.got()).remove("slow").expect("its changes");
    assert_eq!(slow, (1..=2_000).collect::<Vec<_>>());
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_kill_repeats_only_what_was_delivered_since_the_last_save() {
    let stage = Stage::new(|subject, at| {
        let delay = if subject == "hangs" && at < Duration::from_secs(25) { 3_600 } else { 0 };
        (Duration::from_secs(delay), Verdict::Accepted)
    });
    let settings = || ForwardSettings { timeout: Duration::from_secs(30), ..settings() };
    let running = stage.begin(settings()).await;
    stage.write(&["hangs"]).await;
    write(&stage, &names("user", 900)).await;
    until("the others are delivered", || async { stage.endpoint.accepted().len() == 900 }).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(stage.forward().await.position, 0, "the first change is in progress");
    running.kill().await;
    let running = stage.start(settings());
    stage.until_settled().await;
    assert_eq!(stage.endpoint.accepted().len(), 901, "nothing is sent twice");
    running.stop().await;
}

/// Longest time for which `count` objects at which the endpoint hangs for the first time hold up others, as `ops/FORWARDS.md`
/// states it.
fn stated(count: usize, settings: &ForwardSettings) -> Duration {
    let ForwardSettings { timeout, concurrency, slow_max, .. } = settings;
    let count = u32::try_from(count).expect("few");
    let each = |times: Duration, requests: usize| times * count / u32::try_from(requests).expect("few");
    each(Duration::from_secs(1), concurrency / 2).max(each(*timeout, concurrency / 2 + slow_max))
}

/// Writes these objects at once. Returns the time until all healthy ones are delivered, and the most requests at once.
async fn healthy_after(objects: &[String], settings: ForwardSettings) -> (Duration, usize) {
    let stage = Stage::new(|subject, _| {
        let delay = if subject.starts_with("hangs") { 3_600 } else { 0 };
        (Duration::from_secs(delay), Verdict::Accepted)
    });
    let running = stage.begin(settings).await;
    let began = stage.began();
    write(&stage, objects).await;
    let healthy = objects.iter().filter(|name| name.starts_with("healthy")).count();
    until("the healthy ones are delivered", || async { stage.endpoint.accepted().len() >= healthy }).await;
    let took = stage.began().saturating_sub(began);
    running.stop().await;
    (took, stage.endpoint.most_open())
}

#[tokio::test(start_paused = true)]
async fn objects_at_which_the_endpoint_hangs_for_the_first_time_hold_up_healthy_ones_no_longer_than_stated() {
    let (hanging, healthy) = (names("hangs", 200), names("healthy", 1_000));
    let mixed = healthy.chunks(5).zip(&hanging).flat_map(|(five, one)| [five, std::slice::from_ref(one)]);
    let orders = [
        [hanging.clone(), healthy.clone()].concat(),
        mixed.flatten().cloned().collect(),
        [healthy.clone(), hanging.clone()].concat(),
    ];
    let limits = [(8, 10, 64), (8, 10, 8), (4, 30, 200)];
    for (concurrency, timeout, slow_max) in limits {
        for objects in &orders {
            let timeout = Duration::from_secs(timeout);
            let settings = ForwardSettings { concurrency, timeout, slow_max, ..settings() };
            let limit = stated(hanging.len(), &settings);
            let (took, most) = healthy_after(objects, settings).await;
            let case = format!("{} first, {concurrency} {timeout:?} {slow_max}", objects[0]);
            assert!(took <= limit, "{case}: {took:?} of {limit:?}");
            assert!(most <= concurrency + slow_max, "{case}: {most} requests at once");
        }
    }
    // The control: without room in addition to concurrency, each takes all of its time.
    let settings = ForwardSettings { slow_max: 0, ..settings() };
    let (took, most) = healthy_after(&orders[0], settings).await;
    assert!(took >= Duration::from_secs(200) && most == 8, "{took:?} {most}");
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_that_is_slow_at_everything_or_down_gets_one_request_more_than_concurrency() {
    for delay in [2, 3_600] {
        let stage = Stage::new(move |_, _| (Duration::from_secs(delay), Verdict::Accepted));
        let running = stage.begin(settings()).await;
        write(&stage, &names("user", 200)).await;
        until("all were tried", || async {
            let forward = stage.forward().await;
            stage.endpoint.accepted().len() == 200 || forward.waiting == 200
        })
        .await;
        assert_eq!(stage.endpoint.most_open(), settings().concurrency + 1, "answers after {delay} s");
        running.stop().await;
    }
}
