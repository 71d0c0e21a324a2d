//! Tests of the view.

use std::time::Duration;

use tokio::time::Instant;

use super::*;

fn asked(metrics: &str) -> Asked {
    let parts = BTreeMap::from([("queue".to_owned(), "ok".to_owned())]);
    let (status, since) = ("ok".to_owned(), BTreeMap::new());
    let answer = Ok(Scrape { metrics: Metrics::parse(metrics), status, parts, since });
    Asked { address: ([127, 0, 0, 1], 9464).into(), answer }
}

fn view(samples: &[&[&str]]) -> View {
    let start = Instant::now();
    let samples = samples.iter().zip(0_u64..).map(|(texts, number)| Sample {
        at: start + Duration::from_secs(10 * number),
        answers: texts.iter().map(|text| asked(text)).collect(),
    });
    View::of(&samples.collect(), Timestamp::from_millis(0), None)
}

#[test]
fn rates_are_summed_over_processes_and_survive_a_restart() {
    let metrics = |accepted: u32, refused: u32| {
        format!(
            "rollbook_deliveries_total{{outcome=\"queued\"}} {accepted}\nrollbook_deliveries_total{{outcome=\"bad_signature\"}} {refused}\n"
        )
    };
    let (one, two, three) = (metrics(100, 0), metrics(200, 10), metrics(50, 0));
    let shown = view(&[&[&one, &one], &[&two, &three]]);
    let deliveries = shown.deliveries.expect("a receiver");
    // 100 of the first process, and 50 since the second one started again.
    assert_eq!((deliveries.accepted_per_second, deliveries.refused_per_second), (15.0, 1.0));
    assert_eq!((shown.over_seconds, shown.applied.is_none(), shown.queue.is_none()), (10.0, true, true));
}

#[test]
fn the_time_to_empty_follows_from_the_change_of_the_depth() {
    let depth = |depth: u32| format!("rollbook_queue_depth {depth}\n");
    let queue = |from: u32, to: u32| view(&[&[&depth(from)], &[&depth(to)]]).queue.expect("a queue");
    let shrinking = queue(1_000, 800);
    assert_eq!((shrinking.change_per_second, shrinking.seconds_to_empty), (-20.0, Some(40.0)));
    assert_eq!(queue(800, 800).seconds_to_empty, None);
    assert_eq!(queue(800, 900).seconds_to_empty, None);
    assert_eq!(queue(0, 0).seconds_to_empty, Some(0.0));
}

#[test]
fn what_processes_know_of_a_queue_that_does_not_answer_is_not_shown_as_current() {
    let metrics = |up: u8, depth: u32| {
        format!(
            "rollbook_up{{part=\"queue\"}} {up}\nrollbook_queue_depth {depth}\nrollbook_dead_letters {depth}\n"
        )
    };
    let shown = |latest: &[&str]| {
        let view = view(&[&[&metrics(1, 7)], latest]);
        (view.queue.map(|queue| queue.depth), view.dead_letters)
    };
    let (lost, found) = (metrics(0, 7), metrics(1, 5));
    assert_eq!(shown(&[&lost]), (None, None));
    assert_eq!(shown(&[&lost, &found]), (Some(5.0), Some(5.0)), "of the process that it answers");
}

#[test]
fn the_p99_is_the_bound_below_which_nearly_all_new_values_are() {
    let metrics = |counts: [u32; 3]| {
        let [fast, slow, all] = counts;
        format!(
            "rollbook_deliveries_total{{outcome=\"queued\"}} {all}\nrollbook_ack_seconds_bucket{{le=\"0.1\"}} {fast}\n\
             rollbook_ack_seconds_bucket{{le=\"1\"}} {slow}\nrollbook_ack_seconds_bucket{{le=\"+Inf\"}} {all}\n"
        )
    };
    let p99 = |after| {
        let (before, after) = (metrics([50, 50, 50]), metrics(after));
        view(&[&[&before], &[&after]]).deliveries.expect("a receiver").ack_p99_seconds
    };
    assert_eq!(p99([149, 150, 150]), Some(0.1));
    assert_eq!(p99([140, 150, 150]), Some(1.0));
    assert_eq!(p99([140, 140, 150]), None, "above the last bound");
    assert_eq!(p99([50, 50, 50]), None, "no new value");
}

#[test]
fn the_last_error_stays_when_it_is_over() {
    let fine = VecDeque::from([Sample { at: Instant::now(), answers: vec![asked("")] }]);
    let silent = Asked { address: ([127, 0, 0, 1], 1).into(), answer: Err("refused".to_owned()) };
    let failing = VecDeque::from([Sample { at: Instant::now(), answers: vec![silent] }]);
    let seen = View::of(&failing, Timestamp::from_millis(0), None);
    let error = seen.last_error.clone().expect("an error");
    assert_eq!((error.part.as_deref(), error.error.as_str()), (None, "refused"));
    assert!(!seen.processes[0].answers);
    let after = View::of(&fine, Timestamp::from_millis(5), Some(error.clone()));
    assert_eq!(after.last_error, Some(error));
    assert_eq!(View::of(&fine, Timestamp::from_millis(5), None).last_error, None);
}
