//! Observability: metrics, progress, the log.

use std::sync::Arc;
use std::time::Duration;

use prometheus::TextEncoder;
use rollbook_core::catalog::{NEVER_STORED, RESOURCES, event_types};
use rollbook_core::change::Applied;
use rollbook_core::queue::QueueError;
use rollbook_core::retry::Reason;
use rollbook_core::store::StoreError;
use rollbook_core::time::{Clock as _, Timestamp};
use rollbook_core::trace::Traceparent;
use rollbook_testkit::faults::{Fault, FaultyConsumer, FaultyStore, Gate, StoreCall};
use rollbook_testkit::log::Log;
use serde_json::json;
use tokio::time::sleep;

use crate::support::{BEGIN, Bench, event, eventually, has_subject, run_until, user};

#[tokio::test(start_paused = true)]
async fn every_counter_is_there_at_zero_before_anything_happens() {
    let bench = Bench::new();
    let _worker = bench.worker();
    let zero = |name: &str| assert_eq!(bench.metric(name).as_deref(), Some("0"), "{name}");
    for resource in RESOURCES.iter().map(|resource| resource.table).chain(["none"]) {
        for outcome in Applied::ALL {
            zero(&format!(r#"rollbook_applied_total{{outcome="{outcome}",resource="{resource}"}}"#));
        }
    }
    for settlement in ["ack", "release", "postpone"] {
        zero(&format!(r#"rollbook_settlements_total{{reason="none",settlement="{settlement}"}}"#));
    }
    for reason in Reason::ALL {
        zero(&format!(r#"rollbook_settlements_total{{reason="{reason}",settlement="dead_letter"}}"#));
    }
    zero(r#"rollbook_settlements_total{reason="store_refused",settlement="retry"}"#);
    for event_type in event_types().chain(["other"]) {
        zero(&format!(r#"rollbook_events_total{{outcome="applied",type="{event_type}"}}"#));
        let failed = if NEVER_STORED.contains(&event_type) { "dropped" } else { "dead_letter" };
        zero(&format!(r#"rollbook_events_total{{outcome="{failed}",type="{event_type}"}}"#));
    }
    zero(r#"rollbook_events_total{outcome="dead_letter",type="none"}"#);
    zero(r#"rollbook_batch_size_count{stage="lease"}"#);
    zero(r#"rollbook_batch_size_count{stage="apply"}"#);
    zero("rollbook_apply_seconds_count");
    zero("rollbook_event_lag_seconds_count");
    zero("rollbook_leases_lost_total");
    zero("rollbook_sanitized_total");
    for resource in RESOURCES {
        zero(&format!(r#"rollbook_field_mismatches_total{{resource="{}"}}"#, resource.table));
    }
    let born_at = (BEGIN / 1000).to_string();
    assert_eq!(bench.metric("rollbook_worker_progress_timestamp_seconds"), Some(born_at));
}

#[tokio::test(start_paused = true)]
async fn what_happens_is_counted() {
    let bench = Bench::new();
    sleep(Duration::from_secs(3)).await;
    bench.enqueue("msg_1", user("user_1")).await;
    bench.enqueue("msg_2", user("user_1")).await;
    bench.enqueue("msg_3", event("user.deleted", &json!({"id": "user_2", "deleted": true}))).await;
    bench.enqueue("msg_4", r#"{"type":"x.y","timestamp":1785312000000,"data":{"id":"\u0000"}}"#).await;
    bench.enqueue("msg_5", event("user.updated", &json!({"id": "user_3", "banned": "perhaps"}))).await;
    bench.enqueue("msg_6", "no JSON").await;
    bench.enqueue("msg_7", r#"{"type":"user.updated","timestamp":1785312000000,"data":{}}"#).await;
    bench.enqueue("msg_8", r#"{"type":"z.w","timestamp":"never"}"#).await;
    bench.enqueue("msg_9", r#"{"type":"sms.created","timestamp":"never"}"#).await;
    run_until(bench.worker(), bench.drained()).await.expect("a clean end");

    let counts = |name: &str, count: &str| assert_eq!(bench.metric(name).as_deref(), Some(count), "{name}");
    counts(r#"rollbook_applied_total{outcome="inserted",resource="users"}"#, "2");
    counts(r#"rollbook_applied_total{outcome="unchanged",resource="users"}"#, "1");
    counts(r#"rollbook_applied_total{outcome="deleted",resource="users"}"#, "1");
    counts(r#"rollbook_applied_total{outcome="ignored",resource="none"}"#, "1");
    counts(r#"rollbook_settlements_total{reason="none",settlement="ack"}"#, "6");
    counts(r#"rollbook_events_total{outcome="applied",type="user.updated"}"#, "3");
    counts(r#"rollbook_events_total{outcome="applied",type="user.deleted"}"#, "1");
    counts(r#"rollbook_events_total{outcome="applied",type="other"}"#, "1");
    counts(r#"rollbook_events_total{outcome="dead_letter",type="none"}"#, "1");
    counts(r#"rollbook_events_total{outcome="dead_letter",type="user.updated"}"#, "1");
    counts(r#"rollbook_events_total{outcome="dead_letter",type="other"}"#, "1");
    counts(r#"rollbook_events_total{outcome="dropped",type="sms.created"}"#, "1");
    counts(r#"rollbook_settlements_total{reason="invalid_json",settlement="dead_letter"}"#, "1");
    counts("rollbook_sanitized_total", "1");
    counts(r#"rollbook_field_mismatches_total{resource="users"}"#, "1");
    counts(r#"rollbook_field_mismatches_total{resource="sessions"}"#, "0");
    counts(r#"rollbook_batch_size_count{stage="lease"}"#, "1");
    counts(r#"rollbook_batch_size_sum{stage="lease"}"#, "9");
    counts(r#"rollbook_batch_size_sum{stage="apply"}"#, "5");
    counts("rollbook_apply_seconds_count", "1");
    // Three rows changed, three seconds after their events.
    counts("rollbook_event_lag_seconds_count", "3");
    counts("rollbook_event_lag_seconds_sum", "9");
}

#[tokio::test(start_paused = true)]
async fn progress_goes_on_while_the_worker_is_idle() {
    let mut bench = Bench::new();
    bench.settings.lanes = 2;
    let worker = bench.worker();
    let progress = worker.progress();
    assert_eq!(progress.last(), Timestamp::from_millis(BEGIN));
    let watch = async {
        for _ in 0..20 {
            sleep(Duration::from_millis(3300)).await;
            let behind = bench.clock.now().since(progress.last());
            assert!(behind <= bench.settings.lease_wait, "{behind:?}");
        }
    };
    run_until(worker, watch).await.expect("a clean end");
}

#[tokio::test(start_paused = true)]
async fn progress_goes_on_while_the_gate_is_closed() {
    let mut bench = Bench::new();
    bench.settings.lanes = 3;
    bench.enqueue("msg_1", user("user_1")).await;
    let store =
        FaultyStore::new(bench.store.clone(), |_| Fault::Fail(StoreError::Unavailable("down".into())));
    let worker = bench.worker_with_store(store);
    let progress = worker.progress();
    let watch = async {
        for _ in 0..20 {
            sleep(Duration::from_millis(3300)).await;
            let behind = bench.clock.now().since(progress.last());
            assert!(behind <= Duration::from_secs(1), "{behind:?}");
        }
    };
    run_until(worker, watch).await.expect("a clean end");
}

#[tokio::test(start_paused = true)]
async fn progress_stands_still_while_one_of_the_lanes_hangs() {
    let mut bench = Bench::new();
    bench.settings.lanes = 2;
    bench.enqueue("msg_1", user("user_1")).await;
    let gate = Gate::new();
    let held = gate.clone();
    let store = FaultyStore::new(bench.store.clone(), move |call| match call {
        StoreCall::Apply(_) => Fault::Wait(held.clone()),
        _ => Fault::None,
    });
    let worker = bench.worker_with_store(store);
    let progress = worker.progress();
    let watch = async {
        gate.arrived(1).await;
        let hung_at = bench.clock.now();
        sleep(Duration::from_secs(50)).await;
        assert!(progress.last() <= hung_at);
        gate.open();
        eventually(|| bench.clock.now().since(progress.last()) <= Duration::from_secs(1)).await;
    };
    run_until(worker, watch).await.expect("a clean end");
}

#[tokio::test(start_paused = true)]
async fn a_dead_letter_is_logged_once_an_outage_once_a_minute_and_no_body_ever() {
    const SECRET: &str = "ada@example.com";
    let (log, _logging) = Log::capture_to(tracing::Level::TRACE);

    let bench = Bench::new();
    let data = json!({"id": "user_1", "first_name": SECRET});
    bench.enqueue("msg_1", event("user.updated", &data)).await;
    bench.enqueue("msg_2", event("user.updated", &json!({"email": SECRET}))).await;
    bench.enqueue("msg_3", format!("{{\"{SECRET}\"")).await;
    let deep = format!("{}\"{SECRET}\"{}", "[".repeat(200), "]".repeat(200));
    bench.enqueue("msg_4", format!("{{\"type\":\"email.created\",\"data\":{deep}}}")).await;
    let down_until = bench.clock.now().plus(Duration::from_secs(300));
    let clock = Arc::clone(&bench.clock);
    let store = FaultyStore::new(bench.store.clone(), move |_| {
        let error = StoreError::Deployment("no table users".into());
        if clock.now() < down_until { Fault::Fail(error) } else { Fault::None }
    });
    run_until(bench.worker_with_store(store), bench.drained()).await.expect("a clean end");

    let [no_id, no_json] = &log.lines_with("became a dead letter")[..] else { panic!("two dead letters") };
    for part in ["WARN", "msg_2", "user.updated", "attempt=1", "missing_id", "data has no usable id"] {
        assert!(no_id.contains(part), "{part} in {no_id}");
    }
    assert!(no_json.contains("invalid_json"), "{no_json}");
    let [dropped] = &log.lines_with("dropped: ")[..] else { panic!("one is dropped") };
    assert!(dropped.contains("WARN") && dropped.contains("msg_4"), "{dropped}");
    let outage = log.lines_with("the store needs manual action");
    assert!((4..=6).contains(&outage.len()), "an outage of five minutes: {outage:?}");
    for part in ["ERROR", "see the error", "no table users", "outage_seconds="] {
        assert!(outage.iter().all(|line| line.contains(part)), "{part} in {outage:?}");
    }
    assert_eq!(log.lines_with("the store applies again").len(), 1);
    assert!(log.lines_with(SECRET).is_empty());
    let metrics = TextEncoder::new().encode_to_string(&bench.registry.gather()).expect("metrics are text");
    assert!(!metrics.contains(SECRET) && !metrics.contains("msg_"));
}

#[tokio::test(start_paused = true)]
async fn fields_that_do_not_fit_are_logged_by_name_without_a_value_and_one_line_a_minute_for_a_table() {
    const SECRET: &str = "ada@example.com";
    let (log, _logging) = Log::capture_to(tracing::Level::TRACE);
    let bench = Bench::new();
    for number in 1..=3 {
        let data = json!({
            "id": format!("user_{number}"), "first_name": [SECRET], "banned": SECRET, "external_id": SECRET.repeat(200),
            "last_sign_in_at": 1e300,
        });
        bench.enqueue(&format!("msg_{number}"), event("user.updated", &data)).await;
    }
    bench.enqueue("msg_4", event("session.created", &json!({"id": "sess_1", "user_id": 7}))).await;
    run_until(bench.worker(), bench.drained()).await.expect("a clean end");

    let lines = log.lines_with("do not fit their columns");
    let [users] = &lines.iter().filter(|line| line.contains("users")).collect::<Vec<_>>()[..] else {
        panic!("one line about users: {lines:?}")
    };
    for part in [
        "WARN",
        "subject=\"user_",
        "svix_id=msg_",
        "user.updated",
        "first_name: a list in place of a text",
        "banned: a text in place of true or false",
        "external_id: a text of more than 2000 bytes",
        "last_sign_in_at: a number outside of the range of the column",
    ] {
        assert!(users.contains(part), "{part} in {users}");
    }
    assert_eq!(lines.len(), 2, "and one about sessions: {lines:?}");
    assert!(lines.iter().any(|line| line.contains("user_id: a number in place of a text")), "{lines:?}");
    assert!(log.lines_with(SECRET).is_empty());
}

#[tokio::test(start_paused = true)]
async fn every_line_about_a_delivery_that_came_in_a_trace_names_the_trace_and_no_other_line_does() {
    const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
    let (log, _logging) = Log::capture_to(tracing::Level::DEBUG);

    let mut bench = Bench::new();
    bench.settings.retry.attempts_max = 3;
    let traceparent = Traceparent::parse(format!("00-{TRACE}-00f067aa0ba902b7-01").as_bytes());
    assert!(traceparent.is_some());
    for (kind, traceparent) in [("traced", traceparent), ("plain", None)] {
        bench.enqueue_traced(&format!("msg_{kind}_suspect"), user("user_1"), traceparent).await;
    }
    // Two workers that died with them.
    for _ in 0..2 {
        assert_eq!(bench.lease_now().await.len(), 2);
        sleep(bench.settings.lease_for).await;
    }
    for (kind, traceparent) in [("traced", traceparent), ("plain", None)] {
        let one_time = r#"{"type":"sms.created","timestamp":"never"}"#;
        bench.enqueue_traced(&format!("msg_{kind}_good"), user("user_1"), traceparent).await;
        bench.enqueue_traced(&format!("msg_{kind}_bad"), user(&format!("bad_{kind}")), traceparent).await;
        bench.enqueue_traced(&format!("msg_{kind}_dropped"), one_time, traceparent).await;
    }
    let store = FaultyStore::new(bench.store.clone(), |call| match call {
        StoreCall::Apply(changes)
            if has_subject(changes, "bad_traced") || has_subject(changes, "bad_plain") =>
        {
            Fault::Fail(StoreError::Event("refused".into()))
        }
        _ => Fault::None,
    });
    run_until(bench.worker_with_store(store), bench.drained()).await.expect("a clean end");

    for (line, message) in [
        ("in isolation", "suspect"),
        ("applied", "good"),
        ("it is tried again", "bad"),
        ("became a dead letter", "bad"),
        ("dropped: ", "dropped"),
    ] {
        let lines = log.lines_with(line);
        let line_of = |id: &str| {
            lines.iter().find(|line| line.contains(id)).unwrap_or_else(|| panic!("{line} of {id}"))
        };
        assert!(
            line_of(&format!("msg_traced_{message}")).contains(&format!("trace_id={TRACE}")),
            "{lines:?}"
        );
        assert!(!line_of(&format!("msg_plain_{message}")).contains("trace_id"), "{lines:?}");
    }
    assert!(log.lines_with(TRACE).iter().all(|line| line.contains("msg_traced")));
}

#[tokio::test(start_paused = true)]
async fn a_thousand_dead_letters_of_one_reason_are_two_warnings() {
    let (log, _logging) = Log::capture();
    let bench = Bench::new();
    for number in 0..1_000 {
        bench.enqueue(&format!("msg_{number}"), "no JSON").await;
    }
    bench.enqueue("msg_no_id", event("user.updated", &json!({}))).await;
    run_until(bench.worker(), bench.drained()).await.expect("a clean end");
    assert_eq!(bench.queue.dead().len(), 1_001);
    let detailed = log.lines_with("became a dead letter");
    assert_eq!(detailed.len(), 2, "one of each reason: {detailed:?}");
    let [sum] = &log.lines_with("more messages became dead letters")[..] else { panic!("one sum") };
    for part in ["WARN", "invalid_json", "messages=999", "rollbook dead-letters summary"] {
        assert!(sum.contains(part), "{part} in {sum}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_outage_of_the_queue_is_logged_once_a_minute_for_all_lanes() {
    let (log, _logging) = Log::capture();

    let mut bench = Bench::new();
    bench.settings.lanes = 3;
    bench.enqueue_users(0..3).await;
    let (clock, down_until) = (Arc::clone(&bench.clock), bench.clock.now().plus(Duration::from_secs(300)));
    let queue = FaultyConsumer::new(bench.queue.clone(), move |_| {
        let error = QueueError::Unavailable("refused".into());
        if clock.now() < down_until { Fault::Fail(error) } else { Fault::None }
    });
    run_until(bench.worker_with_queue(queue), bench.drained()).await.expect("a clean end");
    let outage = log.lines_with("queue unreachable");
    assert!((4..=6).contains(&outage.len()), "an outage of five minutes: {outage:?}");
    for part in ["WARN", "refused", "outage_seconds="] {
        assert!(outage.iter().all(|line| line.contains(part)), "{part} in {outage:?}");
    }
    assert_eq!(log.lines_with("the queue answers again").len(), 1);
}
